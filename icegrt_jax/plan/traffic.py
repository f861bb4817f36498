"""Bytes that an instruction reads from and writes to a chip's main memory.

Operands and result count once each. What only slices or updates a part of a large array counts that part; arrays
that the compiler keeps in on-chip memory count nothing.
"""

from icegrt_jax.plan.hlo import HBM, Instruction, Module, Shape

# No data moves: the same buffer by another name, or bookkeeping. Loops and branches count by their bodies.
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-update", "iota",
}  # fmt: skip
SLICING = ("dynamic-slice", "gather", "slice")


def hbm_bytes(module: Module, instruction: Instruction, computation: dict[str, Instruction]) -> float:
    """Of one instruction that is not itself a loop or a branch."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done") or 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0.0
    operands = [computation[name].shapes for name in instruction.operands if name in computation]
    if opcode == "fusion":
        fused = module.computations[instruction.called["calls"]]
        return _read_by(module, fused, operands) + _written_by(module, fused, instruction)
    if opcode in SLICING:
        return 2.0 * _bytes(instruction.shapes)
    if opcode == "dynamic-update-slice":
        return 2.0 * _bytes(operands[1])
    if opcode == "scatter":
        return 3.0 * _bytes(operands[-1])
    if opcode == "copy-start":  # (destination, source, context)
        return float(_bytes(instruction.shapes[:2]))
    if opcode in ("slice-start", "dynamic-slice-start"):  # (source, destination, context)
        part = instruction.shapes[1]
        return float(part.bytes * ((instruction.shapes[0].space == HBM) + (part.space == HBM)))
    if opcode.endswith("-start"):
        return 2.0 * sum(map(_bytes, operands))
    return float(sum(map(_bytes, operands)) + _bytes(instruction.shapes))


def _bytes(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == HBM)


def _read_by(module: Module, fused: dict[str, Instruction], operands: list[tuple[Shape, ...]]) -> float:
    """What a fusion reads of its operands: of one that is only sliced, the slices."""
    total = 0.0
    for parameter in fused.values():
        if parameter.opcode == "parameter":
            number = int(parameter.inside)
            whole = _bytes(operands[number] if number < len(operands) else parameter.shapes)
            total += min(_part_read(module, fused, parameter.name, whole), whole)
    return total


def _part_read(module: Module, fused: dict[str, Instruction], name: str, whole: int) -> float:
    """Bytes of an array that the instructions of a fusion read, of which there are `whole`."""
    total = 0.0
    for user in fused.values():
        if name not in user.operands:
            continue
        first = user.operands[0] == name
        if user.opcode in SLICING and first:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.opcode == "dynamic-update-slice" and first:
            pass  # the rest of the array stays as it is, unread
        elif user.opcode == "tuple":
            pass  # handed on
        elif user.opcode in ("bitcast", "copy") or _renames(module, user):
            total += _part_read(module, fused, user.name, whole)
        elif user.opcode == "fusion":
            inner = module.computations[user.called["calls"]]
            numbers = [str(i) for i, operand in enumerate(user.operands) if operand == name]
            for one in inner.values():
                if one.opcode == "parameter" and one.inside in numbers:
                    total += _part_read(module, inner, one.name, whole)
        else:
            return float(whole)
    return total


def _renames(module: Module, user: Instruction) -> bool:
    """Whether it is a fusion that gives an array another tiling, of which a fusion around it reads what it needs."""
    inner = module.computations[user.called["calls"]].values() if user.opcode == "fusion" else ()
    return bool(inner) and all(one.opcode in ("parameter", "copy", "bitcast") for one in inner)


def _written_by(module: Module, fused: dict[str, Instruction], fusion: Instruction) -> float:
    """What a fusion writes: of an array that it updates in place, the update."""
    root = next(one for one in fused.values() if one.is_root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root] * len(fusion.shapes)
    # What a collective that is woven into several fusions works on is handed from one to the next.
    handed = {one.shapes[0].dims for one in results if one.opcode == "parameter"}
    return sum(
        _result_bytes(module, fused, result, shape)
        for result, shape in zip(results, fusion.shapes)
        if result.opcode != "parameter" and not (result.opcode == "all-gather" and shape.dims in handed)
    )


def _result_bytes(module: Module, fused: dict[str, Instruction], result: Instruction, shape: Shape) -> float:
    if shape.space != HBM:
        return 0.0
    while result.opcode in ("bitcast", "copy", "convert") and result.operands[0] in fused:
        result = fused[result.operands[0]]
    if result.opcode == "fusion" and len(result.shapes) == 1:
        inner = module.computations[result.called["calls"]]
        return _result_bytes(module, inner, next(one for one in inner.values() if one.is_root), shape)
    if result.opcode == "dynamic-update-slice":
        return float(sum(update.bytes for update in fused[result.operands[1]].shapes))
    return float(shape.bytes)
