"""What no program of a plan may hold: a large parameter on every chip, or the logits of a whole batch."""

import math

import jax
from jax.sharding import Mesh

from icegrt_jax.models.chunks import CHUNK_ELEMENTS_ACCELERATOR
from icegrt_jax.plan.compiled import Compiled
from icegrt_jax.plan.hlo import Shape
from icegrt_jax.plan.program import Program
from icegrt_jax.plan.shapes import itemsize, shard_shape
from icegrt_jax.sharding.mesh import BATCH_AXES
from icegrt_jax.sharding.rules import path_name

LIMIT = 64 * 2**20  # bytes
CHUNK = CHUNK_ELEMENTS_ACCELERATOR
SMALL = 2**16  # bytes of a weight below which it may have the shape of an activation


def offenders(program: Program, compiled: Compiled, mesh: Mesh) -> list[str]:
    """One sentence for each array that should not be there."""
    return [
        *replicated(program, mesh),
        *gathered(program, compiled, mesh),
        *moved(program, compiled),
        *logits(program, compiled, mesh),
    ]


def replicated(program: Program, mesh: Mesh) -> list[str]:
    """Parameters and optimizer states above LIMIT that every chip holds whole."""
    if mesh.size == 1:
        return []
    leaves = jax.tree_util.tree_flatten_with_path(program.params)[0]
    return [
        f"{path_name(path)} {_text(leaf.dtype, leaf.shape)} is whole on every chip"
        for path, leaf in leaves
        if math.prod(leaf.shape) * itemsize(leaf) > LIMIT and shard_shape(leaf) == leaf.shape
    ]


def gathered(program: Program, compiled: Compiled, mesh: Mesh) -> list[str]:
    """Parameters above LIMIT, of stacked layers all at once, that a program puts together from their parts."""
    if mesh.size == 1:
        return []
    leaves = jax.tree_util.tree_flatten_with_path(program.params)[0]
    split = {leaf.shape: path_name(path) for path, leaf in leaves if shard_shape(leaf) != leaf.shape}
    return [
        f"{split[tuple(dims)]} is gathered whole, as {dtype}{dims}"
        for dtype, dims in compiled.large
        if tuple(dims) in split and _bytes(dtype, dims) > LIMIT
    ]


def moved(program: Program, compiled: Compiled) -> list[str]:
    """Weights, or a chip's part of them, that a decode step sends to other chips.

    What is added up over chips they have just computed, though it may have an adapter's shape.
    """
    if "decode" not in compiled.parts:
        return []
    leaves = jax.tree_util.tree_flatten_with_path(program.weights)[0]
    weights = {}
    for path, leaf in leaves:
        for shape in (leaf.shape, shard_shape(leaf)):
            # Layers are scanned: what a step would send is one of a stack.
            for own in (shape, shape[1:] if len(shape) > 2 else shape):
                if len(_sizes(own)) > 1 and math.prod(own) * itemsize(leaf) >= SMALL:
                    weights[_sizes(own)] = path_name(path)
    return [
        f"decoding sends {weights[_sizes(dims)]}: {kind} of {list(dims)}"
        for kind, _, _, operands in compiled.parts["decode"].moves
        if kind not in ("all-reduce", "reduce-scatter")
        for dims in operands
        if _sizes(dims) in weights
    ]


def logits(program: Program, compiled: Compiled, mesh: Mesh) -> list[str]:
    """Arrays with an axis of the vocabulary, or a chip's part of it, and as many elements as a block has logits.

    Of a block with fewer logits than one chunk of `models.chunks` all are there at a time; that is no finding.
    """
    if program.model is None:
        return []
    vocab, tensor, fsdp = program.model.vocab_size, mesh.shape["tensor"], mesh.shape["fsdp"]
    rows = max(program.block // math.prod(mesh.shape[axis] for axis in BATCH_AXES), 1)
    # A chip's part of the vocabulary, and the rows of whose logits it has that part.
    splits = ((tensor * fsdp, rows * fsdp), (tensor, rows), (1, rows))
    rows_of = {vocab // parts: many for parts, many in splits if vocab % parts == 0}
    weights = {_sizes(shape) for leaf in jax.tree.leaves(program.params) for shape in (leaf.shape, shard_shape(leaf))}
    weights |= {_sizes((part, program.model.d_model)) for part in rows_of}
    return [
        f"{dtype}{dims} is as large as all logits of {rows_of[part]} rows of {program.length} tokens"
        for dtype, dims in compiled.large
        for part in sorted(set(rows_of) & set(dims))[:1]
        if math.prod(dims) >= max(rows_of[part] * program.length * part, CHUNK + 1) and _sizes(dims) not in weights
    ]


def _sizes(dims) -> tuple[int, ...]:
    return tuple(sorted(size for size in dims if size != 1))


def _bytes(dtype: str, dims: list[int]) -> int:
    return Shape(dtype, tuple(dims)).bytes


def _text(dtype, shape) -> str:
    return f"{dtype}{list(shape)}"
