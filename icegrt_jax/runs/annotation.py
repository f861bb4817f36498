"""Answers ranked between two rounds: some of the policy that the last one has left and some of ICE-Instruct, together.

Iterated annotation as in arXiv 2203.02155 (section 3.1) and 2204.05862 (section 4.5): a reward model is right about
answers like those it has learned from, and PPO's answers become others.
"""

import dataclasses
import pathlib
import random
from collections.abc import Callable, Iterator, Sequence

import jax

from icegrt_jax import files
from icegrt_jax.config.options import AnnotationOptions, LengthOptions, RewardOptions
from icegrt_jax.config.rounds import DOMAIN, PEOPLE, RANKING_PROMPTS, file_of, name_of
from icegrt_jax.data.encode import fit_prompts
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, write_jsonl
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs import inputs, judge_model, kept, stage_models
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.reward_model import Asked, answers_of, fitting_prompts, sample_instruct
from icegrt_jax.runs.rundir import Run

COUNTS = "annotations.json"  # in WORKDIR/data: how much has been annotated in each round

Answered = tuple[Prompt, Sequence[str], str]  # a prompt, its answers and a seed
Rank = Callable[[Sequence[Answered]], Sequence[Sequence[float]]]  # of the answers to each prompt
# Waits until people have ranked the answers of the first file, and writes what they say as the second.
Wait = Callable[[pathlib.Path, pathlib.Path], None]


def rank_answers(
    run: Run, section: AnnotationOptions, number: int, domain: str, like: Asked, wait: Wait | None = None
) -> None:
    """Writes the rankings for round `number`, of answers of the policy that `run`, the round before it, has left.

    Where people rank: writes what they are to rank, and waits or raises UserError until it has been ranked.

    Args:
      like: how the answers are drawn; its prompts are not looked at.
      wait: for people; None: it is not waited.
    """
    data = (run.workdir / "data").resolve()  # an earlier round's is a link
    ranked, asked = data / file_of(number), data / f"to_rank_{name_of(number)}.jsonl"
    there = lambda path: sync.from_main(f"{path} is looked for", path.is_file)
    if not there(ranked):
        rank = None if section.by == PEOPLE else ranker(section, domain)
        path = asked if rank is None else ranked
        if rank is not None or not there(asked):
            records = _answered(run, section, number, like, rank)
            sync.main_first(path, lambda: write_jsonl(path, records))
            if sync.is_main():
                kept.forget(run.folder("data"))
        if rank is None and wait is None:
            raise UserError(
                f"round {number}: {asked} has the answers to be ranked. With --rank the same command shows them on a "
                f"page and waits; or have them ranked by `icegrt rank --records={asked} --out=DIR`, or by hand (1 is "
                f"best, equal ones are ties), and save it as {ranked.name} beside it; the same command then goes on."
            )
        if rank is None and wait is not None:
            wait(asked, ranked)
    elif section.by == PEOPLE and asked.is_file():
        _check_ranked(ranked, asked)


def _answered(run: Run, section: AnnotationOptions, number: int, like: Asked, rank: Rank | None) -> list[Ranking]:
    """The answers to each prompt that has two different ones, in no order that tells whose they are."""
    prompts = fitting_prompts(
        run, run.load({"": section.prompts or RANKING_PROMPTS}, Prompt)[""][: section.limit or None]
    )
    asked = dataclasses.replace(like, prompts=prompts)
    keys = jax.random.split(jax.random.fold_in(run.key("rounds"), number))
    model, params = stage_models.stage_params(run, "ppo", "policy")
    k = section.policy_k
    keep = run.keep("data")
    texts = [(k, answers_of(run, model, params, asked, keys[0], num_samples=k, keep=keep).text)]
    if k := section.instruct_k:
        texts.append((k, sample_instruct(run, "data", asked, keys[1], num_samples=k).text))
    answered: list[Answered] = []
    for i, prompt in enumerate(prompts):
        mine = [text for k, all_texts in texts for text in all_texts[i * k : (i + 1) * k] if text.strip()]
        different, seed = list(dict.fromkeys(mine)), f"{run.seed}/{name_of(number)}/{i}"
        random.Random(seed).shuffle(different)
        if len(different) > 1:
            answered.append((prompt, different, seed))
    if not answered:
        raise UserError(f"round {number}: no prompt has two different answers, so there is nothing to rank.")
    ranks = [(1.0,) * len(answers) for _, answers, _ in answered] if rank is None else rank(answered)
    return [
        Ranking(prompt.prompt, tuple(answers), tuple(own), prompt.meta)
        for (prompt, answers, _), own in zip(answered, ranks, strict=True)
    ]


def ranker(section: AnnotationOptions, domain: str) -> Rank:
    """Of the domain, or of a judge: the more gold, the better."""
    if section.by == DOMAIN:
        annotators = load_domain(domain)
        return lambda answered: [annotators.rank(*one) for one in answered]
    judge = judge_model.load("annotation.by", section.by, domain, section.judge_model)

    def rank(answered: Sequence[Answered]) -> list[list[float]]:
        pairs = [(prompt, answer) for prompt, answers, _ in answered for answer in answers]
        prompts, texts = zip(*pairs, strict=True)
        gold = iter([grades["gold"] for grades in judge_model.grade_all([judge] * len(pairs), prompts, texts)])
        of_each = [[next(gold) for _ in answers] for _, answers, _ in answered]
        return [[1.0 + sum(other > one for other in own) for one in own] for own in of_each]

    return rank


def _check_ranked(ranked: pathlib.Path, asked: pathlib.Path) -> None:
    """Refuses rankings by people of other answers than they were given; such that rank nothing are no source."""
    given = {str(record.prompt): set(record.responses) for record in read_jsonl(asked, Ranking)}
    for record in read_jsonl(ranked, Ranking):
        if not set(record.responses) <= given.get(str(record.prompt), set()):
            raise UserError(f"{record.where}: an answer or a prompt that {asked} does not have; rank those of it.")


def count(run: Run, reward: RewardOptions, number: int, by: str) -> None:
    """Writes and says how much has been annotated up to a round.

    Args:
      run: the round before it. reward: of that.
    """
    path = run.workdir / "data" / COUNTS

    def write() -> None:
        rows = [row for row in (files.read_json(path) if path.is_file() else []) if row["round"] < number]
        if not rows:
            first = {name: spec for name, spec in reward.sources.items() if reward.weights[name]}
            rows = [_row(1, "", [record for records in run.load(first, Ranking).values() for record in records])]
        rows.append(_row(number, by, read_jsonl(run.workdir / "data" / file_of(number), Ranking)))
        files.write_json_atomic(path, rows)
        row = rows[-1]
        print(f"annotate: round {number}: {row['rankings']} rankings of {row['answers']} answers by {by}", flush=True)

    sync.main_first(path, write)


def _row(number: int, by: str, records: Sequence[Ranking]) -> dict:
    answers = sum(len(record.responses) for record in records)
    return {"round": number, "by": by, "rankings": len(records), "answers": answers}


def readings(
    section: AnnotationOptions, rounds: int, domain: str, lengths: LengthOptions, policy: ChatTokenizer
) -> Iterator[Reading]:
    """The prompts whose answers are ranked between two rounds."""
    if rounds == 1:
        return
    check = lambda records: None
    if section.by == DOMAIN:
        found = load_domain(domain)
        if not found.ranks:
            raise UserError(f"annotation.by='domain': the domain {domain!r} ranks no answers; name a judge or people.")
        check = found.check_ranking
    elif section.by != PEOPLE:
        check = judge_model.load("annotation.by", section.by, domain, section.judge_model).check
    longest = lengths.max_prompt_length
    overlong = "keep" if lengths.overlong_prompts == "keep" else "drop"
    fit = lambda records: fit_prompts(records, policy, longest, overlong)
    length = inputs.tokens("max_prompt_length", longest)
    yield Reading(
        "annotation.prompts", section.prompts or RANKING_PROMPTS, Prompt, fit, length, section.limit, check=check
    )
