"""Bytes that an instruction reads from and writes to a chip's main memory.

Operands and result count once each. What only slices or updates a part of a large array counts that part; arrays
that the compiler keeps in on-chip memory count nothing.
"""

from icegrt_jax.plan.hlo import HBM, Instruction, Module, Shape

# No data moves: the same buffer by another name, or bookkeeping. Loops and branches count by their bodies.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-update", "async-done", "copy-done", "iota",
    "all-gather-done", "all-reduce-done", "collective-permute-done", "send-done", "recv-done",
}  # fmt: skip
SLICING = ("dynamic-slice", "gather", "slice")


def hbm_bytes(module: Module, instruction: Instruction, computation: dict[str, Instruction]) -> float:
    """Of one instruction that is not itself a loop or a branch."""
    opcode = instruction.opcode
    if opcode in FREE:
        return 0.0
    operands = [computation[name].shapes for name in instruction.operands if name in computation]
    if opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        return _read_by(fused, operands) + _written_by(module, fused, instruction)
    if opcode in SLICING:
        return 2.0 * _bytes(instruction.shapes)
    if opcode == "dynamic-update-slice":
        return 2.0 * _bytes(operands[1])
    if opcode == "scatter":
        return 3.0 * _bytes(operands[-1])
    if opcode == "copy-start":  # (destination, source, context)
        return float(sum(shape.bytes for shape in instruction.shapes[:2] if shape.space == HBM))
    if opcode.endswith("-start"):
        return 2.0 * sum(map(_bytes, operands))
    return float(sum(map(_bytes, operands)) + _bytes(instruction.shapes))


def _bytes(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == HBM)


def _read_by(fused: dict[str, Instruction], operands: list[tuple[Shape, ...]]) -> float:
    """What a fusion reads of its operands: of one that is only sliced, the slices."""
    total = 0.0
    for parameter in fused.values():
        if parameter.opcode != "parameter":
            continue
        number = int(parameter.inside)
        shapes = operands[number] if number < len(operands) else parameter.shapes
        users = [one for one in fused.values() if parameter.name in one.operands]
        if users and all(_touches_a_part(user, parameter.name) for user in users):
            total += min(sum(_part(user, fused) for user in users), _bytes(shapes)) if _bytes(shapes) else 0.0
        else:
            total += _bytes(shapes)
    return total


def _touches_a_part(user: Instruction, name: str) -> bool:
    return user.operands[0] == name and user.opcode in (*SLICING, "dynamic-update-slice")


def _part(user: Instruction, fused: dict[str, Instruction]) -> int:
    if user.opcode == "dynamic-update-slice":
        return 0  # the rest of the array stays as it is, unread
    return sum(shape.bytes for shape in user.shapes)


def _written_by(module: Module, fused: dict[str, Instruction], fusion: Instruction) -> float:
    root = next(one for one in fused.values() if one.is_root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    for result, shape in zip(results, fusion.shapes):
        if shape.space != HBM:
            continue
        while result.opcode in ("bitcast", "copy", "convert") and result.operands[0] in fused:
            result = fused[result.operands[0]]
        if result.opcode == "dynamic-update-slice":
            total += sum(update.bytes for update in fused[result.operands[1]].shapes)
        else:
            total += shape.bytes
    return total
