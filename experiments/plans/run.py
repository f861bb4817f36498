"""Makes the plans under results/: which TPU slices hold the runs in configs/, and how PPO of 13B scales.

    pip install -e '.[tpu]'
    python experiments/plans/run.py [NAME ...]

No TPU is needed or looked for. What has been compiled is kept in ~/.cache/icegrt_jax/plan (or $ICEGRT_PLAN_CACHE), so
that tables can be made again; a 13B program takes minutes the first time.
"""

import dataclasses
import json
import os
import pathlib
import resource
import sys
import time

from icegrt_jax.config import read
from icegrt_jax.config.file import load_config
from icegrt_jax.plan.topology import parse_topology, prepare

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("ICEGRT_PLAN_CACHE", "~/.cache/icegrt_jax/plan")).expanduser()

FULL = "configs/llama2_13b_v5p.py"
SHARED = "configs/llama2_13b_shared_base_v5e8.py"
# name: (config, topology, overrides)
FITTING = {
    "13b_full_v5p8": (FULL, "v5p:2x2x2", ("ppo.rollout_slots=64", "ppo.microbatch=64")),
    "13b_full_v5p16": (FULL, "v5p:2x2x4", ()),
    "13b_full_v5e64": (FULL, "v5e:8x8", ("mesh.tensor=2", "ppo.rollout_slots=64")),
    "13b_shared_v5e8": (SHARED, "v5e:2x4", ()),
    "13b_shared_int8_v5e4": (f"{SHARED}:int8", "v5e:2x2", ()),
    "qwen3_1p7b_v5e1": ("configs/qwen3_1p7b_v5e1.py", "v5e:1x1", ()),
}
SLICES = ("v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8")


def tensor_axis(chips: int) -> int:
    """The replay's 32 rows of a minibatch divide over 32 chips; the tensor axis takes the others."""
    return max(1, chips // 32)


def spread(chips: int) -> tuple[str, ...]:
    """What the number of chips changes; a chip has the keys and values of 16 responses, while there are so many. Of 8
    chips, on which more of the state lies, each has room for 8."""
    slots = 64 if chips == 8 else min(16 * chips, 512)
    layout = (f"mesh.tensor={tensor_axis(chips)}", f"ppo.rollout_slots={slots}")
    return ("sft.steps=0", "reward.steps=0", *layout)


def make(spec: str, topology: str, overrides: tuple[str, ...], *, once: bool = True):
    """The header, roles, rows and seconds of one plan, its config's own rows and no search.

    `once`: with the programs that run once only.
    """
    from icegrt_jax.commands.planned import Planned
    from icegrt_jax.plan import plan, report

    options = read(load_config(spec, [f"--config.{override}" for override in overrides]))
    target = plan.make_target(parse_topology(topology), cache=CACHE)
    mesh, programs = Planned(options, target, 4).programs({})
    programs = [program for program in programs if program.repeats or once]
    rows = []
    for program in programs:
        start, used = time.monotonic(), time.process_time()
        rows.append(plan.plan_row(program, mesh, target))
        start, used = time.monotonic() - start, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{topology} {program.name}: {start:.0f} s, CPU {used:.0f} s, process {peak:.1f} GiB", flush=True)
    notes = [f"Set: {' '.join(overrides)}."] if overrides else []
    head = report.header(spec, target, mesh, notes)
    return head, plan.role_bytes(programs), rows, plan.totals(options.steps, rows)


def fitting(name: str) -> None:
    """One plan as JSON and Markdown."""
    from icegrt_jax.plan import report

    head, roles, rows, seconds = make(*FITTING[name])
    tables = [report.roles_table(roles), report.memory_table(rows), report.cost_table(rows)]
    text = "\n\n".join([f"# {name}", head, *tables, report.summary(rows, seconds, {})])
    write(name, {"roles": roles, "programs": [dataclasses.asdict(row) for row in rows], "seconds": seconds}, text)


def scaling() -> None:
    """PPO of 13B on 8 to 256 chips, the same 512 responses of 1024 tokens on all."""
    from icegrt_jax.plan import report

    lines, found, base = [], {}, None
    for topology in SLICES:
        chips = parse_topology(topology).chips
        _, _, rows, seconds = make(FULL, topology, spread(chips), once=False)
        sent = sum(sum(part["collectives"].values()) * row.repeats for row in rows for part in row.parts.values())
        work = chips * seconds["ppo"]
        base = base or work
        found[chips] = {"topology": topology, "programs": [dataclasses.asdict(row) for row in rows], "seconds": seconds}
        each = {row.name: row.seconds for row in rows}
        tensor, peak = tensor_axis(chips), max(row.peak for row in rows)
        lines.append([
            str(chips), topology, f"{chips // tensor} x {tensor}", report.gib(rows[0].resident), report.gib(peak),
            "yes" if all(row.fits for row in rows) else "no", f"{sent / 1e9:.0f}", f"{each['rollout']:.1f}",
            f"{each['score']:.1f}", f"{each['ppo update']:.1f}", f"{seconds['ppo']:.1f}", f"{base / work:.0%}",
        ])  # fmt: skip
        head = ["chips", "slice", "fsdp x tensor", "state GiB", "peak GiB", "fits", "sent GB", "rollout s", "score s",
                "update s", "iteration s", "efficiency"]  # fmt: skip
        title = f"# PPO of 13B, 512 responses, 8 to 256 chips\n\n{report.NOTICE} Bytes are per chip."
        write("scaling", found, f"{title}\n\n{report.table(head, lines)}")


def write(name: str, record: dict, text: str) -> None:
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    os.chdir(ROOT)
    prepare(parse_topology("v5e:1x1"))
    for name in sys.argv[1:] or [*FITTING, "scaling"]:
        scaling() if name == "scaling" else fitting(name)


if __name__ == "__main__":
    main()
