"""The model families of the Hugging Face format: what each calls its tensors and its config keys.

One decoder serves them all; a family is one entry of `FAMILIES`. It gives the values that are the family's own, the
keys that say what may vary, in both directions, and the names of tensors where they differ from Llama's.
"""

import dataclasses
from collections.abc import Callable

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf import defaults

# Our path -> Llama's name. Their matrices are [out, in]: a `kernel`, ours [in, out], is transposed.
NAMES = {
    "embed/embedding": "model.embed_tokens.weight",
    "layers/attn_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/attn/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attn/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attn/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attn/q/bias": "model.layers.{}.self_attn.q_proj.bias",
    "layers/attn/k/bias": "model.layers.{}.self_attn.k_proj.bias",
    "layers/attn/v/bias": "model.layers.{}.self_attn.v_proj.bias",
    "layers/attn/q_norm/scale": "model.layers.{}.self_attn.q_norm.weight",
    "layers/attn/k_norm/scale": "model.layers.{}.self_attn.k_norm.weight",
    "layers/attn/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers/mlp_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers/mlp/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers/mlp/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "final_norm/scale": "model.norm.weight",
    "lm_head/kernel": "lm_head.weight",
    "head/kernel": "score.weight",
}
# With norms on both sides, Llama's name of the second norm is that of the first one's counterpart.
SANDWICH_NAMES = {
    "layers/attn_post_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/mlp_norm/scale": "model.layers.{}.pre_feedforward_layernorm.weight",
    "layers/mlp_post_norm/scale": "model.layers.{}.post_feedforward_layernorm.weight",
}
LOCAL, FULL = "sliding_attention", "full_attention"  # their layer types


def no_windows(raw: dict) -> tuple[int, ...]:
    """All layers see everything."""
    return ()


def write_no_windows(config: ModelConfig) -> dict:
    """No keys: layers of this family see everything."""
    return {}


def one_window(raw: dict) -> tuple[int, ...]:
    """Mistral: one window for all layers, or none."""
    return (raw["sliding_window"] or 0,) * raw["num_hidden_layers"]


def write_one_window(config: ModelConfig) -> dict:
    """The key of the one window that all layers have, null for none."""
    return {"sliding_window": max(config.layer_windows, default=None)}


def optional_windows(raw: dict) -> tuple[int, ...]:
    """Qwen: a window, where it is used at all, from `max_window_layers` on or as `layer_types` says."""
    layers, window = raw["num_hidden_layers"], raw["sliding_window"] if raw["use_sliding_window"] else None
    last = [LOCAL if window and i >= raw["max_window_layers"] else FULL for i in range(layers)]
    return windows_by_type(raw.get("layer_types") or last, window)


def write_optional_windows(config: ModelConfig) -> dict:
    """The keys that say which layers have a window, and how long it is."""
    windows = config.layer_windows or (0,) * config.num_layers
    window = max(windows) or None
    first = next((i for i, window in enumerate(windows) if window), config.num_layers)
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": first,
        "layer_types": layer_types(windows),
    }


def alternating_windows(raw: dict) -> tuple[int, ...]:
    """Gemma 2 and 3: every n-th layer sees everything, the others a window."""
    period = raw["sliding_window_pattern"]
    types = [FULL if (i + 1) % period == 0 else LOCAL for i in range(raw["num_hidden_layers"])]
    return windows_by_type(raw.get("layer_types") or types, raw["sliding_window"])


def write_alternating_windows(config: ModelConfig) -> dict:
    """The window and which layers have it."""
    windows = config.layer_windows or (0,) * config.num_layers
    # transformers wants a number even where no layer uses it.
    return {"sliding_window": max(windows) or 4096, "layer_types": layer_types(windows)}


def windows_by_type(types: list[str], window: int | None) -> tuple[int, ...]:
    """One window per layer from their layer types."""
    for kind in types:
        if kind not in (LOCAL, FULL):
            raise UserError(f"layer_types holds {repr(kind):.80}, which is not supported; only {LOCAL} and {FULL} are.")
    if LOCAL in types and not window:
        raise UserError(f"layer_types holds {LOCAL}, but sliding_window is not set; give it a number of tokens.")
    return tuple((window or 0) if kind == LOCAL else 0 for kind in types)


def layer_types(windows: tuple[int, ...]) -> list[str]:
    """Their layer types from one window per layer."""
    return [LOCAL if window else FULL for window in windows]


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
      model_type: in config.json.
      language_model, scalar_model: the architectures in config.json.
      ours: `ModelConfig` fields that all its models share.
      keys: their optional keys -> our field; a field's "off" (0) is their null.
      defaults: what transformers takes for keys that config.json leaves out, see `defaults.py`.
      fixed: keys that change the computation and must have one of these values (None: absent or null).
      activation_key: which key names the activation of the MLP.
      windows, write_windows: from their keys to one window per layer, and back.
      names: of tensors, where they differ from `NAMES`.
      even_heads: transformers refuses a width that does not divide over the heads.
    """

    model_type: str
    language_model: str
    scalar_model: str
    ours: dict = dataclasses.field(default_factory=dict)
    keys: dict[str, str] = dataclasses.field(default_factory=dict)
    defaults: dict = dataclasses.field(default_factory=dict)
    fixed: dict[str, tuple] = dataclasses.field(default_factory=dict)
    activation_key: str = "hidden_act"
    windows: Callable[[dict], tuple[int, ...]] = no_windows
    write_windows: Callable[[ModelConfig], dict] = write_no_windows
    names: dict[str, str] = dataclasses.field(default_factory=dict)
    even_heads: bool = False

    def name_of(self, path: str) -> str:
        """Their name of our leaf, in layers with {} for the number, which `path` leaves out: layers/attn/q/kernel."""
        return self.names.get(path) or NAMES[path]


NO_BIAS = {"attention_bias": (None, False)}
CAUSAL = {"use_bidirectional_attention": (None, False)}
GEMMA = {"activation": "gelu_tanh", "zero_centred_norm": True, "scale_embeddings": True}

FAMILIES = {
    # Llama 2, 3 and 3.2, and SmolLM2.
    "llama": Family(
        "llama",
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        defaults=defaults.LLAMA,
        fixed={**NO_BIAS, "mlp_bias": (None, False)},
        even_heads=True,
    ),
    "mistral": Family(
        "mistral",
        "MistralForCausalLM",
        "MistralForSequenceClassification",
        defaults=defaults.MISTRAL,
        fixed={"layer_types": (None,)},
        windows=one_window,
        write_windows=write_one_window,
    ),
    # Qwen 2 and 2.5.
    "qwen2": Family(
        "qwen2",
        "Qwen2ForCausalLM",
        "Qwen2ForSequenceClassification",
        ours={"qkv_bias": True},
        defaults=defaults.QWEN2,
        windows=optional_windows,
        write_windows=write_optional_windows,
    ),
    "qwen3": Family(
        "qwen3",
        "Qwen3ForCausalLM",
        "Qwen3ForSequenceClassification",
        ours={"qk_norm": True},
        defaults=defaults.QWEN3,
        fixed=NO_BIAS,
        windows=optional_windows,
        write_windows=write_optional_windows,
    ),
    "gemma": Family(
        "gemma",
        "GemmaForCausalLM",
        "GemmaForSequenceClassification",
        ours=GEMMA,
        defaults=defaults.GEMMA,
        fixed={**NO_BIAS, **CAUSAL, "hidden_activation": (None, "gelu_pytorch_tanh")},
    ),
    "gemma2": Family(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2ForSequenceClassification",
        ours={**GEMMA, "post_norms": True},
        keys={
            "query_pre_attn_scalar": "query_pre_attn_scalar",
            "attn_logit_softcapping": "attn_softcap",
            "final_logit_softcapping": "final_softcap",
        },
        defaults=defaults.GEMMA2,
        fixed={**NO_BIAS, **CAUSAL, "sliding_window_pattern": (2,)},
        activation_key="hidden_activation",
        windows=alternating_windows,
        write_windows=write_alternating_windows,
        names=SANDWICH_NAMES,
        even_heads=True,
    ),
    # The text models, and the 1B, which has no other part.
    "gemma3_text": Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        "Gemma3TextForSequenceClassification",
        ours={**GEMMA, "post_norms": True, "qk_norm": True},
        keys={"query_pre_attn_scalar": "query_pre_attn_scalar", "final_logit_softcapping": "final_softcap"},
        defaults=defaults.GEMMA3,
        fixed={**NO_BIAS, **CAUSAL, "attn_logit_softcapping": (None,)},  # transformers reads the last and ignores it
        activation_key="hidden_activation",
        windows=alternating_windows,
        write_windows=write_alternating_windows,
        names=SANDWICH_NAMES,
        even_heads=True,
    ),
}
ARCHITECTURES = {
    architecture: family
    for family in FAMILIES.values()
    for architecture in (family.language_model, family.scalar_model)
}


def family_of(config: ModelConfig) -> Family:
    """The entry of the table."""
    if config.family not in FAMILIES:
        raise UserError(f"model.family={config.family!r}; expected one of {', '.join(FAMILIES)}.")
    return FAMILIES[config.family]
