"""Text in, sampled text out: batches any number of prompts through the compiled sampler."""

import contextlib
import dataclasses
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from icegrt_jax.config.options import DrawOptions, Options
from icegrt_jax.data.content import read_at
from icegrt_jax.data.packing import left_pad
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.vocabulary import check_ids
from icegrt_jax.sampling.draw import SamplerConfig
from icegrt_jax.sampling.rollout import Rollout
from icegrt_jax.sampling.sampler import compiled_sampler, sequence_keys
from icegrt_jax.sharding.put import shard_batch
from icegrt_jax.sharding.rules import row_parts

BUCKET = 32  # prompt widths are rounded up to a multiple, so that few programs are compiled


def in_buckets(longest: int) -> int:
    """The width for prompts of so many tokens."""
    return -(-longest // BUCKET) * BUCKET


@dataclasses.dataclass(frozen=True)
class Generation:
    """Responses of N prompts × K samples, those of one prompt neighbours.

    prompts: i32[N·K, P], left-padded, with prompt_mask bool[N·K, P].
    tokens: i32[N·K, T], right-padded. mask: bool[N·K, T], up to and including the first EOS.
    finished: bool[N·K], ended with EOS. logprobs: f32[N·K, T]. text: without special tokens.
    sampler: how they were drawn: its temperature, top_k, top_p and so on.

    >>> model = ice.load_model("models/policy")
    >>> out = ice.generate(model, ["the cat"], key=jax.random.key(0), max_new_tokens=4, temperature=0.7, num_samples=2)
    >>> out.tokens.shape, out.sampler.temperature
    ((2, 4), 0.7)
    >>> out.rollout().temperature
    0.7
    """

    prompts: np.ndarray
    prompt_mask: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    finished: np.ndarray
    logprobs: np.ndarray
    text: list[str]
    sampler: SamplerConfig | None = None

    def rollout(self) -> Rollout:
        """The same as PPO's update steps take it; they refuse one that was sampled at another temperature than theirs.

        >>> model = ice.load_model("models/policy")
        >>> out = ice.generate(model, ["the cat"], key=jax.random.key(0), max_new_tokens=4)
        >>> out.rollout().responses.shape
        (1, 4)
        """
        return Rollout(
            jnp.asarray(self.prompts),
            jnp.asarray(self.prompt_mask),
            jnp.asarray(self.tokens),
            jnp.asarray(self.mask),
            jnp.asarray(self.logprobs),
            jnp.asarray(self.finished),
            temperature=None if self.sampler is None else self.sampler.temperature,
        )


def prompt_ids(prompt, tokenizer: ChatTokenizer) -> list[int]:
    """Ids of a prompt given as a string, as chat messages or as ids."""
    if isinstance(prompt, str):
        prompt = user(prompt) if prompt.strip() else ()
    if isinstance(prompt, bytes) or not isinstance(prompt, Sequence | np.ndarray | jax.Array):
        raise UserError(
            f"{prompt!r:.80} is no prompt; expected a list of prompts, each a string, messages or token ids. One chat, "
            "or one row of ids, is a prompt: put it in a list."
        )
    if not len(prompt):
        raise UserError("empty prompt; expected a string, messages or token ids.")
    if any(isinstance(message, Mapping) for message in prompt):
        return tokenizer.encode_prompt(Prompt.from_json({"prompt": list(prompt)}, "messages").prompt)
    try:
        return [operator.index(token) for token in prompt]
    except TypeError as error:
        raise UserError(
            f"{prompt!r:.80} is no prompt; expected a string, messages or token ids, which are whole numbers."
        ) from error


def prompt_arrays(
    prompts: Sequence,
    tokenizer: ChatTokenizer,
    vocab_size: int | None = None,
    width_of: Callable[[int], int] = in_buckets,
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as the sampler gets them: tokens i32[N, P], left-padded, and mask bool[N, P].

    With `vocab_size`, the model's, ids beyond it are refused. `width_of` gives P from the tokens of the longest prompt.
    """
    if isinstance(prompts, str):
        raise UserError(f"prompts={prompts!r:.80}; expected a list of prompts, [{prompts!r:.80}].")
    ids = []
    for i, prompt in enumerate(prompts):
        with read_at(f"prompts[{i}]"):
            ids.append(prompt_ids(prompt, tokenizer))
            if vocab_size is not None:
                check_ids(ids[-1], vocab_size, "prompt")
    if not ids:
        raise UserError("no prompts to answer.")
    return left_pad(ids, width_of(max(map(len, ids))), tokenizer.pad_id)


def decode_responses(tokens: np.ndarray, mask: np.ndarray, tokenizer: ChatTokenizer) -> list[str]:
    """Text of each response without its padding and special tokens."""
    return [tokenizer.decode(row[keep]) for row, keep in zip(tokens, mask, strict=True)]


class NotFinite(UserError):
    """Answers of logits that are no numbers."""


def check_logprobs(logprobs: np.ndarray) -> None:
    """Refuses answers f32[N, T] of logits that are no numbers: whatever they say, nobody has said it."""
    bad = int((~np.isfinite(logprobs)).any(axis=1).sum())
    if bad:
        raise NotFinite(
            f"the log-probs of {bad} of {len(logprobs)} answers are not finite: the model's logits are no numbers. Its "
            "weights or its ids are wrong; with dtype='bfloat16' try float32."
        )


def generate_batches(
    key: jax.Array,
    params: dict,
    model: ModelConfig,
    tokenizer: ChatTokenizer,
    prompts: Sequence,
    config: SamplerConfig,
    *,
    num_samples: int = 1,
    batch_size: int = 64,
    layout: Mesh | None = None,
    width_of: Callable[[int], int] = in_buckets,
) -> Generation:
    """Samples `num_samples` responses to every prompt, those of `batch_size` prompts in flight at a time.

    A response depends on the key, its prompt and its place in the list, not on the batch size. `layout` is the mesh
    of `sampling.layout` on which `params` lie; without one they lie on one device. `width_of` gives the tokens that
    prompts are padded to: each width is a program to be compiled.
    """
    if not isinstance(num_samples, numbers.Integral):
        raise UserError(f"num_samples={num_samples!r}; expected a whole number.")
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}; expected 1 or more.")
    tokens, mask = prompt_arrays(prompts, tokenizer, model.vocab_size, width_of)
    count, batch_size, within = len(tokens), min(batch_size, len(tokens)), contextlib.nullcontext()
    if layout is not None:
        batch_size = -(-batch_size // row_parts(layout)) * row_parts(layout)
    padded = np.minimum(np.arange(-(-count // batch_size) * batch_size), count - 1)  # few shapes, few programs
    keys = sequence_keys(key, 0, len(padded) * num_samples)
    inputs = (keys, tokens[padded], mask[padded])
    temperature, drawn = None, config
    if config.temperature:  # whatever it is, it is the same program
        temperature, drawn = np.float32(config.temperature), dataclasses.replace(config, temperature=1.0)
    if layout is not None:
        inputs, within = shard_batch(inputs, layout), jax.set_mesh(layout)
    with within:
        rollout = compiled_sampler(
            inputs[0], params, *inputs[1:],
            model=model, config=drawn, num_samples=num_samples, slots=batch_size * num_samples, count=count,
            temperature=temperature,
        )  # fmt: skip
    joined = jax.tree.map(lambda x: x[: count * num_samples], sync.fetch(rollout))
    check_logprobs(joined.logprobs)
    return Generation(
        joined.prompts,
        joined.prompt_mask,
        joined.responses,
        joined.mask,
        joined.finished,
        joined.logprobs,
        decode_responses(joined.responses, joined.mask, tokenizer),
        config,
    )


def generate(
    model,
    prompts: Sequence,
    *,
    key: jax.Array,
    max_new_tokens: int = Options.max_response_length,
    temperature: float = DrawOptions.temperature,
    top_k: int = DrawOptions.top_k,
    top_p: float = DrawOptions.top_p,
    num_samples: int = 1,
) -> Generation:
    """Responses of a loaded model.

    Args:
      model: from `load_model`.
      prompts: strings, chats (lists of {"role", "content"}) or lists of token ids.
      key: jax.random.key.
      max_new_tokens: T.
      temperature: 0 is greedy.
      top_k: 0 for all tokens.
      top_p: 1 for all tokens.
      num_samples: K responses for each prompt.

    >>> model = ice.load_model("models/policy")
    >>> out = ice.generate(model, ["the cat", "the end"], key=jax.random.key(0), max_new_tokens=4, num_samples=2)
    >>> len(out.text), out.tokens.shape, out.logprobs.dtype.name
    (4, (4, 4), 'float32')
    """
    model.need_logits("generate")
    config = SamplerConfig(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        eos_ids=model.tokenizer.eos_ids,
        pad_id=model.tokenizer.pad_id,
    )
    return generate_batches(key, model.params, model.config, model.tokenizer, prompts, config, num_samples=num_samples)
