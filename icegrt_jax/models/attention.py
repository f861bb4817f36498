"""The ways to attend over whole rows, and which of them is taken: `model.attention` and the devices decide.

    plain    XLA on any device, in `transformer.py`; the only way of a decode step
    splash   TPU: JAX's Pallas kernel, see `splash.py`
    cudnn    GPU: cuDNN's flash attention, through `jax.nn.dot_product_attention`

The fused ways give what the plain one gives at every real token, up to rounding. At padding they differ.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from icegrt_jax.models import splash
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.sharding.mesh import AXES, platform
from icegrt_jax.sharding.rules import LAYOUTS, split_axes

FUSED = {"tpu": "splash", "gpu": "cudnn"}
SHORTEST = 128  # tokens of a row below which the plain way costs nothing that a kernel could save
CUDNN_WIDEST = 128  # of a head; wider ones only some GPUs have
CUDNN_CAPABILITY = 8.0  # Ampere: the first with bfloat16


class Seen(struct.PyTreeNode):
    """What the tokens of each row see, for a fused way: those of their own segment up to themselves.

    way: "splash" or "cudnn".
    segments: i32[B, L], padding a segment of its own; None for rows that are padded on the right only, where causality
      says it all.
    """

    way: str = struct.field(pytree_node=False)
    segments: jax.Array | None


def choose(config: ModelConfig, length: int) -> str:
    """The way to attend over rows of `length` tokens; where it is not the one asked for the reason is printed once."""
    asked, possible = config.attention, FUSED.get(platform(), "plain")
    if asked == "plain" or (asked == "auto" and possible == "plain"):
        return "plain"
    if asked not in ("auto", possible):
        return _plain(f"model.attention={asked!r} does not run on a {platform()}")
    if length < SHORTEST:
        return "plain"
    if not _is_local() and not _is_split():
        return _plain(f"{possible} needs a mesh of the axes {', '.join(AXES)} to be split over several devices")
    if possible == "cudnn" and (reason := _cudnn_cannot(config)):
        return _plain(reason)
    return possible


def _is_local() -> bool:
    """Whether what is traced is one device's own program: there is one, or each has its part (shard_map, pmap)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or set(mesh.axis_types) == {AxisType.Manual}


def _is_split() -> bool:
    """Whether it is the program of all devices of our mesh, which XLA splits."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.axis_names in LAYOUTS and set(mesh.axis_types) == {AxisType.Auto}


@functools.cache
def _plain(reason: str) -> str:
    """ "plain", and says why, once a process."""
    print(f"attention: plain, because {reason}", flush=True)
    return "plain"


def _cudnn_cannot(config: ModelConfig) -> str:
    """Why cuDNN's kernel cannot compute this model; empty if it can."""
    if config.attn_softcap:
        return "cudnn has no softcap"
    if config.dtype == "float32":
        return "cudnn computes in bfloat16 and model.dtype is float32"
    if config.head_dim % 8 or config.head_dim > CUDNN_WIDEST:
        return f"cudnn takes heads of a multiple of 8 up to {CUDNN_WIDEST}, and head_dim is {config.head_dim}"
    if compute_capability() < CUDNN_CAPABILITY:
        return f"cudnn needs an NVIDIA GPU of compute capability {CUDNN_CAPABILITY} or newer"
    return ""


def compute_capability() -> float:
    """Of this process's GPUs, such as 9.0; 0 where they are not NVIDIA's."""
    said = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return float(said) if re.fullmatch(r"\d+\.\d+", said) else 0.0


def attend_fused(
    q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen, config: ModelConfig, window: jax.Array | int
) -> jax.Array:
    """What every token reads, f[B, L, N, H], split over the mesh that is set.

    Args:
      q: f[B, L, N, H], already times the scale of the scores.
      k, v: f[B, L, K, H].
      seen: which way, and what there is to see.
      config: of the model.
      window: this layer's, i32[]; one of `config.layer_windows`, or 0.
    """
    length = q.shape[1]
    # A window that reaches over the whole row is none.
    windows = sorted({w if w < length else 0 for w in config.layer_windows or (0,)})
    which = jnp.searchsorted(np.asarray(windows), jnp.where(jnp.asarray(window) < length, window, 0))

    def local(q, k, v, segments, which):
        if seen.way == "splash":
            ways = [functools.partial(splash.splash_attention, window=w, softcap=config.attn_softcap) for w in windows]
        else:
            ways = [functools.partial(cudnn_attention, window=w) for w in windows]
        # A kernel is compiled for its window; scanned layers of different ones choose among them.
        return ways[0](q, k, v, segments) if len(ways) == 1 else jax.lax.switch(which, ways, q, k, v, segments)

    return over_mesh(local, q, k, v, seen.segments, which)


def over_mesh(local, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, which: jax.Array):
    """`local(q, k, v, segments, which)` on each device's rows and heads.

    XLA cannot split a kernel by itself. An axis whose size does not divide the rows or heads computes all of them.
    """
    if _is_local():
        return local(q, k, v, segments, which)
    mesh = jax.sharding.get_abstract_mesh()
    batch, split = split_axes(q.shape[0], "rows", mesh), split_axes(q.shape[2], "heads", mesh)
    parts, kv_heads = math.prod(mesh.shape[axis] for axis in split), k.shape[2]
    if kv_heads % parts and parts % kv_heads:
        split, parts = (), 1
    if kv_heads % parts:  # fewer than devices: every device gets the one that its query heads share
        k, v = (jnp.repeat(x, parts // kv_heads, axis=2) for x in (k, v))
    spread, rows = P(batch or None, None, split or None, None), P(batch or None, None)
    specs = (spread, spread, spread, None if segments is None else rows, P())
    return jax.shard_map(local, in_specs=specs, out_specs=spread, check_vma=False)(q, k, v, segments, which)


def cudnn_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, *, window: int = 0
) -> jax.Array:
    """What every token reads from the tokens of its segment up to itself, f[B, L, N, H], by cuDNN in a 16-bit dtype.

    Without segments nothing but a flag tells the kernel what is seen; with them it reads a mask [B, 1, L, L].
    """
    length, mask, local = q.shape[1], None, (window - 1, 0) if window else None
    odd = length % 2  # its backward pass wants an even length; nobody sees what is added at the end
    q, k, v = (jnp.pad(x, ((0, 0), (0, odd), (0, 0), (0, 0))) for x in (q, k, v))
    if segments is not None:
        segments = jnp.pad(segments, ((0, 0), (0, odd)))
        mask = segments[:, :, None] == segments[:, None, :]
        if window:  # in the mask: not every cuDNN takes both
            slots, local = jnp.arange(length + odd), None
            mask &= (slots[:, None] - slots[None, :] < window)[None]
        mask = mask[:, None]  # [B, 1, L, L]
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=1.0, is_causal=True, implementation="cudnn", local_window_size=local
    )
    return out[:, :length]


def to_the_left(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where each slot's content comes from when rows are moved so that nothing is padded on the left, and back.

    Args:
      mask: bool[B, L], True at real tokens, which lie side by side.

    Returns:
      Indices i32[B, L] for `take_along_axis`: rotate to the left, and back to where it was.
    """
    length = mask.shape[1]
    start = jnp.argmax(mask, axis=1)[:, None]
    slots = jnp.arange(length)[None]
    return (slots + start) % length, (slots - start) % length
