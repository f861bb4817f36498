"""A plan as tables: Markdown, which is read on a terminal as well."""

from collections.abc import Sequence

from icegrt_jax.plan.chips import GIB
from icegrt_jax.plan.plan import Row, Target
from icegrt_jax.plan.search import MARGIN, Largest
from icegrt_jax.plan.sweep import Trial
from icegrt_jax.plan.topology import Topology

NOTICE = "Estimates only: compiled ahead of time, no hardware was used."
MEMORY = ("arguments", "temporaries", "outputs", "aliased")


def header(name: str, target: Target, mesh, notes: Sequence[str]) -> str:
    """What is planned, on what, and what is assumed."""
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    lines = [f"Plan of {name} on {chips(target.topology)}, mesh {sizes}. {NOTICE}"]
    chip = target.chip
    if chip:
        lines.append(
            f"A {chip.name} chip: {chip.flops / 1e12:.0f} TFLOP/s bfloat16, {chip.hbm / GIB:.2f} GiB usable at "
            f"{chip.hbm_bandwidth / 1e9:.0f} GB/s, {chip.ici_bandwidth / 1e9:.0f} GB/s between chips "
            f"({', '.join(chip.sources)})."
        )
    else:
        lines.append("Simulated CPU devices: bytes, FLOPs and collectives, but no figures for seconds.")
    return "\n".join([*lines, *notes])


def roles_table(roles: dict) -> str:
    """Bytes per chip that each stage holds throughout."""
    rows = [
        [stage, role, gib(held["params"]), gib(held["optimizer"]) if held["optimizer"] else "-"]
        for stage, by_role in roles.items()
        for role, held in by_role.items()
    ]
    return table(["stage", "role", "parameters GiB", "optimizer GiB"], rows)


def memory_table(rows: Sequence[Row]) -> str:
    """Bytes per chip of each program."""
    names = {None: "-", True: "yes", False: "no"}
    return table(
        ["program", "rows", *(f"{name} GiB" for name in MEMORY), "peak GiB", "fits"],
        [
            [
                row.name, str(row.rows), *(gib(row.memory[name]) if name in row.memory else "-" for name in MEMORY),
                gib(row.peak), names[row.fits],
            ]
            for row in rows
        ],
    )  # fmt: skip


def cost_table(rows: Sequence[Row]) -> str:
    """FLOPs, traffic, collectives and seconds of each program and its parts, per chip."""
    kinds = sorted({kind for row in rows for part in row.parts.values() for kind in part["collectives"]})
    lines = []
    for row in rows:
        for name, part in row.parts.items():
            sent = [f"{part['collectives'].get(kind, 0.0) / 1e9:.3g}" for kind in kinds]
            seconds = f"{max(part['seconds'].values()):.3g}"
            label = f"{row.name}: {name}" if name else row.name
            lines.append(
                [label, f"{part['flops'] / 1e12:.4g}", f"{part['hbm_bytes'] / 1e9:.4g}", *sent, seconds, part["bound"]]
            )
    if not lines:
        return "No costs: the compiler refuses the size of every program."
    return table(["program", "TFLOP", "memory GB", *(f"{kind} GB" for kind in kinds), "seconds", "bound by"], lines)


def summary(rows: Sequence[Row], seconds: dict[str, float], largest: Sequence[Largest]) -> str:
    """Seconds, whether it fits, the largest batches, and what should not be there."""
    lines = []
    refused = [row.name for row in rows if "needed" in row.memory]  # by the compiler, for its size
    if any(seconds.values()):
        each = [f"a PPO iteration {decimals(seconds['ppo'], 1)} s"] if seconds.get("ppo") else []
        each += [f"a step of {stage} {decimals(seconds[stage])} s"
                 for stage in seconds if stage not in ("ppo", "run") and seconds[stage]]  # fmt: skip
        without = f", without {' and '.join(refused)}" if refused else ""
        lines.append(f"At least: {', '.join(each)}; the whole run {decimals(seconds['run'] / 3600, 1)} h{without}.")
    for row in rows:
        if row.fits is False:
            lines.append(f"Does not fit: {row.name} needs {gib(row.peak)} GiB a chip.")
    if rows and all(row.fits for row in rows):
        lines.append("Fits.")
    lines += _decoding(rows)
    lines += [_largest(found) for found in largest]
    return "\n".join([*lines, *_checks(rows, refused)])


def _checks(rows: Sequence[Row], refused: Sequence[str]) -> list[str]:
    """What should not be there, and which programs the compiler left unseen."""
    lines = [f"Check, {row.name}: {offender}." for row in rows for offender in row.offenders]
    if not lines and len(refused) < len(rows):
        lines = ["Checks: no large parameter is whole on every chip, no program holds the logits of its rows"]
        lines[0] += ", decoding sends no weights." if any("decode" in row.parts for row in rows) else "."
    if refused:
        lines.append(f"Not checked, as the compiler refuses their size: {', '.join(refused)}.")
    return lines


def _largest(found: Largest) -> str:
    """The batch that was compiled and fits, and why not more."""
    if not found.value:
        held = "what stays on a chip is too much" if found.refused is None else f"{found.refused} is too much"
        return f"No {found.key} fits: {held} with {found.program}."
    if not found.program:
        return f"Largest {found.key} tried: {found.value}, which fits."
    if found.refused:
        return f"Largest {found.key} seen to fit: {found.value}; with {found.refused}, {found.program} does not."
    left = f"by its bytes per row more would leave {found.program} less than {MARGIN:.0%} of the memory"
    return f"Largest {found.key} that fits: {found.value}; {left}."


def _decoding(rows: Sequence[Row]) -> list[str]:
    """What one decode step sends."""
    lines = []
    for row in rows:
        part = row.parts.get("decode")
        if part and part["moves"]:
            kind, times, sent, operands = part["moves"][0]
            total = sum(part["collectives"].values()) / 1e6 / row.decode_steps
            shapes = " and ".join(str(list(dims)) for dims in operands)
            lines.append(f"A decode step sends {total:.3g} MB a chip, most of it by {kind} of {shapes}.")
    return lines


def sweep_table(trials: Sequence[Trial]) -> str:
    """One row for each way that was tried, the fastest first."""
    ordered = sorted(trials, key=lambda trial: (trial.fits is False, trial.seconds.get("run", 0.0), trial.peak))
    return table(
        ["mesh data x fsdp x tensor", "remat", "peak GiB", "s per PPO iteration", "run h", ""],
        [
            [
                trial.mesh, trial.values["model.remat"], gib(trial.peak) if trial.peak else "-",
                decimals(trial.seconds["ppo"], 1) if trial.seconds.get("ppo") else "-",
                decimals(trial.seconds["run"] / 3600, 1) if trial.seconds.get("run") else "-", trial.reason,
            ]
            for trial in ordered
        ],
    )  # fmt: skip


def chips(topology: Topology) -> str:
    """Such as "v5e:2x4: 8 chips"."""
    return f"{topology}: {topology.chips} chip{'s' if topology.chips > 1 else ''}"


def gib(count: float) -> str:
    """Bytes in GiB, as text."""
    return decimals(count / GIB)


def decimals(number: float, digits: int = 2) -> str:
    """With so many digits behind the point, or two that count where it is small: toy models are planned as well."""
    return f"{number:.{digits}f}" if number >= 0.1 or not number else f"{number:.2g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
