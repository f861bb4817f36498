"""What kind of value each key of `config.json` has: anybody may have written the file.

Checked before anything is computed of them, so that a wrong one is a sentence which names its key.
"""

import math
from typing import Any

from icegrt_jax.errors import UserError

MOST = 2**31 - 1
SIZES = dict.fromkeys(
    ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"), MOST
) | {"num_hidden_layers": 10_000}  # fmt: skip
OPTIONAL_SIZES = dict.fromkeys(
    ("num_key_value_heads", "head_dim", "sliding_window", "query_pre_attn_scalar", "original_max_position_embeddings"),
    MOST,
)  # fmt: skip
NUMBERS = ("rope_theta", "rope_local_base_freq", "attn_logit_softcapping", "final_logit_softcapping")
SWITCHES = ("tie_word_embeddings", "use_sliding_window")
TEXTS = ("model_type", "hidden_act", "hidden_activation")
ROPE = ("rope_scaling", "rope_parameters")
LAYER_TYPES = ("full_attention", "sliding_attention")  # each of which may have a rotary embedding of its own
ROPE_NUMBERS = ("factor", "rope_theta", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
HEAD_BIAS = "icegrt_head_bias"  # of a scalar head, which theirs has not: a key that they ignore


def check(raw: dict[str, Any]) -> None:
    """Raises UserError for the first key, of those that are read, whose value is of another kind or beyond reason."""
    for key, most in SIZES.items():
        if key in raw:
            _require(key, raw[key], is_whole(raw[key], 1, most), f"a whole number from 1 to {most:,}")
    for key, most in OPTIONAL_SIZES.items():
        _require(key, raw.get(key), is_whole(raw.get(key, 1), 0, most), f"a whole number up to {most:,}, or null")
    period = raw.get("sliding_window_pattern", 1)
    if not is_whole(period, 1, MOST):
        raise UserError(f"sliding_window_pattern={repr(period):.80}; expected a whole number above 0.")
    _require("max_window_layers", raw.get("max_window_layers"), is_whole(raw.get("max_window_layers", 0), 0, MOST),
             "a whole number")  # fmt: skip
    if "rms_norm_eps" in raw:
        _require("rms_norm_eps", raw["rms_norm_eps"], is_number(raw["rms_norm_eps"], 0.0), "a number above 0")
    for key in NUMBERS:
        _require(key, raw.get(key), is_number(raw.get(key, 1.0), 0.0), "a number above 0, or null")
    bias = raw.get(HEAD_BIAS, 0.0)
    _require(HEAD_BIAS, bias, is_number(bias, -math.inf), "a number")
    for key in SWITCHES:
        _require(key, raw.get(key), isinstance(raw.get(key, True), bool), "true or false")
    for key in TEXTS:
        _require(key, raw.get(key), isinstance(raw.get(key, ""), str), "a text")
    types, layers = raw.get("layer_types", []), raw.get("num_hidden_layers")
    are_texts = isinstance(types, list) and all(isinstance(x, str) for x in types)
    _require("layer_types", types, are_texts, "a list of texts")
    if types and layers and len(types) != layers:
        raise UserError(f"layer_types has {len(types)} entries for num_hidden_layers={layers}.")
    for key in ROPE:
        _check_rope(key, raw.get(key))


def is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, above: float) -> bool:
    """Whether a value is a number that a float can hold, above another."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and value > above
    except OverflowError:
        return False


def _check_rope(key: str, rope: Any) -> None:
    """Of the rotary embedding, or of one of its kinds of layer (Gemma 3)."""
    _require(key, rope, rope is None or isinstance(rope, dict), "an object with keys, or null")
    for name, value in (rope or {}).items():
        here = f"{key}.{name}"
        if name in ("rope_type", "type"):
            _require(here, value, isinstance(value, str), "a text")
        elif isinstance(value, dict) or name in LAYER_TYPES:
            _check_rope(here, value)
        elif name in ROPE_NUMBERS:
            _require(here, value, is_number(value, 0.0), "a number above 0")


def _require(key: str, value: Any, holds: bool, expected: str) -> None:
    if value is not None and not holds or value is None and key in (*SIZES, "rms_norm_eps"):
        raise UserError(f"{key}={repr(value):.80}; expected {expected}.")
