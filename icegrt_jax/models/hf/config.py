"""`config.json` of a Hugging Face model: read, checked for what we do not compute, and written.

What differs between families is in `families.py`, the rotary embedding's keys in `rope.py`.
"""

import dataclasses
import pathlib
from typing import Any

from icegrt_jax.config.choices import Dtype
from icegrt_jax.errors import UserError
from icegrt_jax.files import read_described, refuse_run
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf import keys
from icegrt_jax.models.hf.families import ARCHITECTURES, Family, family_of
from icegrt_jax.models.hf.rope import read_rope, write_rope

HEAD_BIAS = keys.HEAD_BIAS
FOLDER = "a Hugging Face model folder"
# Theirs -> ours; the first name of each is written.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "gelu_tanh"),
}
# Keys of any family that change the computation, and the values that they must have, as in `Family.fixed`.
FIXED = {
    "quantization_config": (None,),
    "is_causal": (None, True),
    "per_layer_config": (None,),
    "text_config": (None,),
    "transformers_weights": (None,),  # the name of another file of weights
}
# Our fields that config.json does not say: how a model is computed and how it was initialised.
NOT_THEIRS = ("scan_layers", "remat", "dtype", "attention", "init_std")


def read_hf_config(folder: pathlib.Path) -> dict:
    """The content of `config.json`, of a family that we know."""
    file, raw = folder / "config.json", read_described(folder, "config.json", FOLDER)
    if "architectures" not in raw:
        refuse_run(folder, FOLDER)
    named = raw.get("architectures") or ["(none)"]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise UserError(f"{file}: architectures={repr(named):.80}; expected a list with the name of one.")
    architecture = named[0]
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UserError(f"{file}: architecture {architecture} is not supported; expected one of {known}.")
    expected = ARCHITECTURES[architecture].model_type
    if (got := raw.get("model_type", expected)) != expected:
        raise UserError(
            f"{file}: model_type={repr(got):.80}, by which transformers reads it, but the architecture {architecture} "
            f"is of {expected!r}; correct the one that is wrong."
        )
    return raw


def is_scalar(raw: dict) -> bool:
    """Whether `raw` describes a reward or value model."""
    architecture = raw["architectures"][0]
    return architecture == ARCHITECTURES[architecture].scalar_model


def to_model_config(raw: dict, folder: pathlib.Path, *, scan_layers: bool, dtype: Dtype) -> ModelConfig:
    """Our description of the model in `raw`; whatever we would compute differently is refused with its key."""
    family = ARCHITECTURES[raw["architectures"][0]]
    try:
        keys.check(raw)
        return from_keys(family, {**family.defaults, **raw}, scan_layers=scan_layers, dtype=dtype)
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: the key {error.args[0]!r} is missing.") from error
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error


def from_keys(family: Family, raw: dict, *, scan_layers: bool, dtype: Dtype) -> ModelConfig:
    """`ModelConfig` of the keys in `raw`, the family's defaults among them."""
    for key, allowed in {**FIXED, **family.fixed}.items():
        if raw.get(key) not in allowed:
            raise UserError(f"{key}={repr(raw[key]):.80} is not supported; only {allowed[-1]!r} is.")
    num_heads = raw["num_attention_heads"]
    renamed: dict[str, Any] = {ours: raw.get(theirs) or 0 for theirs, ours in family.keys.items()}
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        d_model=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=raw["num_key_value_heads"] or num_heads,
        head_dim=raw["head_dim"] or raw["hidden_size"] // num_heads,
        d_ff=raw["intermediate_size"],
        norm_eps=raw["rms_norm_eps"],
        tie_embeddings=raw["tie_word_embeddings"],
        max_length=raw["max_position_embeddings"],
        scan_layers=scan_layers,
        dtype=dtype,
        family=family.model_type,
        layer_windows=family.windows(raw),
        **{**family.ours, "activation": read_activation(family, raw)},
        **renamed,
        **read_rope(family, raw),
    )


def read_activation(family: Family, raw: dict) -> str:
    """The activation of the MLP."""
    name = raw[family.activation_key]
    # Gemma's first configs say gelu and mean its tanh form; transformers reads them so.
    if (family.model_type, name) == ("gemma", "gelu"):
        name = "gelu_pytorch_tanh"
    if name not in ACTIVATIONS:
        raise UserError(
            f"{family.activation_key}={repr(name):.80} is not supported; only {', '.join(ACTIVATIONS)} are."
        )
    return ACTIVATIONS[name]


def to_hf_config(config: ModelConfig, *, dtype: str, token_ids: dict, head_bias: float | None) -> dict:
    """What `config.json` says of a model of ours.

    Args:
      config: the model's shape.
      dtype: of the tensors beside it.
      token_ids: bos_token_id, eos_token_id and pad_token_id, written as they are.
      head_bias: of the scalar head; None for a language model.
    """
    family = family_of(config)
    if family.even_heads and config.d_model % config.num_heads:
        raise UserError(
            f"model.d_model={config.d_model} does not divide over num_heads={config.num_heads}, which transformers "
            f"requires of a {family.model_type} model; this one cannot be exported."
        )
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
    off = {"query_pre_attn_scalar": config.head_dim}  # where 0 is not their null
    raw = {
        "architectures": [family.language_model],
        "model_type": family.model_type,
        "dtype": dtype,
        "torch_dtype": dtype,  # its name until transformers 4.55
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        family.activation_key: activation,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        **{key: allowed[-1] for key, allowed in family.fixed.items() if allowed[-1] is not None},
        **{theirs: getattr(config, ours) or off.get(ours) for theirs, ours in family.keys.items()},
        **family.write_windows(config),
        **write_rope(family, config),
        **token_ids,
    }
    check_same(config, family, raw)
    if head_bias is None:
        return raw
    labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}}  # one label: a regression
    return {**raw, "architectures": [family.scalar_model], **labels, HEAD_BIAS: head_bias}


def check_same(config: ModelConfig, family: Family, raw: dict) -> None:
    """Refuses a model that the family's `config.json` cannot describe: read again, it would be another."""
    again = dataclasses.asdict(from_keys(family, {**family.defaults, **raw}, scan_layers=False, dtype="float32"))
    for field, value in dataclasses.asdict(config).items():
        if field not in NOT_THEIRS and again[field] != value:
            raise UserError(
                f"model.{field}={value!r} cannot be written as a {family.model_type} model, which has "
                f"{again[field]!r}; this one cannot be exported."
            )
