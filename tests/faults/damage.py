"""Every kind of file of a run, damaged in five ways: the command then ends as if nothing had been, or says what is.

    python -m tests.faults.damage WORKDIR --limit=200 -- run --config=configs/quickstart.py:smoke

WORKDIR is a run that is finished or was stopped anywhere, and stays as it is; behind `--` is the command that it goes
on with, without --workdir. Of each damage a copy is made, one file in it damaged, and the command run. It must end with
exit 2 and one sentence, or with exit 0 and every file as the undamaged copy has it in the end, but for those that hold
times or are in IGNORED. Prints a table; exit 1 where one has ended otherwise, with what it said.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping

from tests.commands.forked import Forked
from tests.commands.runs import PLAIN
from tests.faults import compare
from tests.faults.damages import WAYS, damage

# Not compared: times, what is only shown, what JAX makes again, and what is kept of a damage; window.jsonl, which has a
# row for each checkpoint there has been (the means that come of them are in metrics.jsonl). Nor are Orbax's own files,
# which have times: of what the command saves the arrays are compared.
IGNORED = re.compile(
    r"events\.out\.|compile_cache/|compiles\.json|times\.jsonl|window\.jsonl|report/|\.broken|\.lock|"
    r"/(checkpoints|best|average)/"
)
UNTOUCHED = re.compile(r"events\.out\.|report/|\.lock|\.broken")
WELL = ("a sentence", "the same files")
KINDS = {
    "arrays of checkpoints": r"/(checkpoints|best|average)/.*/d/",
    "metadata of checkpoints": r"/(checkpoints|best|average)/",
    "tokenizers": r"tokenizer/", "data": r"^data/", "compile cache": r"^compile_cache/", "done.json": r"done\.json",
    "config.json, from.json": r"^(config|from)\.json", "checksums.json": r"checksums\.json",
    "metrics, samples and other rows": r"\.jsonl$", "other JSON": r"\.json$", "texts": r"",
}  # fmt: skip


def files_of(workdir: pathlib.Path) -> list[str]:
    return sorted(p.relative_to(workdir).as_posix() for p in workdir.rglob("*") if p.is_file())


def tree(workdir: pathlib.Path, stage: str) -> dict[str, str]:
    """SHA-256 of every file that is compared and of each array of the stage's checkpoints; which others there are."""
    names = [name for name in files_of(workdir) if not IGNORED.search(name)]
    found = {name: hashlib.sha256(compare.content(workdir / name, IGNORED)).hexdigest() for name in names}
    kept = {path.parent.relative_to(workdir).as_posix() for path in workdir.rglob(compare.CHECKPOINT)}
    kept = {name for name in kept if ".broken" not in name}
    for name in kept:
        arrays = compare.arrays(workdir / name) if name.startswith(f"{stage}/") else {}
        found |= {name: "a checkpoint", **{f"{name}:{array}": digest for array, digest in arrays.items()}}
    return found


def kind_of(name: str) -> str:
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


def run(command: list[str], workdir: pathlib.Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit code, and what it said on stderr."""
    process = Forked(PLAIN, [*command, f"--workdir={workdir}"], env=env, cwd=os.getcwd())
    _, said = process.communicate()
    return process.returncode, said


def outcome(code: int, said: str, found: dict[str, str], expected: dict[str, str]) -> str:
    """How the command has ended; well where it is one of `WELL`."""
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    if "Traceback" in said or code not in (0, 2):
        return "TRACEBACK"
    if code == 2:
        return "a sentence" if len(sentences) == 1 else "NO SENTENCE"
    return "the same files" if found == expected else "OTHER FILES"


def where_deleted(name: str, way: str, expected: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    """What is expected: where a file was deleted that the command neither needs nor makes again, all others.

    Checksums that are made again are of what came later, as those of a run that never had any.
    """
    if way != "deleted" or (name in found and not name.endswith("checksums.json")):
        return expected
    others = {other: digest for other, digest in expected.items() if other != name}
    return others | ({name: found[name]} if name in found else {})


def damages(workdir: pathlib.Path) -> list[tuple[str, str]]:
    """Every file of a run that is damaged, in every way."""
    return [(name, way) for name in files_of(workdir) if not UNTOUCHED.search(name) for way in WAYS]


def tried(
    workdir: pathlib.Path,
    command: list[str],
    damages: list[tuple[str, str]],
    rng: random.Random,
    env: Mapping[str, str],
) -> dict[str, collections.Counter]:
    """How often a damage of each kind of file has ended how; tells of each as it comes."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as temporary:
        place, begun = pathlib.Path(temporary) / "run", pathlib.Path(temporary) / "begun"
        for copy in (place, begun):
            shutil.copytree(workdir, copy, symlinks=True)
        code, said = run(command, place, env)
        assert code == 0, said
        expected = tree(place, command[0])
        if (place / "compile_cache").exists():  # what has been compiled once is read each time
            shutil.copytree(place / "compile_cache", begun / "compile_cache", dirs_exist_ok=True)
        for name, way in damages:
            shutil.rmtree(place)
            shutil.copytree(begun, place, symlinks=True)
            damage(place / name, way, rng)
            code, said = run(command, place, env)
            found = tree(place, command[0]) if code == 0 else {}
            wanted = where_deleted(name, way, expected, found)
            ended = outcome(code, said, found, wanted)
            counts[kind_of(name)][ended] += 1
            print(f"{name}, {way}: {ended}", flush=True)
            if ended not in WELL:
                differing = compare.differences(found, wanted) if code == 0 else []
                print(f"exit {code}, {differing[:8]}\n{said[-1500:]}", flush=True)
    return counts


def table(counts: Mapping[str, collections.Counter], seed: int) -> bool:
    """Prints how the damages have ended, and says whether all have ended well."""
    sums = sum(counts.values(), collections.Counter())
    bad = sums.total() - sum(sums[end] for end in WELL)
    for kind, ends in sorted(counts.items()):
        print(f"| {kind} | {ends.total()} | {', '.join(f'{end}: {n}' for end, n in sorted(ends.items()))} |")
    print(f"{sums.total()} damages, seed {seed}: {bad} ended badly", flush=True)
    return not bad


def main(workdir: pathlib.Path, command: list[str], limit: int, seed: int) -> bool:
    """Whether every damage has ended well."""
    rng, chosen = random.Random(seed), damages(workdir)
    rng.shuffle(chosen)
    return table(tried(workdir, command, chosen[:limit], rng, os.environ), seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=10**9, help="so many of the damages, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    sys.exit(not main(given.workdir.absolute(), given.command, given.limit, given.seed))
