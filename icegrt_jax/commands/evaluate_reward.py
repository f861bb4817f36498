"""`icegrt evaluate-reward`: how right a reward model is, by source, and whether best-of-n by it finds good answers."""

import pathlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from icegrt_jax import files
from icegrt_jax.config.choices import Quality
from icegrt_jax.data import sources
from icegrt_jax.data.records import Ranking
from icegrt_jax.data.spec import resolve
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import rankings, reward_table
from icegrt_jax.evaluation.best_of import BestOf, best_of, quality_of_ranks
from icegrt_jax.evaluation.rankings import Numbers, Scored
from icegrt_jax.evaluation.ties import SUBSET as TIES
from icegrt_jax.evaluation.ties import ties_score
from icegrt_jax.models.api import Model
from icegrt_jax.runs import lineage
from icegrt_jax.runs.opened import STAGES, open_model
from icegrt_jax.runs.ranked import score_rankings
from icegrt_jax.training.restore import is_finished

# Read where no source is named and they are in the data folder.
USUAL = {
    "llmbar": "llmbar:preference/llmbar/test.jsonl",
    "pandalm": "pandalm:preference/pandalm/test.jsonl",
}
LONGEST = 4096  # tokens of prompt and answer, where --length says nothing: a model may be made for far more
GAINED_LESS = (
    "PPO then gained less, however right the reward model was (RewardBench 2, https://arxiv.org/abs/2506.01937, "
    "section 5)"
)


def main(
    *,
    reward: str,
    policy: str,
    source: Sequence[str],
    data_dir: str,
    out: str,
    quality: Quality,
    length: int,
    batch_size: int,
    limit: int,
) -> None:
    """Scores the answers of every source and prints the tables; the file is written at the end, whole.

    Args:
      reward: the folder of a run or of its reward stage, or a Hugging Face folder.
      policy: what is to be trained with it, as `reward`; empty: the run's own.
      source: [NAME=]FORMAT:PATH of rankings.
      quality: of answers in best-of-n: by their ranks, or the scores that the records came with.
      limit: records of a source, drawn by a seed; 0: all.
    """
    target = _target(out)
    loaded = _load(_specs(source, data_dir), data_dir, reward, limit, quality)
    model = open_model(reward, "reward")
    print(f"{reward}: {model.config.family}, {model.config.num_params:,} parameters", flush=True)
    related = _lineage(model, reward, policy)
    longest = length or min(model.config.max_length, LONGEST)
    rows: dict[str, tuple[int, Numbers]] = {}
    chosen: dict[str, list[BestOf]] = {}
    report = {}
    for name, (spec, records) in loaded.items():
        scored, counts = _scored(name, model, records, longest, batch_size)
        parts = _parts(scored)
        rows[name] = (len(scored), _numbers(scored, parts))
        rows |= {f"{name}/{part}": found for part, found in parts.items()}
        if scored.valid.shape[1] > 2 or quality == "scores":
            chosen[name] = best_of(scored, _quality(scored, quality))
        report[name] = _report(spec, counts, scored, rows[name][1], parts, chosen.get(name, []))
    print(f"\n{reward_table.format_sources(rows)}\n{reward_table.NOTE}")
    if chosen:
        print(f"\n{reward_table.format_best_of(chosen, quality)}")
    print(f"{'warning: ' if related['same'] is False else ''}{related['why']}", flush=True)
    content = {"reward": reward, "length": longest, "quality": quality, "lineage": related, "sources": report}
    files.write_json_atomic(target, content)
    print(f"written to {target}")


def _target(out: str) -> pathlib.Path:
    target = pathlib.Path(out).expanduser().absolute()
    if target.suffix != ".json" or target.is_dir():
        raise UserError(f"--out={out}: expected the name of a file that ends in .json.")
    return target


def _specs(given: Sequence[str], data_dir: str) -> dict[str, str]:
    """The sources by name: as given, by their format or file where they are given none, or the usual ones."""
    specs: dict[str, str] = {}
    for text in given:
        name, equals, spec = text.partition("=")
        if not equals or ":" in name:
            format_, _, path = text.partition(":")
            stem = pathlib.PurePath(path.partition("?")[0]).name.partition(".")[0]
            name, spec = format_ if format_ in sources.CONVERTERS else stem, text
        if not name or name in specs:
            raise UserError(f"--source={text}: give each source a name of its own, --source=NAME=FORMAT:PATH.")
        specs[name] = spec
    if not given:
        specs = {name: spec for name, spec in USUAL.items() if resolve(spec.partition(":")[2], data_dir).is_file()}
        if not specs:
            raise UserError(
                f"no --source, and none of {', '.join(USUAL.values())} is under --data_dir={data_dir}; name rankings, "
                "--source=NAME=FORMAT:PATH."
            )
    return specs


def _load(
    specs: Mapping[str, str], data_dir: str, reward: str, limit: int, quality: Quality
) -> dict[str, tuple[str, list[Ranking]]]:
    """The records of each source; `{workdir}` stands for the run that the reward model is of."""
    folder = pathlib.Path(reward).expanduser().absolute()
    workdir = next((str(run) for run in (folder, folder.parent) if (run / "config.json").is_file()), "")
    loaded = {}
    for name, spec in specs.items():
        records = list(sources.load_source(spec, kind=Ranking, data_dir=data_dir, workdir=workdir))
        if 0 < limit < len(records):
            drawn = np.random.default_rng(0).choice(len(records), limit, replace=False)
            records = [records[i] for i in sorted(drawn)]
        for record in records if quality == "scores" else ():
            if len(record.meta.get("scores", ())) != len(record.responses):
                raise UserError(
                    f"{record.where}: --quality=scores, and the record came without a score for each answer; use ranks."
                )
        loaded[name] = (spec, records)
    return loaded


def _scored(
    name: str, model: Model, records: Sequence[Ranking], length: int, batch_size: int
) -> tuple[Scored, dict[str, int]]:
    began = time.monotonic()
    scored, counts = score_rankings(model, records, length, batch_size)
    shown = ", ".join(f"{what} {count}" for what, count in counts.items())
    print(f"{name}: {shown} at {length} tokens, {time.monotonic() - began:.0f} s", flush=True)
    if counts["cut"] + counts["dropped"] > 0.05 * counts["records"]:
        print(f"warning: much of {name} is longer than {length} tokens; see --length.", flush=True)
    return scored, counts


def _lineage(model: Model, reward: str, policy: str) -> dict:
    """Whether the policy goes back to the same model, as JSON; `same` is None where there is none to compare."""
    folder = pathlib.Path(reward).expanduser()
    path = policy or next(
        (str(run) for run in (folder, folder.absolute().parent) for stage in STAGES if _left(run / stage)), ""
    )
    if not path:
        return {"policy": "", "same": None, "why": "its lineage is not compared with a policy's; name one, --policy."}
    kin = lineage.compare(model, open_model(path, "policy"))
    why = f"the reward model's lineage is {'' if kin.same else 'not '}that of the policy {path}: {kin.why}"
    why += "." if kin.same else f"; {GAINED_LESS}."
    return {"policy": path, "same": kin.same, "why": why, **({} if kin.cosine is None else {"cosine": kin.cosine})}


def _left(stage: pathlib.Path) -> bool:
    return is_finished(stage) and (stage.parent / "tokenizer").is_dir()


def _parts(scored: Scored) -> dict[str, tuple[int, Numbers]]:
    """The parts of a benchmark, where its records name several."""
    names = [str(meta.get("subset", "")) for meta in scored.meta]
    if len(set(names)) < 2:
        return {}
    found = {}
    for part in sorted(set(names)):
        own = scored.take([i for i, name in enumerate(names) if name == part])
        numbers = rankings.measure(own)
        if part.lower() == TIES and (tied := ties_score(own)):
            numbers["score"] = tied
        found[part or "others"] = (len(own), numbers)
    # Its score is that of RewardBench 2: the share of best answers taken, elsewhere than in its part of ties.
    if any("score" in numbers for _, numbers in found.values()):
        for _, numbers in found.values():
            if "best" in numbers:
                numbers.setdefault("score", numbers["best"])
    return found


def _numbers(scored: Scored, parts: Mapping[str, tuple[int, Numbers]]) -> Numbers:
    """Of a whole source; the score of a benchmark that has one is the mean over its parts."""
    numbers = rankings.measure(scored)
    of_parts = rankings.mean_of_parts([found for _, found in parts.values()]) if parts else {}
    return {**numbers, **({"score": of_parts["score"]} if "score" in of_parts else {})}


def _quality(scored: Scored, quality: Quality) -> np.ndarray:
    if quality == "ranks":
        return quality_of_ranks(scored)
    values = np.zeros(scored.scores.shape)
    for row, meta in enumerate(scored.meta):
        values[row, : len(meta["scores"])] = meta["scores"]
    return values


def _report(
    spec: str,
    counts: Mapping[str, int],
    scored: Scored,
    numbers: Numbers,
    parts: Mapping[str, tuple[int, Numbers]],
    chosen: Sequence[BestOf],
) -> dict:
    """What the file says of a source."""
    as_json = lambda found: {name: estimate.to_json() for name, estimate in found.items()}
    return {
        "source": spec,
        "counts": dict(counts),
        "numbers": as_json(numbers),
        "parts": {name: as_json(found) for name, (_, found) in parts.items()},
        "mean_of_parts": as_json(rankings.mean_of_parts([found for _, found in parts.values()])) if parts else {},
        "reliability": rankings.reliability(scored),
        "best_of_n": [one.to_json() for one in chosen],
    }
