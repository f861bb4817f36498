"""Shape of a decoder: everything that decides a parameter tree and its forward pass."""

import dataclasses

from icegrt_jax.errors import UserError

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Llama-shaped decoder. Hashable, so a jitted function can take it as a static argument.

    Attributes:
      vocab_size: V, rows of the embedding.
      d_model: D, width of the residual stream.
      num_layers: number of blocks.
      num_heads: N, query heads.
      num_kv_heads: key and value heads; divides num_heads (grouped-query attention).
      head_dim: H, width of one head; even, for the rotary embedding.
      d_ff: F, width of the gated MLP.
      rope_theta: base of the rotary embedding.
      norm_eps: epsilon of RMSNorm.
      tie_embeddings: logits from the embedding itself; otherwise from `lm_head`.
      max_length: longest sequence the model was made for, in tokens.
      scan_layers: layers stacked in one tree and scanned (fast compilation for deep models) or
        one subtree each (fast decoding on CPU).
      remat: recompute each layer's activations in the backward pass.
      dtype: of the computation; parameters keep their own.
      init_std: of a new embedding. Small models learn to copy from their context much sooner with
        about 1 / sqrt(d_model).
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    max_length: int = 2048
    scan_layers: bool = False
    remat: bool = False
    dtype: str = "float32"
    init_std: float = 0.02

    def __post_init__(self):
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
        if self.dtype not in DTYPES:
            raise UserError(f"model.dtype={self.dtype!r}; expected one of {', '.join(DTYPES)}.")

    @property
    def num_params(self) -> int:
        """Parameters of the decoder, embedding included, scalar head not."""
        attention = self.d_model * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        layer = attention + 3 * self.d_model * self.d_ff + 2 * self.d_model
        tables = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.num_layers * layer + tables + self.d_model
