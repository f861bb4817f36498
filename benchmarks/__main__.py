"""All benchmarks, or some: `python -m benchmarks`, with --check against the targets, --only=ppo,sft for a part."""

import argparse
import importlib
import json
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import results, table
from benchmarks.check import FAILED, SHORT, check
from benchmarks.formulas import Machine
from benchmarks.sections import Options, all_versions, description

SECTIONS = ("limits", "sampler", "ppo", "natural", "sft", "reward", "memory")
GPU_SECTIONS = ("limits", "sft", "ppo", "sampler")  # what a budget cuts off comes last
EXTRA = ("layouts", "updates", "packing", "heap")  # only when asked for
FUNCTIONS = {  # of those that are no module's `section`
    "natural": ("benchmarks.ppo", "natural"),
    "layouts": ("benchmarks.sampler", "layouts"),
    "updates": ("benchmarks.reward", "updates"),
    "packing": ("benchmarks.ppo", "packing"),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help=f"sections, with commas: {', '.join((*SECTIONS, *EXTRA))}")
    parser.add_argument("--rounds", type=int, default=5, help="measured repetitions of each contender, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: does everything run?")
    parser.add_argument("--gpu", action="store_true", help="the sections for a GPU, in bfloat16")
    parser.add_argument("--budget", type=float, help="seconds after which no round begins")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a row of targets.json falls short")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the results, a JSON file for each section")
    parser.add_argument("--json", type=pathlib.Path, help="one JSON file for all results")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="read results from a folder, run nothing")
    parser.add_argument("--smollm2", default=Options.smollm2, help="folder of SmolLM2-135M-Instruct (make smollm2)")
    parser.add_argument(
        "--torch-python", default=os.environ.get("TORCH_PYTHON", sys.executable),
        help="interpreter with the extra `bench`; else TORCH_PYTHON, else this one",
    )  # fmt: skip
    parser.add_argument(
        "--tunix-python", default=os.environ.get("TUNIX_PYTHON", ""),
        help="interpreter with google-tunix, which pins its own jax; else TUNIX_PYTHON",
    )  # fmt: skip
    args = parser.parse_args(argv)
    known = (*SECTIONS, *EXTRA)
    args.only = [name for name in args.only.split(",") if name]
    if wrong := [name for name in args.only if name not in known]:
        parser.error(f"--only={','.join(wrong)}: no such section; expected some of {', '.join(known)}")
    if args.rounds < 1:
        parser.error(f"--rounds={args.rounds}: expected 1 or more")
    if args.check and args.quick:
        parser.error("--check measures at full size; leave out --quick")
    if args.source and not list(args.source.glob("*.json")):
        parser.error(f"--from={args.source}: no results there; expected the folder that --out wrote")
    return args


def run(args: argparse.Namespace, scratch: pathlib.Path) -> dict[str, dict]:
    """Measures; {section: result}."""
    options = Options(
        rounds=args.rounds, quick=args.quick, gpu=args.gpu, smollm2=args.smollm2, torch_python=args.torch_python,
        tunix_python=args.tunix_python, scratch=scratch,
        deadline=None if args.budget is None else time.monotonic() + args.budget,
    )  # fmt: skip
    wanted = args.only or list(GPU_SECTIONS if args.gpu else SECTIONS)
    found = {}
    # The limits come first in any run: the other sections are measured against them.
    for name in ["limits", *(name for name in wanted if name != "limits")]:
        module, function = FUNCTIONS.get(name, (f"benchmarks.{name}", "section"))
        print(f"{name}", flush=True)
        result = getattr(importlib.import_module(module), function)(options)
        if name == "limits":
            best = result["limits"]
            if not (best["flops"] and best["bandwidth"]):
                raise SystemExit("error: the limits of this machine could not be measured; see above.")
            options.machine = Machine(best["flops"], best["bandwidth"])
            options.nominal_flops = best["nominal_flops"]
        title = f"gpu-{name}" if args.gpu else name
        head = {"section": title, "quick": args.quick, "machine": description(), "versions": all_versions(options)}
        limits = {"flops": options.machine.flops, "bandwidth": options.machine.bandwidth}
        found[title] = {**head, "limits": limits, **result}
        print(f"\n{table.section_text(found[title])}\n", flush=True)
        if args.out:
            results.write(args.out, found[title])
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which must not take a GPU's memory from its workers
    if args.source:
        found = results.read(args.source)
        for name, result in found.items():
            print(f"{name}\n\n{table.section_text(result)}\n")
    else:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            found = run(args, pathlib.Path(scratch))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if not args.check:
        return 0
    rows = check({name: result for name, result in found.items() if not result.get("quick")})
    print(table.check_table(rows))
    return int(any(row["verdict"] in (SHORT, FAILED) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
