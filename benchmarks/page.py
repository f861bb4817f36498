"""Writes the tables of committed results into README.md beside this file.

    python -m benchmarks --check --out=benchmarks/results
    python -m benchmarks.page

Everything between the two marks is replaced; nothing is typed by hand.
"""

import pathlib
import sys

from benchmarks import results, table
from benchmarks.check import check

HERE = pathlib.Path(__file__).parent
BEGIN, END = "<!-- results: written by python -m benchmarks.page -->", "<!-- end of results -->"
TITLES = {
    "limits": "Limits of the machine", "sampler": "Generation", "ppo": "PPO iteration",
    "natural": "PPO iteration on real prompts", "sft": "Supervised step",
    "reward": "Reward-model step", "memory": "Memory of an update", "layouts": "Layers scanned or taken apart",
    "heap": "Memory of whole stages",
    "updates": "Reward-model step in other ways", "packing": "PPO on real prompts, rows shared and not",
    "gpu-limits": "GPU: limits", "gpu-sampler": "GPU: generation", "gpu-sft": "GPU: supervised step",
    "gpu-ppo": "GPU: PPO iteration",
}  # fmt: skip


def machine_text(result: dict) -> str:
    """One sentence: where and with what a section was measured."""
    machine = result["machine"]
    device = result.get("limits", {}).get("device", "")
    device = f"{device}, " if device and device != "cpu" else ""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{device}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {versions}"


def page(found: dict[str, dict]) -> str:
    """The results in Markdown: the targets, then every section; refuses results of a quick look."""
    quick = [name for name, result in found.items() if result.get("quick")]
    if quick:
        raise SystemExit(f"error: {', '.join(quick)}: measured with --quick; measure again without it.")
    if not found:
        return "Nothing is measured yet."
    machines = {}
    for name, result in found.items():
        machines.setdefault(machine_text(result), []).append(name)
    parts = [f"Measured on {text} ({', '.join(names)})." for text, names in machines.items()]
    parts.append(f"### Targets\n\n{table.check_table(check(found))}")
    for name, title in TITLES.items():
        if name in found:
            parts.append(f"### {title}\n\n{table.section_text(found[name])}")
    return "\n\n".join(parts)


def write_page(readme: pathlib.Path, folder: pathlib.Path) -> None:
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"error: {readme.name} has no marks for the results: {BEGIN} and {END}.")
    readme.write_text(f"{before}{BEGIN}\n\n{page(results.read(folder))}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(write_page(HERE / "README.md", HERE / "results"))
