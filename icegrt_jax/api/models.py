"""Models by path, and what a reward model says of answers."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from icegrt_jax.api import records
from icegrt_jax.config.options import EvaluateOptions
from icegrt_jax.data.encode import fit_answers
from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.runs.opened import open_model
from icegrt_jax.runs.scoring import mean_scores, scores_of
from icegrt_jax.sampling.generate import BUCKET
from icegrt_jax.training.restore import with_peft


def load_model(path: str | pathlib.Path, *, role: str = "", adapter: str | pathlib.Path | None = None) -> Model:
    """The model in `path`, with its tokenizer.

    Args:
      path: a Hugging Face folder (config.json and safetensors) or a name on the hub, a .gguf file, the folder of a
        finished stage, such as runs/quickstart/ppo or runs/quickstart/reward, or of a run: its newest policy.
      role: of a stage that has several models, "policy", "value" or "reward"; by default its policy, or what it has.
      adapter: a folder that PEFT saved, a LoRA adapter of that model; it is merged in.

    >>> model = ice.load_model("models/policy")
    >>> model.logits(model.params, jnp.array([[5, 6]]), jnp.ones((1, 2), bool)).shape == (1, 2, model.config.vocab_size)
    True
    >>> ice.load_model("models/reward").scalar
    True
    """
    model = open_model(path, role)
    return dataclasses.replace(model, params=with_peft(model.config, model.params, str(adapter or "")))


def score(
    model: Model,
    prompts: Sequence,
    responses: Sequence[str],
    *,
    finished: Sequence[bool] | None = None,
    batch_size: int = EvaluateOptions.batch_size,
) -> np.ndarray:
    """Raw scores of a reward model, f32[N], one for each response.

    Args:
      model: with a scalar head, from `load_model` or `train_reward`.
      prompts: strings, chats or records.
      responses: N texts; as many for each prompt, those of one prompt neighbours, as `generate` gives them.
      finished: of each whether it came to its end; by default all did. One that did not is not ended here either.
      batch_size: responses scored at a time.

    >>> reward_model = ice.load_model("models/reward")
    >>> scores = ice.score(reward_model, ["the cat", "the end"], ["sat", "on the mat", "is", "near"])
    >>> scores.shape, scores.dtype.name
    ((4,), 'float32')
    """
    model.need_scores("score")
    asked = records.read(prompts, Prompt, "prompts")
    if isinstance(responses, str) or not all(isinstance(text, str) for text in responses):
        raise UserError("responses: expected a list of texts, those of `generate` for instance.")
    each, left = divmod(len(responses), len(asked))
    if left or not each:
        raise UserError(
            f"{len(responses)} responses to {len(asked)} prompts; expected as many for each prompt, those of one "
            "prompt neighbours."
        )
    ended = [True] * len(responses) if finished is None else list(finished)
    if len(ended) != len(responses):
        raise UserError(f"finished has {len(ended)} items for {len(responses)} responses; give one for each.")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}; expected 1 or more.")
    messages = [record.prompt for record in asked for _ in range(each)]
    longest = 2**31
    rows, _ = fit_answers(messages, responses, ended, model.tokenizer, longest)
    width = -(-max(map(len, rows)) // BUCKET) * BUCKET
    size = min(batch_size, len(rows))
    padded = rows + [rows[-1]] * (-len(rows) % size)  # few shapes, few programs
    tokens, mask = right_pad(padded, width, model.tokenizer.pad_id)
    return mean_scores(scores_of(model.params, model.config, tokens, mask, size)[: len(rows)])
