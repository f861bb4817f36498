"""Our model of a Hugging Face folder beside the one of `transformers`: tokens, templates, logits, scores, answers.

Ours reads the prompts in batches padded on either side, theirs one by one and unpadded, so that padding is under
test as well; a classifier of theirs reads both, since it looks for the end of a row by its PAD. torch is imported
where it is needed and nowhere else.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from icegrt_jax.data import template
from icegrt_jax.data.packing import left_pad, right_pad
from icegrt_jax.data.tokenizer_folder import auto_tokenizer
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.models import transformer
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import scalars, unembed
from icegrt_jax.models.hf.config import HEAD_BIAS, read_hf_config
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import generate_batches

PAD = {"right": right_pad, "left": left_pad}
hidden_states = jax.jit(transformer.hidden_states, static_argnames="config")
unembedded = functools.partial(jax.jit, static_argnames="config")(unembed)


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the report.

    what: is compared. amount: on how much. found: the difference. equal: whether it is within the tolerance; None where
    it could not be compared.
    """

    what: str
    amount: str
    found: str
    equal: bool | None


def load_theirs(folder: pathlib.Path, dtype: str) -> Any:
    """The model of `transformers`, in evaluation mode. Raises ImportError without torch."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    raw = read_hf_config(folder)
    model_class = getattr(transformers, raw["architectures"][0])
    # Its own attention, written out: the fused ones leave out what some families need.
    options = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    return model_class.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options).eval()


def compare_ids(tokenizer: ChatTokenizer, folder: pathlib.Path, texts: Sequence[str]) -> Result:
    """Ids of plain texts."""
    theirs = auto_tokenizer(folder)
    pairs = [(tokenizer.encode_text(text), theirs(text, add_special_tokens=False)["input_ids"]) for text in texts]
    amount = f"{len(texts)} texts, {sum(len(ids) for ids, _ in pairs)} tokens"
    return Result("tokenizer ids", amount, *_first_difference(texts, pairs))


def compare_templates(tokenizer: ChatTokenizer, folder: pathlib.Path, chats: Sequence[Sequence[dict]]) -> Result:
    """Text and ids of prompts, as their `apply_chat_template` makes them in one step."""
    theirs = auto_tokenizer(folder)
    pairs = []
    for messages in chats:
        ours = template.render(tokenizer.tokenizer, messages, generate=True), tokenizer.encode_prompt(messages)
        read, options = template.as_read(theirs, messages), {"add_generation_prompt": True}
        try:
            text = theirs.apply_chat_template(read, tokenize=False, **options)
            ids = theirs.apply_chat_template(read, tokenize=True, return_dict=True, **options)["input_ids"]
        except TemplateError:  # ours took the conversation
            text, ids = None, None
        pairs.append((ours, (text, ids)))
    names = [messages[-1]["content"] for messages in chats]
    return Result("chat template", f"{len(chats)} conversations", *_first_difference(names, pairs))


def compare_logits(
    params: dict, config: ModelConfig, theirs: Any, prompts: Sequence[list[int]], side: str, tolerance: float
) -> Result:
    """Logits of every token of prompts that are padded on one side."""
    tokens, mask = PAD[side](prompts, max(map(len, prompts)), 0)
    hidden = hidden_states(params, config, tokens, mask)
    pairs = [
        (np.asarray(unembedded(params, config, row[real])), _their_logits(theirs, ids))
        for row, real, ids in zip(hidden, mask, prompts, strict=True)
    ]
    return _compare_numbers(f"logits, {side}-padded", prompts, pairs, tolerance)


def compare_scores(
    params: dict, config: ModelConfig, theirs: Any, folder: pathlib.Path, answers: Sequence[list[int]], side: str,
    tolerance: float,
) -> Result:  # fmt: skip
    """Scores of conversations, theirs as the folder stands: padded by its tokenizer, or one by one where `side` is "".

    Theirs has no bias, which is stored in config.json and added here.
    """
    what = f"scores, {side}-padded" if side else "scores, one by one"
    tokens, mask = PAD[side or "right"](answers, max(map(len, answers)), 0)
    hidden = hidden_states(params, config, tokens, mask)
    last = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
    ours = np.asarray(scalars(params, hidden[np.arange(len(answers)), last]))
    tokenizer = auto_tokenizer(folder)
    if side and None in (tokenizer.pad_token_id, theirs.config.pad_token_id):
        return Result(what, f"{len(answers)} prompts", "the folder has no PAD", None)
    if side:
        scores = _their_padded(theirs, tokenizer, answers, side)
    else:
        scores = np.stack([_their_logits(theirs, ids) for ids in answers])
    bias = head_bias(folder)
    pairs = [(score, other[0] + bias) for score, other in zip(ours, scores, strict=True)]
    return _compare_numbers(what, answers, pairs, tolerance)


def head_bias(folder: pathlib.Path) -> float:
    """The bias of a scalar head of ours, which `transformers` does not know."""
    return float(read_hf_config(folder).get(HEAD_BIAS, 0.0))


def compare_greedy(
    params: dict, config: ModelConfig, theirs: Any, tokenizer: ChatTokenizer, prompts: Sequence[list[int]],
    new_tokens: int, tolerance: float,
) -> Result:  # fmt: skip
    """Greedy answers, EOS included. A difference is none where their two best tokens are within the tolerance."""
    sampler = SamplerConfig(
        max_new_tokens=new_tokens, temperature=0.0, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id
    )
    out = generate_batches(jax.random.key(0), params, config, tokenizer, prompts, sampler, batch_size=len(prompts))
    different, ties = [], 0
    for i, ids in enumerate(prompts):
        ours, expected = out.tokens[i][out.mask[i]].tolist(), _their_greedy(theirs, ids, new_tokens, tokenizer)
        if ours == expected:
            continue
        at = next((t for t, pair in enumerate(zip(ours, expected)) if pair[0] != pair[1]), None)
        if at is not None and _is_tie(_their_logits(theirs, ids + expected[:at])[-1], ours[at], tolerance):
            ties += 1
        else:
            different.append(f"prompt {i + 1} from token {at if at is not None else min(len(ours), len(expected))} on")
    found = f"different: {different[0]} ({len(different)} of {len(prompts)})" if different else "equal"
    found += f", {ties} up to a tie" if ties else ""
    return Result("greedy tokens", f"{len(prompts)} answers, up to {new_tokens} tokens", found, not different)


def _is_tie(logits: np.ndarray, chosen: int, tolerance: float) -> bool:
    return bool(logits.max() - logits[chosen] <= 2 * tolerance * np.abs(logits).max())


def _their_logits(theirs: Any, ids: list[int]) -> np.ndarray:
    """f32[L, V] of a language model, f32[1] of a classifier."""
    import torch

    with torch.no_grad():
        return theirs(torch.tensor([ids])).logits[0].float().numpy()


def _their_padded(theirs: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], side: str) -> np.ndarray:
    """f32[B, 1] of a classifier for rows that its tokenizer has padded."""
    import torch

    tokenizer.padding_side = side
    with torch.no_grad():
        return theirs(**tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")).logits.float().numpy()


def _their_greedy(theirs: Any, ids: list[int], new_tokens: int, tokenizer: ChatTokenizer) -> list[int]:
    import torch
    import transformers

    # The folder's own settings may hold a repetition penalty, which is not of the model; where it stops is.
    theirs.generation_config = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=theirs.generation_config.eos_token_id,
        pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    prompt = torch.tensor([ids])
    return theirs.generate(prompt, attention_mask=torch.ones_like(prompt))[0, len(ids) :].tolist()


def _first_difference(names: Sequence[str], pairs: list[tuple]) -> tuple[str, bool]:
    wrong = [name for name, (ours, theirs) in zip(names, pairs, strict=True) if ours != theirs]
    return (f"different: {wrong[0][:40]!r} ({len(wrong)} of {len(pairs)})", False) if wrong else ("equal", True)


def _compare_numbers(what: str, prompts: Sequence[list[int]], pairs: list[tuple], tolerance: float) -> Result:
    lengths = sorted(map(len, prompts))
    amount = f"{len(prompts)} prompts of {lengths[0]} to {lengths[-1]} tokens"
    ours, theirs = pairs[0]
    if np.shape(ours) != np.shape(theirs):
        return Result(what, amount, f"shapes {np.shape(ours)} and {np.shape(theirs)}", False)
    # Not element by element: a logit near 0 has no relative error to speak of.
    absolute = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    relative = absolute / max(float(np.abs(theirs).max()) for _, theirs in pairs)
    return Result(what, amount, f"max abs {absolute:.2g}, relative {relative:.2g}", relative <= tolerance)
