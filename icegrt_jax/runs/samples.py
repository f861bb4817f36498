"""What PPO keeps of its answers while it trains: some rollouts token by token, and the same prompts answered again."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from icegrt_jax import files
from icegrt_jax.config.options import DrawOptions
from icegrt_jax.data.records import Messages, Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.hosts import sync
from icegrt_jax.runs import generation, iteration, loop
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.sampling.generate import NotFinite

KEPT = 4  # rollouts written at a time
ROLLOUTS, FOLLOWED = "samples.jsonl", "followed.jsonl"
DIGITS = 4  # of a token's numbers
CANDIDATES = 4  # looked at for each prompt that is followed: some are longer than a prompt may be


@dataclasses.dataclass(frozen=True)
class Samples:
    """Writes some rollouts of every `every`-th iteration, the first and the last to samples.jsonl.

    Of each token there are its text, `kl` (its log-prob less the reference's, nats), `advantages` as the policy learns
    from them and, with a critic, `values`.
    """

    folder: pathlib.Path
    every: int
    last: Callable[[], int]
    tokenizer: ChatTokenizer

    def begin(self, step: int | None) -> bool:
        if sync.is_main():
            files.cut_jsonl(self.folder / ROLLOUTS, step)
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if step % self.every and step not in (1, self.last()):
            return False
        tokens = sync.fetch(token_arrays(outcome.more))
        if sync.is_main():
            rows = sample_rows(step, outcome.more, outcome.metrics, tokens, self.tokenizer)
            files.append_jsonl(self.folder / ROLLOUTS, rows)
            write({"samples/rollout": "\n\n---\n\n".join(map(_as_text, rows))})
        return False


def token_arrays(sampled: iteration.Sampled) -> dict[str, Any]:
    """[B, T] of each response token: its id, whether it is there, its log-probs and what is learned from it."""
    made = sampled.experience
    found = {
        "tokens": sampled.rollout.responses, "mask": sampled.rollout.mask, "old_logprobs": made.old_logprobs,
        "ref_logprobs": made.ref_logprobs, "advantages": made.advantages,
    }  # fmt: skip
    return found if made.values is None else {**found, "values": made.values}


def sample_rows(
    step: int, sampled: iteration.Sampled, metrics: dict[str, Any], tokens: dict[str, np.ndarray], decode: ChatTokenizer
) -> list[dict[str, Any]]:
    """The first rollouts with their raw scores: the reward model's, and by name those of the reward functions."""
    scores, rows = metrics.get("score_histogram"), []
    for i in range(min(KEPT, len(sampled.responses))):
        row = {"step": step, "prompt": list(sampled.records[i].prompt), "response": sampled.responses[i]}
        score = {} if scores is None else {"score": float(scores[i])}
        rewards = {"rewards": sampled.answer.of(i)} if sampled.answer.values else {}
        there = tokens["mask"][i]
        of_tokens: dict[str, Any] = {
            "tokens": decode.pieces(tokens["tokens"][i][there]),
            "kl": rounded((tokens["old_logprobs"][i] - tokens["ref_logprobs"][i])[there]),
            **{name: rounded(tokens[name][i][there]) for name in ("advantages", "values") if name in tokens},
        }
        rows.append({**row, **score, **rewards, **of_tokens})
    return rows


def rounded(values: np.ndarray) -> list[float]:
    """Numbers with as many digits as one looks at."""
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _as_text(row: dict[str, Any]) -> str:
    """A rollout as TensorBoard shows it."""
    scores = {**({"score": row["score"]} if "score" in row else {}), **row.get("rewards", {})}
    number = lambda value: "none" if value is None else f"{value:.4g}"  # a function may have no opinion
    said = ", ".join(f"{name} {number(value)}" for name, value in scores.items())
    return f"{row['prompt'][-1]['content']}\n\n**{said}**\n\n{row['response']}"


class Followed:
    """Answers the same prompts again as PPO goes on, greedily, and writes that to followed.jsonl.

    After the first iteration, the second, the fourth and so on, and after the last: a run of 300 answers ten times.

    Args:
      prompts: their messages. last: gives the last iteration.
    """

    def __init__(self, run: Run, prompts: Sequence[Messages], last: Callable[[], int]):
        self._run, self._prompts, self._last = run, prompts, last

    @property
    def _path(self) -> pathlib.Path:
        return self._run.folder("ppo") / FOLLOWED

    def begin(self, step: int | None) -> bool:
        if sync.is_main():
            files.cut_jsonl(self._path, step)
        return False

    def after(self, step: int, outcome: loop.Outcome, write: loop.Write) -> bool:
        if step & (step - 1) and step != self._last():
            return False
        run, state = self._run, outcome.state
        greedy = sampler_for(run.tokenizer, DrawOptions(temperature=0.0), run.lengths.max_response_length)
        try:
            out = generation.generate(
                run, state.model("policy"), state.full("policy"), self._prompts, run.key("heldout"), greedy,
                batch_size=len(self._prompts),
            )  # fmt: skip
        except NotFinite:
            return False  # a step that has ruined the policy is refused, by name, where it would be saved
        if sync.is_main():
            lengths = out.mask.sum(axis=1)
            rows = [
                {"step": step, "place": i, "prompt": list(prompt), "response": text, "length": int(lengths[i])}
                for i, (prompt, text) in enumerate(zip(self._prompts, out.text, strict=True))
            ]
            files.append_jsonl(self._path, rows)
        return False


def followed(run: Run, prompts: Sequence[Prompt], count: int, last: Callable[[], int]) -> tuple[Followed, ...]:
    """The watcher of so many prompts, spread over these; none where none is to be followed, or none fits."""
    places = dict.fromkeys(np.linspace(0, len(prompts) - 1, CANDIDATES * count).round().astype(int).tolist())
    asked = [prompts[i].prompt for i in places] if len(prompts) else []
    fit = [prompt for prompt in asked if len(run.tokenizer.encode_prompt(prompt)) <= run.lengths.max_prompt_length]
    chosen = [fit[i] for i in dict.fromkeys(np.linspace(0, len(fit) - 1, count).round().astype(int))] if fit else []
    return (Followed(run, chosen, last),) if chosen else ()
