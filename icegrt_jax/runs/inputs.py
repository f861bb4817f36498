"""What the stages still to be run will read, opened and checked before the first step; nothing is written.

All records are parsed and shown to the judges. Tokenised are up to `LOOKED_AT` of each source, spread over it, and
more only while none of them fits: that takes seconds whatever the size, and whether anything is left is exact. How
much is lost is then an estimate; each stage counts it over all records before its own first step. What the domain
will write is made here on the same scale, where the run has not written it yet.
"""

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from icegrt_jax.config.options import Options, PPOOptions, ReplayOptions, RewardOptions, SupervisedOptions
from icegrt_jax.data import losses
from icegrt_jax.data.content import read_at
from icegrt_jax.data.encode import fit_examples, fit_prompts, fit_rankings
from icegrt_jax.data.pipeline import check_weights
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record, Text
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.judges import Judge
from icegrt_jax.runs import judging, model_folders, own_code, rewards, tokenizers

LOOKED_AT = 256  # records of a source
TRIED = 2  # records of a source that reward functions are tried on
OWN_RANKINGS = "jsonl:{workdir}/data/own_rankings.jsonl"  # the reward stage's own, made after ICE-Instruct

# A section with sources and their weights.
Weighted = SupervisedOptions | RewardOptions | PPOOptions | ReplayOptions
Fit = Callable[[Sequence[Any]], tuple[list, dict[str, int]]]


class NothingLeft(UserError):
    """No record of a source can be used."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A source that a stage reads.

    Attributes:
      key: of the config, such as sft.sources.domain.
      spec: FORMAT:PATH.
      fit: what the stage makes of the records, with its counts.
      length: what they have to fit, in words.
      limit: records that are read; 0: all.
      check: refuses records that cannot be judged, or ranked.
    """

    key: str
    spec: str
    kind: type[Record]
    fit: Fit
    length: str
    limit: int = 0
    check: Callable[[Sequence[Any]], None] = lambda records: None


def check(config: Options, workdir: pathlib.Path, *stages: str) -> list[str]:
    """Raises UserError for an input that a stage cannot use; returns warnings."""
    workdir = pathlib.Path(workdir)
    due = [stage for stage in stages if runs(config, stage) and not (workdir / stage / "done.json").is_file()]
    changed = own_code.changes(workdir)
    if not due:
        return changed
    if config.domain:
        load_domain(config.domain).check_sizes(config.domain_sizes)
    if due != ["evaluate"]:
        tokenizers.check_tokenizers(config, config.reward, config.value, config.ppo, workdir)
    policy = tokenizers.future_tokenizer(config, workdir)
    reward = (tokenizers.reward_tokenizer(config.reward, workdir) if "reward" in due else None) or policy
    warnings = changed
    if "ppo" in due and config.ppo.rewards:
        asked = [reading for reading in readings(config, "ppo", policy, reward) if reading.kind is Prompt]
        loaded: list[list[Any]] = [_records(reading, config, workdir) or [] for reading in asked]
        warnings += rewards.try_out(config.ppo, [record for records in loaded for record in records[:TRIED]])
    warnings += model_folders.check(due, config.model, config.reward, _policy_lengths(config))
    for stage in due:
        if stage != "evaluate" and (stage != "reward" or config.reward.steps):
            with read_at(f"{stage}.weights"):
                check_weights(getattr(config, stage).sources, getattr(config, stage).weights)
        for reading in readings(config, stage, policy, reward):
            warnings += check_reading(reading, config, workdir)
        if stage == "reward":
            _check_normalization(config, workdir, policy)
    return warnings


def _policy_lengths(config: Options) -> dict[str, int]:
    """In tokens, of the rows that the policy reads, by their key."""
    rows = {"max_prompt_length + max_response_length": config.total, "sft.length": config.sft.length}
    return {**rows, "ppo.ptx.length": config.ppo.ptx.length} if config.ppo.iterations and config.ppo.ptx.coef else rows


def runs(config: Options, stage: str) -> bool:
    """Whether the config has the stage do anything."""
    if stage == "reward" and config.reward.init not in ("sft", "scratch"):
        return True  # measured and normalised, if not trained
    return stage in ("sft", "evaluate") or bool(config.steps.get(stage, True))


def readings(config: Options, stage: str, policy: ChatTokenizer, reward: ChatTokenizer) -> Iterator[Reading]:
    """The sources of a stage; `policy` and `reward` read them."""
    section = getattr(config, stage)
    if stage in ("pretrain", "sft"):
        kind = Text if stage == "pretrain" else Instruction
        fit = lambda records: fit_examples(records, policy, section.length, section.overlong)
        yield from _weighted(f"{stage}.sources", section, kind, fit, _tokens(f"{stage}.length", section.length))
    elif stage == "reward":
        yield from _rankings(config, policy, reward)
    elif stage == "ppo":
        prompt_fit = lambda records: fit_prompts(records, policy, config.max_prompt_length, config.overlong_prompts)
        length = _tokens("max_prompt_length", config.max_prompt_length)
        judge_of = judging.of_ppo(section, config.domain)
        for reading in _weighted("ppo.sources", section, Prompt, prompt_fit, length):
            yield _judged(reading, judge_of(reading.key.removeprefix("ppo.sources.")))
        if section.ptx.coef:
            replay_fit = lambda records: fit_examples(records, policy, section.ptx.length, "drop")
            length = _tokens("ppo.ptx.length", section.ptx.length)
            yield from _weighted("ppo.ptx.sources", section.ptx, Instruction, replay_fit, length)
    elif stage == "evaluate":
        asked_fit = lambda records: fit_prompts(records, policy, config.max_prompt_length, "drop")
        length = _tokens("max_prompt_length", config.max_prompt_length)
        for group in ("domain", "general"):
            judge_of = judging.of_evaluation(section, group, config.domain)
            for name, spec in getattr(section, group).items():
                reading = Reading(f"evaluate.{group}.{name}", spec, Prompt, asked_fit, length, section.limit)
                yield _judged(reading, judge_of(name))


def _judged(reading: Reading, judge: Judge | None) -> Reading:
    return reading if judge is None else dataclasses.replace(reading, check=judge.check)


def _weighted(key: str, section: Weighted, kind: type[Record], fit: Fit, length: str) -> Iterator[Reading]:
    for name, spec in section.sources.items():
        if section.weights[name]:
            yield Reading(f"{key}.{name}", spec, kind, fit, length)


def _rankings(config: Options, policy: ChatTokenizer, reward: ChatTokenizer) -> Iterator[Reading]:
    """What ICE-Reward is trained and measured on, and the prompts whose answers are to be ranked."""
    section = config.reward

    def fit(records):
        k = max(len(record.responses) for record in records)
        return fit_rankings(records, reward, section.length, k, section.overlong)

    length = _tokens("reward.length", section.length)
    if section.steps:
        yield from _weighted("reward.sources", section, Ranking, fit, length)
    for name, spec in section.heldout.items():
        yield Reading(f"reward.heldout.{name}", spec, Ranking, fit, length, section.heldout_limit)
    if section.steps and config.domain and section.on_policy_k and (domain := load_domain(config.domain)).ranks:
        spec, asked = "jsonl:{workdir}/data/ranking_prompts.jsonl", _asked(config, policy)
        length = _tokens("max_prompt_length", config.max_prompt_length)
        yield Reading("reward.on_policy_k", spec, Prompt, asked, length, check=domain.check_ranking)


def _asked(config: Options, policy: ChatTokenizer) -> Fit:
    """Of prompts those that the reward stage has ICE-Instruct answer."""
    overlong = "keep" if config.overlong_prompts == "keep" else "drop"
    return lambda records: fit_prompts(records, policy, config.max_prompt_length, overlong)


def _check_normalization(config: Options, workdir: pathlib.Path, policy: ChatTokenizer) -> None:
    """Refuses a reward stage that would end without a prompt to normalise its scores on."""
    wanted, specs = config.reward.normalize_on, config.ppo.sources
    if not specs or wanted < 1:
        raise UserError(
            f"reward.normalize_on={wanted} with {len(specs)} ppo.sources: scores are normalised on ICE-Instruct's "
            "answers to prompts of ppo.sources; name one, and a number of 1 or more."
        )
    fit, length = _asked(config, policy), _tokens("max_prompt_length", config.max_prompt_length)
    problems = []
    for name, spec in specs.items():
        try:
            check_reading(Reading(f"ppo.sources.{name}", spec, Prompt, fit, length), config, workdir)
            return
        except NothingLeft as error:
            problems.append(str(error))
    raise UserError(f"no prompt to normalise the scores on (reward.normalize_on): {' '.join(problems)}")


def _tokens(key: str, length: int) -> str:
    return f"{key}={length} tokens"


def check_reading(reading: Reading, config: Options, workdir: pathlib.Path) -> list[str]:
    """Raises UserError where the stage could not use the source; returns warnings of what it would lose."""
    records = _records(reading, config, workdir)
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


def _records(reading: Reading, config: Options, workdir: pathlib.Path) -> list[Record] | None:
    """The source's records; of the domain's unwritten ones some; None for what only a stage can make."""
    file = pathlib.Path(reading.spec.partition(":")[2].replace("{workdir}", str(workdir)))
    if config.domain and not file.is_file() and reading.spec.startswith("jsonl:{workdir}/data/"):
        domain = load_domain(config.domain)
        if reading.spec == OWN_RANKINGS and config.reward.on_policy_k:
            if not domain.ranks:
                raise UserError(f"{reading.key}={reading.spec!r}: the domain {config.domain!r} ranks no answers.")
            return None
        if size := config.domain_sizes.get(file.stem):
            made = domain.build({file.stem: min(size, LOOKED_AT)}, config.seed)[file.stem]
            return [reading.kind.from_json(record.to_json(), reading.spec) for record in made]
    return load_source(reading.spec, kind=reading.kind, data_dir=config.data_dir, workdir=str(workdir))
