"""Shape of a decoder: everything that decides a parameter tree and its forward pass."""

import dataclasses
from typing import Literal, get_args

from icegrt_jax.config.choices import Attention, Dtype, Remat, check_choice
from icegrt_jax.config.options import ShapeOptions
from icegrt_jax.errors import UserError

Activation = Literal["silu", "gelu_tanh"]
RopeScaling = Literal["", "linear", "llama3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(ShapeOptions):
    """A decoder; with the defaults, Llama's. Hashable, so a jitted function can take it as a static argument.

    It survives JSON: `ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config))))` is the same.

    Attributes: those of `ShapeOptions`, where each is explained, and
      vocab_size: V, rows of the embedding.
      max_length: longest sequence the model was made for, in tokens.
      family: whose names and config.json it has in the Hugging Face format, see `models/hf/families.py`.
      qkv_bias: query, key and value projections have a bias.
      qk_norm: RMSNorm of each query and key head before the rotation.
      activation: of the gated MLP, `silu` or `gelu_tanh`.
      zero_centred_norm: norms scale by 1 + their weight, which starts at 0.
      post_norms: RMSNorm of what attention and MLP add to the stream, too.
      scale_embeddings: the stream starts from sqrt(D) times the embedding.
      attn_softcap: c of scores -> c tanh(scores / c); 0: off.
      final_softcap: the same of the logits.
      query_pre_attn_scalar: s of the attention scores q k / sqrt(s); 0: head_dim.
      rope_scaling: of the rotary frequencies: none, `linear` (arXiv 2306.15595) or `llama3` (arXiv 2407.21783).
      rope_factor: by which they are slowed down.
      rope_low_freq_factor, rope_high_freq_factor: with llama3, wavelengths above rope_original_length / low are
        slowed down, those below rope_original_length / high are not, and between them it is a blend.
      rope_original_length: tokens that a llama3-scaled model was first trained on.
      local_rope_theta: base of layers with a window, which are then not scaled; 0: the same for all layers.
      layer_windows: for each layer, how many tokens it sees, itself included; 0: all before it. Empty: all 0.
    """

    vocab_size: int
    max_length: int = 2048
    family: str = "llama"
    qkv_bias: bool = False
    qk_norm: bool = False
    activation: Activation = "silu"
    zero_centred_norm: bool = False
    post_norms: bool = False
    scale_embeddings: bool = False
    attn_softcap: float = 0.0
    final_softcap: float = 0.0
    query_pre_attn_scalar: int = 0
    rope_scaling: RopeScaling = ""
    rope_factor: float = 1.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 1.0
    rope_original_length: int = 0
    local_rope_theta: float = 0.0
    layer_windows: tuple[int, ...] = ()

    def __post_init__(self):
        # A list when it comes from JSON. What has no effect is written in one way, so that equal models are equal.
        windows = tuple(self.layer_windows)
        object.__setattr__(self, "layer_windows", windows if any(windows) else ())
        if self.query_pre_attn_scalar == self.head_dim:
            object.__setattr__(self, "query_pre_attn_scalar", 0)
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff", "max_length")
        for name in sizes:
            if getattr(self, name) <= 0:
                raise UserError(f"model.{name}={getattr(self, name)}; expected a positive number.")
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"model.num_heads={self.num_heads} does not divide over num_kv_heads={self.num_kv_heads}; "
                "use a divisor of num_heads."
            )
        if self.head_dim % 2:
            raise UserError(f"model.head_dim={self.head_dim} is odd; the rotary embedding needs an even width.")
        for name, known in (("dtype", Dtype), ("attention", Attention), ("remat", Remat), ("activation", Activation)):
            check_choice(f"model.{name}", getattr(self, name), get_args(known))
        if windows and (len(windows) != self.num_layers or min(windows) < 0):
            raise UserError(
                f"model.layer_windows={windows}; expected one per layer ({self.num_layers}), 0 for no window."
            )
        self._check_rope()

    def _check_rope(self):
        check_choice("model.rope_scaling", self.rope_scaling, get_args(RopeScaling))
        if self.rope_scaling and self.rope_factor <= 0:
            raise UserError(f"model.rope_factor={self.rope_factor}; expected a number above 0.")
        if self.rope_scaling == "llama3" and not (
            0 < self.rope_low_freq_factor < self.rope_high_freq_factor and self.rope_original_length > 0
        ):
            raise UserError(
                f"model.rope_low_freq_factor={self.rope_low_freq_factor}, rope_high_freq_factor="
                f"{self.rope_high_freq_factor}, rope_original_length={self.rope_original_length}; llama3 scaling needs "
                "0 < low < high and a length above 0."
            )

    @property
    def num_params(self) -> int:
        """Parameters of the decoder, embedding included, scalar head not."""
        attention = self.d_model * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        attention += self.head_dim * (self.num_heads + 2 * self.num_kv_heads) * self.qkv_bias
        attention += 2 * self.head_dim * self.qk_norm
        norms = (4 if self.post_norms else 2) * self.d_model
        layer = attention + 3 * self.d_model * self.d_ff + norms
        tables = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.num_layers * layer + tables + self.d_model
