"""Makes tests/golden/files with the code that is imported: what it writes has to load for ever.

    git worktree add ../old COMMIT
    PYTHONPATH=../old python tests/golden/make.py FOLDER

Runs the config beside this file twice, whole models and adapters on a shared base, and keeps of each what a later
version may find: finished stages, a PPO stage that was stopped after half of its iterations, exported folders, and
`expected.json` with numbers read off all of them.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

# One device and code as XLA makes it by default, whatever the shell says.
os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS="")
os.environ.pop("ICEGRT_DATA", None)

import readings

import icegrt_jax as ice
from icegrt_jax.training.metrics import read_metrics

try:
    from icegrt_jax.training.restore import load_role
except ImportError:  # its name before the files were moved to the rooms of their subjects
    from icegrt_jax.training.stored import load_role

HERE = pathlib.Path(__file__).resolve().parent
HALF = 2  # PPO iterations that are kept
# What no later stage reads, or makes again by itself.
LEFT_OUT = (
    "events.out.*",
    "compiles.json",
    "times.jsonl",
    "histograms.jsonl",
    "followed.jsonl",
    ".lock",
    "checksums.json",
    "corpus.jsonl",
    "demonstrations.jsonl",
    "general.jsonl",
)


def icegrt(stage: str, switch: str, workdir: pathlib.Path, *more: str) -> None:
    """One command in a process of its own."""
    config = f"--config={HERE / 'config.py'}{':' * bool(switch)}{switch}"
    subprocess.run([sys.executable, "-m", "icegrt_jax", stage, config, f"--workdir={workdir}", *more], check=True)


def make(switch: str, work: pathlib.Path, out: pathlib.Path) -> dict:
    """One run; its numbers."""
    name = switch or "whole"
    for stage in ("pretrain", "sft", "reward", "ppo"):
        icegrt(stage, switch, work / name)
    expected = {
        "sft": readings.logits(ice.load_model(work / name / "sft")),
        "reward": readings.scores(*load_role(work / name / "reward", "reward")),
        "ppo": read_metrics(work / name / "ppo" / "metrics.jsonl"),
    }
    form, *flags = ("peft", "--adapter") if switch else ("hf",)
    icegrt("export", switch, work / name, "--stage=sft", *flags, f"--out={out / f'{name}_{form}'}")
    # The base model of the whole run is part of its ICE-Instruct; under adapters it is what they are put onto.
    shutil.copytree(
        work / name, out / name, ignore=shutil.ignore_patterns(*LEFT_OUT, *([] if switch else ["pretrain"]))
    )
    stop_half_way(out / name / "ppo")
    return expected


def stop_half_way(folder: pathlib.Path) -> None:
    """A finished PPO stage as it would be had it been killed in the iteration after `HALF`."""
    (folder / "done.json").unlink()
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name != str(HALF):
            shutil.rmtree(checkpoint)
    for name in ("metrics.jsonl", "samples.jsonl"):
        rows = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if json.loads(row)["step"] <= HALF + (name == "metrics.jsonl")]
        (folder / name).write_text("".join(kept), encoding="utf-8")


def forget_where(out: pathlib.Path, work: pathlib.Path) -> None:
    """Takes this machine's folders out of what names them."""
    for path in (*out.rglob("*.json"), *out.rglob("commit_success.txt")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"{work}/", "").replace(f"{out}/", ""), encoding="utf-8")


def main() -> None:
    out = pathlib.Path(sys.argv[1]).resolve()
    work = out.with_name(out.name + ".work")
    out.mkdir(parents=True)
    expected = {switch or "whole": make(switch, work, out) for switch in ("", "shared_base")}
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    forget_where(out, work)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
