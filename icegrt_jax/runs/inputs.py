"""What the stages still to be run will read, opened and checked before the first step; nothing is written.

All records are parsed and shown to the judges. Tokenised are up to `LOOKED_AT` of each source, spread over it, and
more only while none of them fits: that takes seconds whatever the size, and whether anything is left is exact. How
much is lost is then an estimate; each stage counts it over all records before its own first step. What the domain
will write is made here on the same scale, where the run has not written it yet.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence

from icegrt_jax.config.options import (
    LengthOptions,
    Options,
    PPOOptions,
    RecordOptions,
    ReplayOptions,
    RewardOptions,
    SFTOptions,
    SupervisedOptions,
)
from icegrt_jax.config.rounds import is_made
from icegrt_jax.data import losses
from icegrt_jax.data.content import read_at
from icegrt_jax.data.pipeline import check_weights
from icegrt_jax.data.records import Record
from icegrt_jax.data.sources import load_source
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.judges import Judge
from icegrt_jax.runs import model_folders, own_code, tokenizers
from icegrt_jax.runs.reading import Fit, Reading
from icegrt_jax.runs.stage import Stage

LOOKED_AT = 256  # records of a source
OWN_RANKINGS = "jsonl:{workdir}/data/own_rankings.jsonl"  # the reward stage's own, made after ICE-Instruct

# A section with sources and their weights.
Weighted = SupervisedOptions | RewardOptions | PPOOptions | ReplayOptions


class NothingLeft(UserError):
    """No record of a source can be used."""


def check(config: Options, workdir: pathlib.Path, *stages: Stage) -> list[str]:
    """Raises UserError for an input that a stage cannot use; returns warnings."""
    workdir = pathlib.Path(workdir)
    due = [
        stage
        for stage in stages
        if stage.readings and stage.is_due(config) and not (workdir / stage.name / "done.json").is_file()
    ]
    changed = own_code.changes(workdir)
    if not due:
        return changed
    if config.domain:
        load_domain(config.domain).check_sizes(config.domain_sizes)
    names = [stage.name for stage in due]
    if not all(stage.only_measures for stage in due):
        tokenizers.check_tokenizers(config, config.reward, config.value, config.ppo, workdir)
    policy = tokenizers.future_tokenizer(config, workdir)
    reward = (tokenizers.reward_tokenizer(config.reward, workdir) if "reward" in names else None) or policy
    warnings = changed + model_folders.check(
        names, config.model, config.reward, _policy_lengths(config, config.sft, config.ppo)
    )
    for stage in due:
        for reading in stage.readings(config, policy, reward) if stage.readings else ():
            warnings += check_reading(reading, config, workdir)
        warnings += stage.check(config, workdir, policy)
    return warnings


def _policy_lengths(lengths: LengthOptions, sft: SFTOptions, ppo: PPOOptions) -> dict[str, int]:
    """In tokens, of the rows that the policy reads, by their key."""
    rows = {"max_prompt_length + max_response_length": lengths.total, "sft.length": sft.length}
    return {**rows, "ppo.ptx.length": ppo.ptx.length} if ppo.iterations and ppo.ptx.coef else rows


def weighted(key: str, section: Weighted, kind: type[Record], fit: Fit, length: str) -> Iterator[Reading]:
    """The sources of a section that have a weight.

    Args:
      key: of the sources.
    """
    for name, spec in section.sources.items():
        if section.weights[name]:
            yield Reading(f"{key}.{name}", spec, kind, fit, length)


def mixture(stage: str, section: Weighted, kind: type[Record], fit: Fit, length: str) -> Iterator[Reading]:
    """As `weighted`, the sources that a stage is trained on: their weights are checked."""
    with read_at(f"{stage}.weights"):
        check_weights(section.sources, section.weights)
    yield from weighted(f"{stage}.sources", section, kind, fit, length)


def judged(reading: Reading, judge: Judge | None) -> Reading:
    """The source, shown to the judge of the answers to it."""
    return reading if judge is None else dataclasses.replace(reading, check=judge.check)


def tokens(key: str, length: int) -> str:
    """A length in words."""
    return f"{key}={length} tokens"


def check_reading(reading: Reading, origin: RecordOptions, workdir: pathlib.Path) -> list[str]:
    """Raises UserError where the stage could not use the source; returns warnings of what it would lose."""
    records = records_of(reading, origin, workdir)
    if records is None:
        return []
    records = records[: reading.limit or None]
    reading.check(records)
    counts = Counter(records=0)
    parts = -(-len(records) // LOOKED_AT)
    for start in range(parts):
        part = records[start::parts]
        rows, more = reading.fit(part)
        counts.update({"records": len(part), **more})
        if rows:
            break
    else:
        raise NothingLeft(
            f"{reading.key}={reading.spec!r}: nothing is left of its {len(records)} records: "
            f"{losses.reasons(counts, reading.length)}."
        )
    of = "" if counts["records"] == len(records) else f" ({counts['records']} of {len(records)} records looked at)"
    return losses.warnings(f"{reading.key}{of}", counts, reading.length)


def records_of(reading: Reading, origin: RecordOptions, workdir: pathlib.Path) -> Sequence[Record] | None:
    """The source's records; of the domain's unwritten ones some; None for what only a stage can make."""
    file = pathlib.Path(reading.spec.partition(":")[2].replace("{workdir}", str(workdir)))
    unwritten = not file.is_file() and reading.spec.startswith("jsonl:{workdir}/data/")
    if unwritten and is_made(reading.spec):
        return None
    if unwritten and origin.domain:
        domain = load_domain(origin.domain)
        if reading.later:
            if not domain.ranks:
                raise UserError(f"{reading.key}={reading.spec!r}: the domain {origin.domain!r} ranks no answers.")
            return None
        if size := origin.domain_sizes.get(file.stem):
            made = domain.build({file.stem: min(size, LOOKED_AT)}, origin.seed)[file.stem]
            return [reading.kind.from_json(record.to_json(), reading.spec) for record in made]
    return load_source(reading.spec, kind=reading.kind, data_dir=origin.data_dir, workdir=str(workdir))
