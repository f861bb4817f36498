"""What the iterations of PPO read: prompts with who judges the answers, and rows to replay."""

import dataclasses
from collections.abc import Mapping, Sequence

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.data.pipeline import Batches, prompt_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt
from icegrt_jax.runs import judging
from icegrt_jax.runs.session import Session


@dataclasses.dataclass(frozen=True)
class Data:
    """Batches for all iterations.

    Attributes:
      asked: the records that a batch's `index` counts, and their judges.
      prompts: batches of them. replay: batches of supervised rows, or None.
      report: {source: counts} of what was kept, cut and dropped.
      redraw: an iteration asks for its prompts itself.
    """

    asked: judging.Questions
    prompts: Batches
    replay: Batches | None
    report: dict
    redraw: bool = False

    def batch(self, step: int) -> tuple[dict | None, dict | None]:
        """The prompts of an iteration, None where it draws them itself, and its replay rows or None."""
        prompts = None if self.redraw else self.prompts[step - 1]
        return prompts, None if self.replay is None else self.replay[step - 1]


def prepare(
    run: Session,
    ppo: PPOOptions,
    sources: Mapping[str, Sequence[Prompt]],
    replayed: Mapping[str, Sequence[Instruction]],
    judge_of: judging.JudgeOf,
) -> Data:
    """Lays out the records of each source; those to replay are read where `ppo.ptx.coef` is not 0."""
    prompts = prompt_batches(
        sources,
        ppo.weights,
        run.tokenizer,
        batch_size=ppo.batch_size,
        max_prompt_length=run.lengths.max_prompt_length,
        seed=run.data_seed("ppo"),
        overlong=run.lengths.overlong_prompts,
        share=run.share,
    )
    report, replay = dict(prompts.report), None
    if ppo.ptx.coef:
        replay = sft_batches(
            replayed,
            ppo.ptx.weights,
            run.tokenizer,
            batch_size=ppo.ptx.batch_size,
            length=ppo.ptx.length,
            seed=run.data_seed("replay"),
            overlong="drop",
            share=run.share,
        )
        report |= {f"ptx {name}": counts for name, counts in replay.report.items()}
    return Data(judging.questions(sources, judge_of), prompts, replay, report, bool(ppo.redraw))
