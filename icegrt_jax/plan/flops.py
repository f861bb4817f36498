"""FLOPs of matrix products, two for each multiply-add; everything else is counted as memory traffic only."""

import math
import re

from icegrt_jax.plan.hlo import Instruction, Module

_WINDOW = re.compile(r"window=\{([^}]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
# Matrix products of each of splash attention's kernels, which say nothing of their cost.
SPLASH = {"fwd": 2, "dq": 3, "dkv": 4}
_SPLASH = re.compile(r"splash_mha_(fwd|dq|dkv)")
_ESTIMATE = re.compile(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')


def instruction_flops(module: Module, instruction: Instruction, computation: dict[str, Instruction]) -> float:
    """Of one instruction, of a fusion all that is fused into it."""
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        return sum(instruction_flops(module, inner, fused) for inner in fused.values())
    if instruction.opcode == "dot":
        return dot_flops(instruction, computation)
    if instruction.opcode == "convolution":
        return convolution_flops(instruction, computation)
    if instruction.opcode == "custom-call":
        return kernel_flops(instruction, computation)
    return 0.0


def kernel_flops(kernel: Instruction, computation: dict[str, Instruction]) -> float:
    """Of a Pallas kernel: what it says itself, or of splash attention its products over half of the scores."""
    estimate, splash = _ESTIMATE.search(kernel.attributes), _SPLASH.match(kernel.name)
    if estimate or not splash:
        return float(estimate[1]) if estimate else 0.0
    shapes = (shape for name in kernel.operands for shape in computation[name].shapes)
    # Queries come first of all that are no block indices: [rows, heads, length, width], or no rows for one.
    *rows, heads, length, width = next(shape.dims for shape in shapes if shape.dtype[0] in "bf" and len(shape.dims) > 2)
    return SPLASH[splash[1]] * 2.0 * math.prod(rows) * heads * width * length**2 / 2


def dot_flops(dot: Instruction, computation: dict[str, Instruction]) -> float:
    """2 · elements of the result · elements contracted."""
    left = computation[dot.operands[0]].shapes[0].dims
    contracted = dot.attribute("lhs_contracting_dims") or ""
    return 2.0 * dot.shapes[0].elements * math.prod(left[int(i)] for i in contracted.split(",") if i)


def convolution_flops(convolution: Instruction, computation: dict[str, Instruction]) -> float:
    """A TPU writes every matrix product as a convolution, a batch of them as one with a dilated window.

    Only products of two elements that are there count: neither padding nor the holes of a dilation.
    """
    labels = _LABELS.search(convolution.attributes)
    assert labels, f"{convolution.attributes}: a convolution names its dimensions"
    left, right, out = labels.groups()
    lhs = computation[convolution.operands[0]].shapes[0].dims
    rhs = computation[convolution.operands[1]].shapes[0].dims
    result = convolution.shapes[0].dims
    window = _window(convolution, sum(label.isdigit() for label in out))
    pairs = math.prod(
        _valid_pairs(result[out.index(d)], rhs[right.index(d)], lhs[left.index(d)], window, int(d))
        for d in out
        if d.isdigit()
    )
    batch, features = result[out.index("b")], result[out.index("f")]
    groups = int(convolution.attribute("batch_group_count") or 1)
    return 2.0 * batch * features * rhs[right.index("i")] * pairs / groups


def _window(convolution: Instruction, spatial: int) -> dict[str, list]:
    """Stride, low padding and dilations by spatial dimension."""
    match = _WINDOW.search(convolution.attributes)
    given = dict(part.split("=") for part in (match[1].split() if match else []))
    sizes = lambda name, default: [int(x) for x in given[name].split("x")] if name in given else [default] * spatial
    low = [int(pad.split("_")[0]) for pad in given["pad"].split("x")] if "pad" in given else [0] * spatial
    return {"stride": sizes("stride", 1), "low": low, "lhs": sizes("lhs_dilate", 1), "rhs": sizes("rhs_dilate", 1)}


def _valid_pairs(out: int, taps: int, size: int, window: dict[str, list], d: int) -> int:
    """Pairs of an output position and a tap of the window that meet an element."""
    stride, low, lhs, rhs = (window[name][d] for name in ("stride", "low", "lhs", "rhs"))
    if taps == 1 and stride == 1 and lhs == 1 and low == 0:
        return min(out, size)
    found = 0
    for tap in range(taps):
        # Position p meets element (p · stride + tap · rhs - low) / lhs where that is whole and within.
        for p in range(out):
            at = p * stride + tap * rhs - low
            found += at >= 0 and at % lhs == 0 and at // lhs < size
    return found
