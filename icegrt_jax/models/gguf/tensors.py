"""The tensors of a GGUF file: their names, and their numbers, dequantised a few rows at a time.

Block formats: https://github.com/ggml-org/llama.cpp, ggml/src/ggml-common.h.
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig

# Our path -> their name, of all architectures. Their matrices are [out, in], as in Hugging Face's.
NAMES = {
    "embed/embedding": "token_embd.weight",
    "layers/attn_norm/scale": "blk.{}.attn_norm.weight",
    "layers/attn/q/kernel": "blk.{}.attn_q.weight",
    "layers/attn/k/kernel": "blk.{}.attn_k.weight",
    "layers/attn/v/kernel": "blk.{}.attn_v.weight",
    "layers/attn/q/bias": "blk.{}.attn_q.bias",
    "layers/attn/k/bias": "blk.{}.attn_k.bias",
    "layers/attn/v/bias": "blk.{}.attn_v.bias",
    "layers/attn/q_norm/scale": "blk.{}.attn_q_norm.weight",
    "layers/attn/k_norm/scale": "blk.{}.attn_k_norm.weight",
    "layers/attn/o/kernel": "blk.{}.attn_output.weight",
    "layers/attn_post_norm/scale": "blk.{}.post_attention_norm.weight",
    "layers/mlp_norm/scale": "blk.{}.ffn_norm.weight",
    "layers/mlp/gate/kernel": "blk.{}.ffn_gate.weight",
    "layers/mlp/up/kernel": "blk.{}.ffn_up.weight",
    "layers/mlp/down/kernel": "blk.{}.ffn_down.weight",
    "layers/mlp_post_norm/scale": "blk.{}.post_ffw_norm.weight",
    "final_norm/scale": "output_norm.weight",
    "lm_head/kernel": "output.weight",
}
ROPE_FREQS = "rope_freqs.weight"  # part of the config, see `gguf_config.py`
TYPES = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q4_K, Type.Q6_K)


def names_of(path: str, config: ModelConfig) -> tuple[str, ...]:
    """Their names of our leaf: one, or with scanned layers one per layer."""
    if not path.startswith("layers/"):
        return (NAMES[path],)
    if config.scan_layers:
        return tuple(NAMES[path].format(i) for i in range(config.num_layers))
    _, layer, rest = path.split("/", 2)
    return (NAMES[f"layers/{rest}"].format(layer),)


class Stored:
    """A tensor of the file as our folder formats have it, read and dequantised where it is indexed.

    llama.cpp stores two things differently. Of the llama architecture, the two halves of each query and key head are
    interleaved for its own rotary embedding (`permute` in its converter); ours rotates halves, as Hugging Face's does.
    Of Gemma, norms are stored as 1 + weight.
    """

    def __init__(self, file: pathlib.Path, tensor: gguf.ReaderTensor, path: str, config: ModelConfig):
        if tensor.tensor_type not in TYPES:
            raise UserError(
                f"{file}: {tensor.name} is stored as {tensor.tensor_type.name}; expected one of "
                f"{', '.join(kind.name for kind in TYPES)}."
            )
        self._tensor, self._shift, self._rows = tensor, 0.0, None
        if config.zero_centred_norm and path.endswith("norm/scale"):
            self._shift = 1.0
        if config.family == "llama" and path.endswith(("attn/q/kernel", "attn/k/kernel")):
            self._rows = split_halves(self.get_shape()[0], config.head_dim)

    def get_shape(self) -> list[int]:
        """[out, in] of a matrix, [n] of a vector; theirs start with the fastest axis."""
        return [int(size) for size in reversed(self._tensor.shape)]

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        """float32, the part that one slice per axis picks."""
        tensor = self._tensor
        if len(index) == 1:
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type)[index[0]] - np.float32(self._shift)
        # By rows only: blocks lie along them.
        rows = tensor.data[index[0] if self._rows is None else self._rows[index[0]]]
        return gguf.quants.dequantize(rows, tensor.tensor_type)[:, index[1]]


def split_halves(count: int, head_dim: int) -> np.ndarray:
    """For each of our `count` query or key rows, which of theirs it is: of a head rows 0, 2, 4, …, then 1, 3, 5, …"""
    return np.arange(count).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
