"""Which tokens end a response and which one pads, from all that a tokenizer and the folder around it say."""

import copy
import json
import pathlib
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from icegrt_jax.data import chat, template
from icegrt_jax.errors import UserError
from icegrt_jax.files import read_described

GENERATION, MODEL_CONFIG, EOS = "generation_config.json", "config.json", "eos_token_id"


def read_generation(folder: pathlib.Path, vocab_size: int) -> dict:
    """The folder's settings of generation, their `eos_token_id` from config.json where they have none.

    The EOS ids are the tokenizer's: a list of one or more, each below `vocab_size`; no key where the folder names none.
    """
    found = {}
    for name in (GENERATION, MODEL_CONFIG):
        described = read_described(folder, name, "settings") if (folder / name).is_file() else {}
        if name == GENERATION:
            found = {key: value for key, value in described.items() if key != "_from_model_config"}
        if described.get(EOS) is not None:
            return {**found, EOS: _as_list(described[EOS], vocab_size, folder / name)}
    return {key: value for key, value in found.items() if key != EOS}


def _as_list(ids: Any, vocab_size: int, file: pathlib.Path) -> list[int]:
    listed = ids if isinstance(ids, list) else [ids]
    if not listed or not all(type(i) is int and 0 <= i < vocab_size for i in listed):
        raise UserError(
            f"{file}: {EOS}={ids!r}; expected one id of the tokenizer, or a list of them, each below {vocab_size}."
        )
    return listed


def one_or_list(ids: tuple[int, ...]) -> int | list[int]:
    """EOS ids as their files have them."""
    return ids[0] if len(ids) == 1 else list(ids)


def with_pad(tokenizer: PreTrainedTokenizerBase, eos_ids: tuple[int, ...]) -> PreTrainedTokenizerBase:
    """The tokenizer with a PAD that no scored row can end with, or with none; as it is where its own is such a one.

    A sequence classifier of transformers reads the last token that is not PAD. Rows end with the end of a turn, with a
    text, or with what the template writes before an answer; the end of a turn is the first of `eos_ids`.
    """
    last = _prompt(tokenizer)[-1:]
    usable = lambda i: i != eos_ids[0] and i not in last and _only_control(tokenizer, i)
    pad = tokenizer.pad_token_id
    if pad is None or not usable(pad):
        better = _candidates(tokenizer, eos_ids, usable)
        if not better and pad is None:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)  # it may be the caller's
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(better[0]) if better else None
    return tokenizer


def _candidates(
    tokenizer: PreTrainedTokenizerBase, eos_ids: tuple[int, ...], usable: Callable[[int], bool]
) -> list[int]:
    """Control tokens to pad with, the best first: no EOS, made for it, else one that no prompt has."""
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special and usable(i)]
    written, name = set(_prompt(tokenizer)), tokenizer.convert_ids_to_tokens
    return sorted(special, key=lambda i: (i in eos_ids, "pad" not in name(i).lower(), i in written, i))


def _prompt(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a prompt; none where the template refuses this one."""
    try:
        text = template.render(tokenizer, template.shortest(tokenizer)[:-1], generate=True)
    except UserError:
        return []
    return chat.tokenize(tokenizer, text)


def _only_control(tokenizer: PreTrainedTokenizerBase, i: int) -> bool:
    """Whether no text is encoded as this token: not a character, nor what stands for unknown ones."""
    token, model = tokenizer.convert_ids_to_tokens(i), json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    unknown = token == model.get("unk_token") or (model.get("unk_id") == i)
    return len(token) > 1 and not (unknown and not model.get("byte_fallback"))
