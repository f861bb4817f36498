"""ICE-Reward's scores of what the policy wrote, also where the two have different tokenizers.

With the policy's own tokenizer the reward model reads the ids that were sampled. With another one (see
`data.tokenizers.same_tokenizer`) it reads text: responses are decoded, put behind the prompt's messages by
the reward model's chat template, and tokenised again, on the host.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from icegrt_jax.config.options import RewardOptions
from icegrt_jax.data.encode import cut_prompt, fit_answers
from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import Messages, Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer, load_tokenizer, same_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.members import Members
from icegrt_jax.models.vocabulary import check_tokenizer
from icegrt_jax.runs.rundir import Run
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling import Rollout
from icegrt_jax.sampling.generate import Generation, decode_responses
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.training.buckets import bucketed
from icegrt_jax.training.forward import answer_scores
from icegrt_jax.training.restore import finished
from icegrt_jax.training.rewards import verdicts
from icegrt_jax.training.state import TrainState

compiled_scores = functools.partial(jax.jit, static_argnames="config")(answer_scores)


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a reward model with a tokenizer of its own reads answers.

    Attributes:
      tokenizer: the reward model's.
      length: tokens of prompt and answer at most; what is longer loses its end.
    """

    tokenizer: ChatTokenizer
    length: int

    def read(
        self, prompts: Sequence[Messages], answers: Sequence[str], finished: Sequence[bool]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Tokens i32[B, L] and mask bool[B, L], right-padded, and the number of rows that lost their end."""
        rows, cut = fit_answers(prompts, answers, finished, self.tokenizer, self.length)
        width = bucketed(max(map(len, rows)), self.length)
        return *right_pad(rows, width, self.tokenizer.pad_id), cut

    def count(self, prompts: Sequence[Messages]) -> dict[str, int]:
        """What data.json says of prompts; those that leave no room for an answer all get the same score.

        Raises UserError for a prompt that the chat template refuses.
        """
        sizes = [len(self.tokenizer.encode_answer(prompt, "", finished=False)[0]) for prompt in prompts]
        no_room = sum(size >= self.length for size in sizes)
        return {"prompts": len(sizes), "longest": max(sizes, default=0), "no_room": no_room}


def make_reader(run: Session, tokenizer: ChatTokenizer, reward: RewardOptions) -> Reader | None:
    """How the reward model reads with `tokenizer`; None where it takes the policy's ids as they are."""
    return None if same_tokenizer(tokenizer, run.tokenizer) else Reader(tokenizer, reward.text_length)


def load_reader(run: Run, reward: RewardOptions) -> Reader | None:
    """How the finished reward stage's model reads; None where it takes the policy's ids as they are."""
    folder = run.folder("reward")
    done = finished(folder)
    if done["same_tokenizer"]:
        return None
    tokenizer = load_tokenizer(folder / "tokenizer")
    check_tokenizer(tokenizer, done["models"]["reward"]["vocab_size"], f"{folder} with {folder / 'tokenizer'}")
    return make_reader(run, tokenizer, reward)


def score_generation(
    reader: Reader | None,
    params: dict | Members,
    model: ModelConfig,
    prompts: Sequence[Prompt],
    out: Generation,
    batch_size: int,
) -> np.ndarray:
    """Scores f32[N·K] of K sampled answers to each of N prompts; of several reward models f32[N·K, M]."""
    if reader is None:
        tokens = np.concatenate([out.prompts, out.tokens], axis=1)
        mask = np.concatenate([out.prompt_mask, out.mask], axis=1)
    else:
        k = len(out.text) // len(prompts)
        messages = [prompt.prompt for prompt in prompts for _ in range(k)]
        tokens, mask, cut = reader.read(messages, out.text, out.finished.tolist())
        if cut:
            print(f"reward  {cut} of {len(out.text)} answers lost their end at {reader.length} tokens", flush=True)
    return scores_of(params, model, tokens, mask, batch_size)


def scores_of(
    params: dict | Members, model: ModelConfig, tokens: np.ndarray, mask: np.ndarray, batch_size: int
) -> np.ndarray:
    """Scores f32[N] of rows i32[N, L], padded on either side, so many at a time; of several models f32[N, M]."""
    parts = [
        compiled_scores(params, config=model, tokens=tokens[i : i + batch_size], mask=mask[i : i + batch_size])
        for i in range(0, len(tokens), batch_size)
    ]
    return finite_scores(np.concatenate(sync.fetch(parts)))


def mean_scores(scores: np.ndarray) -> np.ndarray:
    """f32[N] of what `scores_of` gives: of several models the mean of what they say."""
    return scores.mean(axis=1) if scores.ndim == 2 else scores


def finite_scores(scores: np.ndarray) -> np.ndarray:
    """The scores; refused where one is not finite: no mean of them and no choice among them would mean anything."""
    bad = int(scores.size - np.isfinite(scores).sum())
    if bad:
        raise UserError(
            f"the reward model's score of {bad} of {scores.size} answers is not finite; its weights or its ids are "
            "wrong: look at what it was trained on."
        )
    return scores


def score_as_text(
    run: Session, reader: Reader, state: TrainState, rollout: Rollout, prompts: Sequence[Prompt], texts: Sequence[str]
) -> tuple[jax.Array, dict[str, int]]:
    """What a reward model with a tokenizer of its own makes of the responses of a rollout, whose texts these are.

    Does not wait for the scores.

    Returns:
      The scores f32[B], or f32[B, M], for `training.ppo.score`, and counts for the metrics: `score_cut`, answers that
      lost their end.
    """
    scores, cut = _read_and_score(run, reader, state, prompts, texts, sync.fetch(rollout.finished))
    return scores, {"score_cut": cut}


def reference_scores(
    run: Session, reader: Reader | None, state: TrainState, prompts: Sequence[Prompt]
) -> tuple[jax.Array, dict[str, float]]:
    """What the reward model makes of the prompts' reference answers, as `score_as_text`.

    Args:
      reader: None where it has the policy's tokenizer.

    Returns:
      The scores f32[B], or f32[B, M], for `training.ppo.score`, and for the metrics their mean and how many answers
      lost their end.
    """
    own = reader or Reader(run.tokenizer, run.lengths.total)
    answers = [prompt.reference for prompt in prompts]
    scores, cut = _read_and_score(run, own, state, prompts, answers, [True] * len(answers))
    return scores, {"score_reference": verdicts(state, scores).mean(), "reference_cut": cut}


def check_references(prompts: Sequence[Prompt]) -> None:
    """Refuses prompts without the reference answer that `ppo.score.baseline` asks for."""
    for number, prompt in enumerate(prompts, 1):
        if not prompt.reference:
            raise UserError(
                f"ppo.score.baseline='reference': {prompt.where or f'prompt {number}'} has no reference answer; give "
                "each prompt one, or use ppo.score.baseline='none'."
            )


def _read_and_score(
    run: Session,
    reader: Reader,
    state: TrainState,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool],
) -> tuple[jax.Array, int]:
    """The scores f32[B], or f32[B, M], of texts as answers, and how many lost their end."""
    messages = [prompt.prompt for prompt in prompts]
    if run.lengths.overlong_prompts == "cut":  # the reward model is to read what the policy has read
        longest = run.lengths.max_prompt_length
        messages = [cut_prompt(prompt, run.tokenizer, longest) or prompt for prompt in messages]
    tokens, mask, cut = reader.read(messages, texts, finished)
    batch = shard_batch({"tokens": tokens, "mask": mask}, run.mesh)
    # Placed alike before the first update and after it, which else would be two programs.
    params = shard_tree(state.full("reward"), run.mesh)
    with jax.set_mesh(run.mesh):
        scores = compiled_scores(params, config=state.model("reward"), **batch)
    return shard_batch(scores, run.mesh), cut


def texts_of(run: Session, rollout: Rollout) -> list[str]:
    """The responses as text, without special tokens."""
    return decode_responses(*sync.fetch((rollout.responses, rollout.mask)), run.tokenizer)
