"""The shape of a model from the header of a GGUF file.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What llama.cpp has as constants of an architecture,
and no key for, is a constant here (its src/llama-model.cpp).
"""

import pathlib
from typing import Any

import numpy as np

from icegrt_jax.config.choices import Dtype
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.gguf.tensors import ROPE_FREQS
from icegrt_jax.models.hf.families import FAMILIES
from icegrt_jax.models.rope import base_frequencies, scale

FAMILY_OF = {  # their architecture -> our family; Mistral is a llama to them
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
WINDOW_PERIOD = {"gemma2": 2, "gemma3": 6}  # every n-th layer has no window
GEMMA2_WINDOW, GEMMA2_CAPS, GEMMA3_LOCAL_THETA = 4096, (50.0, 30.0), 10000.0
# Of the largest Gemmas, known by their depth, queries are scaled by the width over the heads.
WIDE_QUERY_LAYERS = {"gemma2": 46, "gemma3": 62}
# Llama 3's scaling, as all its models have it; their original length is 8192.
LLAMA3_LOW, LLAMA3_HIGH, LLAMA3_LENGTH = 1.0, 4.0, 8192


class Header:
    """The keys of a file's architecture; one that is missing is a `UserError`."""

    def __init__(self, path: pathlib.Path, fields: dict[str, Any]):
        self.path, self.fields = path, fields
        self.architecture = fields.get("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        value = self.fields.get(f"{self.architecture}.{key}")
        return default if value is None else as_written(value) if isinstance(value, float) else value

    def number(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if value is None:
            raise UserError(f"{self.path}: the key {self.architecture}.{key} is missing; fetch the file again.")
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise UserError(f"{self.path}: {self.architecture}.{key} differs between layers; not supported.")
            value = value[0]
        return value


def as_written(number: float) -> float:
    """1e-05 for the stored float32 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def read_config(
    path: pathlib.Path, fields: dict[str, Any], shapes: dict[str, list[int]], rope_factors: np.ndarray | None,
    *, scan_layers: bool, dtype: Dtype,
) -> ModelConfig:  # fmt: skip
    """The shape of the model, after checking that we compute it exactly.

    Args:
      fields: the header.
      shapes: of the tensors by name.
      rope_factors: the tensor `rope_freqs.weight`, by which frequencies are divided, where there is one.
    """
    header = Header(path, fields)
    architecture = header.architecture
    if architecture not in FAMILY_OF:
        raise UserError(
            f"{path}: architecture {architecture!r} is not supported; expected one of {', '.join(FAMILY_OF)}."
        )
    if "token_embd.weight" not in shapes:
        raise UserError(f"{path}: the tensor token_embd.weight is missing.")
    num_heads, width, layers = (
        header.number(key) for key in ("attention.head_count", "embedding_length", "block_count")
    )
    head_dim = header.number("attention.key_length", width // num_heads)
    refused = {
        "partial rotary embedding": header.get("rope.dimension_count", head_dim) != head_dim,
        "value width of its own": header.get("attention.value_length", head_dim) != head_dim,
        "mixture of experts": header.get("expert_count", 0) > 0,
    }
    for feature, present in refused.items():
        if present:
            raise UserError(f"{path}: the model has a {feature}, which is not supported.")
    theta = float(header.get("rope.freq_base", 10000.0))
    return ModelConfig(
        vocab_size=shapes["token_embd.weight"][0],
        d_model=width,
        num_layers=layers,
        num_heads=num_heads,
        num_kv_heads=header.number("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        d_ff=header.number("feed_forward_length"),
        rope_theta=theta,
        norm_eps=header.number("attention.layer_norm_rms_epsilon"),
        tie_embeddings="output.weight" not in shapes,
        max_length=header.number("context_length"),
        scan_layers=scan_layers,
        dtype=dtype,
        family=FAMILY_OF[architecture],
        **FAMILIES[FAMILY_OF[architecture]].ours,
        **read_gemma(header, layers, width // num_heads),
        **read_scaling(header, rope_factors, theta, head_dim),
    )


def read_gemma(header: Header, layers: int, wide_query: int) -> dict:
    """Windows, soft caps and query scale of Gemma 2 and 3; nothing of the others, whose windows llama.cpp ignores."""
    architecture = header.architecture
    if architecture not in WINDOW_PERIOD:
        return {}
    is_gemma2 = architecture == "gemma2"
    window = header.get("attention.sliding_window", GEMMA2_WINDOW if is_gemma2 else 0)
    pattern = header.get("attention.sliding_window_pattern", WINDOW_PERIOD[architecture])
    if not isinstance(pattern, list):
        pattern = [(i + 1) % pattern != 0 for i in range(layers)]
    attn_cap, final_cap = GEMMA2_CAPS if is_gemma2 else (0.0, 0.0)
    fields = {
        "layer_windows": tuple(window if local else 0 for local in pattern),
        "attn_softcap": header.get("attn_logit_softcapping", attn_cap),
        "final_softcap": header.get("final_logit_softcapping", final_cap),
        "query_pre_attn_scalar": wide_query if layers == WIDE_QUERY_LAYERS[architecture] else 0,
    }
    if not is_gemma2:
        fields["local_rope_theta"] = float(header.get("rope.freq_base_swa", GEMMA3_LOCAL_THETA))
    return fields


def read_scaling(header: Header, factors: np.ndarray | None, theta: float, head_dim: int) -> dict:
    """The scaling of the rotary frequencies: by a key if it is linear, as a tensor if it is Llama 3's."""
    kind = header.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise UserError(f"{header.path}: rotary scaling {kind!r} is not supported; expected 'linear' or Llama 3's.")
    if factors is None:
        return {} if kind == "none" else {
            "rope_scaling": "linear", "rope_factor": float(header.number("rope.scaling.factor")),
        }  # fmt: skip
    if kind != "none":
        raise UserError(f"{header.path}: {ROPE_FREQS} beside rotary scaling {kind!r} is not supported.")
    return llama3_scaling(header.path, np.asarray(factors, np.float64), theta, head_dim)


def llama3_scaling(path: pathlib.Path, factors: np.ndarray, theta: float, head_dim: int) -> dict:
    """The numbers of a Llama 3 scaling that divides the frequencies by `factors` f64[H/2].

    The file has only their result. Between the fast frequencies, divided by 1, and the slow ones, divided by the
    factor, one that is blended gives the original length.
    """
    frequencies = base_frequencies(theta, head_dim)
    factor = float(factors.max()) if factors.size else 1.0
    found: dict[str, Any] = {
        "rope_scaling": "llama3", "rope_factor": as_written(factor),
        "rope_low_freq_factor": LLAMA3_LOW, "rope_high_freq_factor": LLAMA3_HIGH,
    }  # fmt: skip
    lengths = [LLAMA3_LENGTH]
    if factor > 1 and factors.shape == frequencies.shape:
        kept = (1 / factors - 1 / factor) / (1 - 1 / factor)
        blended = (kept > 0.01) & (kept < 0.99)
        turns = LLAMA3_LOW + kept * (LLAMA3_HIGH - LLAMA3_LOW)
        lengths += [round(float(x)) for x in (turns * 2 * np.pi / frequencies)[blended][:1]]
        for length in lengths:
            scaled = scale(frequencies, ModelConfig(vocab_size=1, **found, rope_original_length=length))
            if np.allclose(frequencies / scaled, factors, rtol=1e-5):
                return {**found, "rope_original_length": length}
    raise UserError(f"{path}: {ROPE_FREQS} is not the rotary scaling of a Llama 3, which is the only one supported.")
