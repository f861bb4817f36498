"""Whether the reward model still tells the better of two answers of the policy, by `ppo.judge`, while PPO trains."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.pairs import pair_accuracy
from icegrt_jax.hosts import sync
from icegrt_jax.runs import generation, judging, loop, scoring
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.alarms import REWARD_CHECK
from icegrt_jax.training.rewards import verdicts

# Of an iteration: the scores and texts of several answers to each of these questions, those of one neighbours.
Answered = tuple[np.ndarray, Sequence[str], judging.Questions]


@dataclasses.dataclass(frozen=True)
class RewardCheck:
    """Writes every so many iterations the share of pairs that it orders as the judge does.

    Attributes:
      every: iterations. answered: the answers that are looked at.
    """

    every: int
    answered: Callable[[loop.Outcome], Answered]

    def begin(self, step: int | None) -> bool:
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if step % self.every:
            return False
        scores, texts, asked = self.answered(outcome)
        group = len(texts) // max(len(asked), 1)
        places = [i for i in range(len(texts)) if asked.judges[i // group] is not None]
        grades = asked.chosen(i // group for i in places).grade([texts[i] for i in places])
        gold = [grade["gold"] for grade in grades]
        found = pair_accuracy(np.asarray(scores)[places], gold, [i // group for i in places]) if places else None
        if found is not None:
            names = (REWARD_CHECK, f"{REWARD_CHECK}_low", f"{REWARD_CHECK}_high", "reward_check/pairs")
            write(dict(zip(names, found, strict=True)))
        return False


def of_rollouts(ppo: PPOOptions) -> RewardCheck:
    """On the answers of the iteration itself, of which there are several to each prompt."""

    def answered(outcome: loop.Outcome) -> Answered:
        asked = outcome.more.asked
        one_each = asked.chosen(range(0, len(asked), ppo.samples_per_prompt))
        return outcome.metrics["score_histogram"], outcome.more.responses, one_each

    return RewardCheck(ppo.alarms.reward_every, answered)


def of_heldout(run: Run, ppo: PPOOptions, domain: str, reader: scoring.Reader | None) -> RewardCheck:
    """On `ppo.alarms.reward_k` answers to each prompt of `ppo.heldout`, drawn as the rollouts, with the same keys."""
    longest, judge_of = run.lengths.max_prompt_length, judging.of_ppo(ppo, domain)
    asked, _ = judging.fitting(run.load(ppo.heldout, Prompt), judge_of, run.tokenizer, longest, ppo.heldout_limit)
    if not asked:
        raise UserError(f"ppo.heldout: no prompt of at most max_prompt_length={longest} tokens is left.")
    sampler = sampler_for(run.tokenizer, ppo, run.lengths.max_response_length)

    def answered(outcome: loop.Outcome) -> Answered:
        state, prompts = outcome.state, list(asked.prompts)
        out = generation.generate(
            run, state.model("policy"), state.full("policy"), [prompt.prompt for prompt in prompts],
            run.key("reward_check"), sampler, batch_size=ppo.batch_size, num_samples=ppo.alarms.reward_k,
        )  # fmt: skip
        params = shard_tree(state.full("reward"), run.mesh)
        with jax.set_mesh(run.mesh):
            scores = scoring.score_generation(reader, params, state.model("reward"), prompts, out, ppo.batch_size)
            return np.asarray(sync.fetch(verdicts(state, jnp.asarray(scores)))), out.text, asked

    return RewardCheck(ppo.alarms.reward_every, answered)


def make(run: Run, ppo: PPOOptions, domain: str, reader: scoring.Reader | None) -> tuple[RewardCheck, ...]:
    """The check that the section asks for, or nothing."""
    if not ppo.alarms.reward_every:
        return ()
    return (of_rollouts(ppo) if ppo.samples_per_prompt > 1 else of_heldout(run, ppo, domain, reader),)


def ranked(run: Run) -> float | None:
    """The reward model's accuracy on its held-out rankings, a mean over the sources; None where it has none."""

    def read() -> float | None:
        path = run.folder("reward") / "done.json"
        measured = files.read_json(path).get("heldout", {}) if path.is_file() else {}
        found = [value for name, value in measured.items() if name.endswith("/accuracy")]
        return float(np.mean(found)) if found else None

    return sync.from_main("ppo: the reward model's accuracy is looked for", read)
