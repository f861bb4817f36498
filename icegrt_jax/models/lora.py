"""Low-rank adapters: a small tree beside a frozen one, y = x W + s (x A) B.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1; the scale s of rsLoRA is Kalajdzievski 2023,
https://arxiv.org/abs/2312.03732. An adapter has the shape of the model's tree, cut down to the modules it
changes: `lora_a` f32[in, r] and `lora_b` f32[r, out] where the model has `kernel` [in, out] (a leading layer
axis with scanned layers), and for scalar models a `head` of its own.
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp

from icegrt_jax.config.choices import LORA_TARGETS
from icegrt_jax.config.options import LoRAOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.precision import float32_products
from icegrt_jax.models.quantize import dequantized
from icegrt_jax.models.tree import flatten, map_with_path, unflatten


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig(LoRAOptions):
    """What an adapter changes: `LoRAOptions` with a rank r, columns of A, of 1 or more. Hashable."""

    def __post_init__(self):
        object.__setattr__(self, "targets", tuple(self.targets))  # a list after JSON
        unknown = [name for name in self.targets if name not in LORA_TARGETS]
        if unknown or not self.targets:
            raise UserError(f"lora.targets={self.targets}; expected one or more of {', '.join(LORA_TARGETS)}.")
        if self.rank < 1 or self.alpha <= 0:
            raise UserError(f"lora.rank={self.rank}, lora.alpha={self.alpha}; expected a rank of 1 or more, alpha > 0.")

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def init_adapter(key: jax.Array, base: dict, config: LoRAConfig, *, head: dict | None = None) -> dict:
    """A new adapter of a base tree (arrays or abstract) that changes nothing yet: B is 0.

    A is uniform in ±1 / sqrt(in), as in the paper's code and PEFT. `head` is kept as the adapter's own.
    """
    leaves = {}
    for path, kernel in flatten(base).items():
        *module, name = path.split("/")
        if name != "kernel" or module[-1] not in config.targets:
            continue
        *stack, inputs, outputs = kernel.shape
        bound = inputs**-0.5
        own_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        shape = (*stack, inputs, config.rank)
        leaves["/".join((*module, "lora_a"))] = jax.random.uniform(own_key, shape, jnp.float32, -bound, bound)
        leaves["/".join((*module, "lora_b"))] = jnp.zeros((*stack, config.rank, outputs), jnp.float32)
    adapter = unflatten(leaves)
    return adapter if head is None else {**adapter, "head": head}


def with_adapter(base: dict, adapter: dict, config: LoRAConfig | None) -> dict:
    """The base tree with the adapter's leaves in it, which the modules then use; nothing large is computed.

    The scale goes into `lora_b`. Leaves of the adapter that the base has as well (a `head`) take their place.
    """

    def scaled(path: str, leaf: jax.Array) -> jax.Array:
        if not path.endswith("/lora_b"):
            return leaf
        assert config is not None, f"{path} is an adapter's, whose scale is not given"
        return leaf * config.scale

    return _joined(base, map_with_path(scaled, adapter))


def merged(base: dict, adapter: dict, config: LoRAConfig | None) -> dict:
    """A tree without adapter that computes the same, in float32: W + s A B. An int8 base is widened first.

    `config` is None where the part holds a head only.
    """
    leaves = flatten(dequantized(_joined(base, adapter)))
    out = {}
    for path, leaf in leaves.items():
        module, _, name = path.rpartition("/")
        if name in ("lora_a", "lora_b"):
            continue
        out[path] = leaf.astype(jnp.float32)
        if name == "kernel" and f"{module}/lora_a" in leaves:
            assert config is not None, f"{module} has an adapter, whose scale is not given"
            a, b = (leaves[f"{module}/lora_{factor}"] for factor in "ab")
            out[path] += config.scale * jnp.matmul(a, b, precision=float32_products(a, b))
    return unflatten(out)


def _joined(base: dict, changes: dict) -> dict:
    both = {
        name: _joined(base[name], value) if isinstance(value, dict) and name in base else value
        for name, value in changes.items()
    }
    return {**base, **both}
