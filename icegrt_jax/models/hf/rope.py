"""The rotary embedding in `config.json`, both ways.

transformers 5 keeps it in `rope_parameters`, transformers 4 and most published folders in `rope_theta` and
`rope_scaling`; both are read and both are written. Gemma 3 has one set of numbers for its layers with a window and one
for the others.
"""

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf.families import FULL, LOCAL, Family

THETA, GEMMA3_THETA, GEMMA3_LOCAL_THETA = 10000.0, 1_000_000.0, 10000.0  # where no key says otherwise
NUMBERS = {  # kind -> their key -> our field
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_low_freq_factor",
        "high_freq_factor": "rope_high_freq_factor",
        "original_max_position_embeddings": "rope_original_length",
    },
}


def has_two(family: Family) -> bool:
    """Whether layers with a window have frequencies of their own."""
    return family.model_type == "gemma3_text"


def read_rope(family: Family, raw: dict) -> dict:
    """Our fields from their keys."""
    if raw.get("partial_rotary_factor") not in (None, 1.0):
        raise UserError(f"partial_rotary_factor={raw['partial_rotary_factor']!r} is not supported; only 1.0 is.")
    if not has_two(family):
        # transformers gives the older key precedence.
        rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
        theta = rope.get("rope_theta") or raw.get("rope_theta") or THETA
        return {"rope_theta": float(theta), **read_scaling(rope, raw)}
    both = raw.get("rope_parameters") or {}
    if both.keys() - {LOCAL, FULL}:
        raise UserError(f"rope_parameters={repr(both):.80} is not supported; expected {FULL} and {LOCAL}.")
    full = {**(both.get(FULL) or {}), **(raw.get("rope_scaling") or {})}
    local = both.get(LOCAL) or {}
    if kind_of(local) != "default":
        raise UserError(f"rope_parameters.{LOCAL}={repr(local):.80} is not supported; only 'default' is.")
    return {
        "rope_theta": float(full.get("rope_theta") or raw.get("rope_theta") or GEMMA3_THETA),
        "local_rope_theta": float(local.get("rope_theta") or raw.get("rope_local_base_freq") or GEMMA3_LOCAL_THETA),
        **read_scaling(full, raw),
    }


def kind_of(rope: dict) -> str:
    """Their name of the scaling; old folders call the key `type`."""
    return rope.get("rope_type") or rope.get("type") or "default"


def read_scaling(rope: dict, raw: dict) -> dict:
    """Our fields of a scaling, which is refused if it is of another kind or has numbers that its kind has not."""
    kind = kind_of(rope)
    if kind not in NUMBERS:
        raise UserError(f"rope_scaling={repr(rope):.80} is not supported; expected one of {', '.join(NUMBERS)}.")
    if rope.get("partial_rotary_factor") not in (None, 1.0):
        raise UserError(f"partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported; only 1.0 is.")
    if unknown := rope.keys() - NUMBERS[kind] - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
        raise UserError(f"rope_scaling={repr(rope):.80}: {min(unknown)} is not supported with {kind!r}.")
    if kind == "llama3":
        length = raw.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        rope = {**rope, "original_max_position_embeddings": length or raw["max_position_embeddings"]}
    fields = {ours: rope[theirs] for theirs, ours in NUMBERS[kind].items()}
    return {"rope_scaling": "" if kind == "default" else kind, **fields}


def write_rope(family: Family, config: ModelConfig) -> dict:
    """Their keys from our fields."""
    kind = config.rope_scaling or "default"
    scaling = {"rope_type": kind, **{theirs: getattr(config, ours) for theirs, ours in NUMBERS[kind].items()}}
    rope = {**scaling, "rope_theta": config.rope_theta}
    raw = {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling if config.rope_scaling else None,
        "rope_parameters": rope,
    }
    if not has_two(family):
        return raw
    local = {"rope_type": "default", "rope_theta": config.local_rope_theta}
    return {**raw, "rope_parameters": {FULL: rope, LOCAL: local}, "rope_local_base_freq": config.local_rope_theta}
