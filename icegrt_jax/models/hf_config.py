"""`config.json` of a Hugging Face Llama model: read, checked for what we do not compute, and written.

transformers 5 keeps the rotary base in `rope_parameters`, transformers 4 and most published folders in
`rope_theta`; both are read and both are written.
"""

import json
import pathlib

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig

LANGUAGE_MODEL, SCALAR_MODEL = "LlamaForCausalLM", "LlamaForSequenceClassification"
# Their score head has no bias and ours has one: it travels in the config, under a key that they ignore.
HEAD_BIAS = "icegrt_head_bias"

# What changes the computation and must have this value (or be absent) for ours to be the same.
FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
    "rope_scaling": None,
}


def read_hf_config(folder: pathlib.Path) -> dict:
    """The content of `config.json`, after checking that it describes a model we compute exactly."""
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: no config.json here; expected a Hugging Face model folder.")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}).") from error
    architectures = raw.get("architectures") or ["(none)"]
    if architectures[0] not in (LANGUAGE_MODEL, SCALAR_MODEL):
        raise UserError(
            f"{file}: architecture {architectures[0]} is not supported; expected {LANGUAGE_MODEL} or {SCALAR_MODEL}."
        )
    rope = raw.get("rope_parameters") or {}
    # transformers 5 writes unscaled embeddings as {"rope_type": "default", "rope_theta": ...}.
    scaling = rope if rope.get("rope_type", "default") != "default" else raw.get("rope_scaling")
    found = {**raw, **{k: rope[k] for k in rope if k in FIXED}, "rope_scaling": scaling}
    for key, value in FIXED.items():
        if found.get(key) not in (None, value):
            raise UserError(f"{file}: {key}={found[key]!r} is not supported; only {value!r} is.")
    return raw


def to_model_config(raw: dict, folder: pathlib.Path, *, scan_layers: bool, dtype: str) -> ModelConfig:
    """Our description of the model in `raw`, a `config.json` that `read_hf_config` let through."""
    rope = raw.get("rope_parameters") or {}
    try:
        num_heads = raw["num_attention_heads"]
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            d_model=raw["hidden_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=raw.get("num_key_value_heads") or num_heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // num_heads,
            d_ff=raw["intermediate_size"],
            rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            tie_embeddings=raw.get("tie_word_embeddings", False),
            max_length=raw.get("max_position_embeddings", 2048),
            scan_layers=scan_layers,
            dtype=dtype,
        )
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: the key {error.args[0]!r} is missing.") from error


def to_hf_config(config: ModelConfig, *, dtype: str, token_ids: dict, head_bias: float | None) -> dict:
    """What `config.json` says of a model of ours.

    Args:
      config: the model's shape.
      dtype: of the tensors beside it.
      token_ids: bos_token_id, eos_token_id and pad_token_id, written as they are.
      head_bias: of the scalar head; None for a language model.
    """
    if config.d_model % config.num_heads:
        raise UserError(
            f"model.d_model={config.d_model} does not divide over num_heads={config.num_heads}, which transformers "
            "requires of a Llama; this model cannot be exported."
        )
    raw = {
        "architectures": [LANGUAGE_MODEL],
        "model_type": "llama",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        **token_ids,
    }
    if head_bias is None:
        return raw
    labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}}  # one label: a regression
    return {**raw, "architectures": [SCALAR_MODEL], **labels, HEAD_BIAS: head_bias}
