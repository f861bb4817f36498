"""Answers of a policy to an evaluation's prompts, drawn and graded; the temperature at which it answers best."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.options import DrawOptions
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired, sampled
from icegrt_jax.evaluation.intervals import grade_intervals
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import generation
from icegrt_jax.runs.judging import Questions
from icegrt_jax.runs.kept import Place
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling.generate import Generation

# Streams of the answers: of the first to each prompt, and of all others, one key for each.
STREAMS = {"evaluate": "more_answers", "best_of": "more_best_of"}


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to the same prompts.

    Attributes:
      temperature: they were drawn at; 0: greedy.
      texts, grades, tokens, finished: of each draw one for every prompt: `tokens` is how long it is, `finished` whether
        it came to its end, `ids` what its tokens are.
      scores: of each draw f64[N], a held-out reward model's; None where there is none.
    """

    temperature: float
    texts: list[list[str]]
    grades: list[list[dict[str, float]]]
    tokens: list[np.ndarray]
    finished: list[np.ndarray]
    ids: list[list[np.ndarray]]
    scores: list[np.ndarray] | None = None

    def by_prompt(self) -> list[dict[str, float]]:
        """Means over the answers to each prompt."""
        return [mean_grades(answers) for answers in zip(*self.grades, strict=True)]

    def length(self) -> float:
        """Mean tokens of an answer."""
        return float(np.mean([float(tokens.mean()) for tokens in self.tokens]))

    def rows(self, prompts: Sequence[Prompt], **told: Any) -> Iterator[dict[str, Any]]:
        """A row for each answer, to be kept; `told` is said in all of them."""
        for k, (texts, grades, tokens) in enumerate(zip(self.texts, self.grades, self.tokens, strict=True)):
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
                groups = {name: prompt.meta[name] for name in ("split", "task") if name in prompt.meta}
                scored = {} if self.scores is None else {"heldout_reward": float(self.scores[k][i])}
                yield {
                    **told, "temperature": self.temperature, "prompt": i, **groups, "sample": k,
                    "grades": grades[i], **scored, "tokens": int(tokens[i]), "answer": text,
                }  # fmt: skip


@dataclasses.dataclass
class Row:
    """What is found of one policy.

    Attributes:
      metrics, intervals: of the table; intervals are those over the prompts, 95 %.
      numbers: the metrics by prompt, f64[N], as `paired.Numbers`.
      answers: (group of the prompts, how they were drawn, the answers).
      gold_by_temperature: on the prompts that the temperature is chosen on.
    """

    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    intervals: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    numbers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    answers: list[tuple[str, str, Answers]] = dataclasses.field(default_factory=list)
    gold_by_temperature: dict[float, float] = dataclasses.field(default_factory=dict)

    def shown(self, prompt: int) -> str:
        """The first sampled answer to an in-domain prompt."""
        return self.answers[0][2].texts[0][prompt]

    def add(self, decoding: str, found: Answers) -> None:
        """Takes in-domain answers that were drawn in one way; all numbers but gold are metrics of the way's group."""
        by_prompt = found.by_prompt()
        means, bounds = mean_grades(by_prompt), grade_intervals(by_prompt)
        for name in means:
            metric = name if decoding == "sampled" else f"gold_{decoding}" if name == "gold" else f"{decoding}/{name}"
            self.metrics[metric], self.intervals[metric] = means[name], bounds[name]
            self.numbers[metric] = paired.column(by_prompt, name)
        self.answers.append(("domain", decoding, found))

    def graded(self) -> list[str]:
        """The numbers that the judges of the in-domain answers gave."""
        grades = [grade for group, _, found in self.answers if group == "domain" for grade in found.grades[0]]
        return list(dict.fromkeys(name for grade in grades for name in grade))

    def lines(self, name: str, prompts: Mapping[str, Sequence[Prompt]]) -> Iterator[dict[str, Any]]:
        """A line for each answer; of the row its `name`, of each group its prompts."""
        for group, decoding, found in self.answers:
            yield from found.rows(prompts[group], row=name, group=group, decoding=decoding)


def generate(
    run: Session, model: ModelConfig, params: dict, prompts: Sequence[Prompt], key: jax.Array, *,
    temperature: float, batch_size: int, keep: Place, num_samples: int = 1,
) -> Generation:  # fmt: skip
    """Answers as the sampler gives them."""
    sampler = sampler_for(run.tokenizer, DrawOptions(temperature=temperature), run.lengths.max_response_length)
    asked = [prompt.prompt for prompt in prompts]
    return generation.generate(
        run, model, params, asked, key, sampler, num_samples=num_samples, batch_size=batch_size, keep=keep
    )


Draw = tuple[list[str], list[np.ndarray], np.ndarray]  # texts, their tokens, and whether they came to their end


def graded(questions: Questions, temperature: float, draws: Sequence[Draw]) -> Answers:
    """Answers with their grades."""
    texts, ids, finished = map(list, zip(*draws, strict=True))
    tokens = [np.array([len(row) for row in of_draw]) for of_draw in ids]
    return Answers(temperature, texts, [questions.grade(one) for one in texts], tokens, finished, ids)


def ids_of(out: Generation) -> list[np.ndarray]:
    """The tokens of each answer, without padding."""
    return [row[keep] for row, keep in zip(out.tokens, out.mask, strict=True)]


def answer(
    run: Session, model: ModelConfig, params: dict, questions: Questions, keys: Sequence[jax.Array], *,
    temperature: float, batch_size: int, keep: Place,
) -> Answers:  # fmt: skip
    """An answer to each prompt for each of the keys; one where they are greedy: all would be the same."""
    draws = []
    for key in keys if temperature else keys[:1]:
        out = generate(
            run, model, params, questions.prompts, key, temperature=temperature, batch_size=batch_size, keep=keep
        )
        draws.append((out.text, ids_of(out), out.finished))
    return graded(questions, temperature, draws)


def keys_of(run: Session, stream: str, samples: int) -> list[jax.Array]:
    """A key for each answer to a prompt: the first is the same however many there are."""
    more = run.key(STREAMS[stream])
    return [run.key(stream), *(jax.random.fold_in(more, k) for k in range(1, samples))]


def tasks_of(general: Questions) -> list[str]:
    """The task of each prompt of the general ones."""
    return [record.meta.get("task", "general") for record in general.prompts]


def by_split(records: Sequence[Prompt], grades: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Gold score of each kind of held-out prompt, where the records say which kind they are."""
    gold = collections.defaultdict(list)
    for record, grade in zip(records, grades, strict=True):
        if "split" in record.meta:
            gold[record.meta["split"]].append(grade["gold"])
    return {f"gold/{split}": sum(gold[split]) / len(gold[split]) for split in sorted(gold)}


def by_task(tasks: list[str], gold: list[float]) -> dict[str, float]:
    """Score of each general task, and `general`, the mean over the tasks."""
    by_task = collections.defaultdict(list)
    for task, grade in zip(tasks, gold, strict=True):
        by_task[task].append(grade)
    scores = {f"general/{task}": sum(by_task[task]) / len(by_task[task]) for task in sorted(by_task)}
    return {"general": sum(scores.values()) / len(scores), **scores}


def gold_by_temperature(
    run: Session, model: ModelConfig, params: dict, questions: Questions, temperatures: Sequence[float], *,
    samples: int, batch_size: int, keep: Place,
) -> dict[float, float]:  # fmt: skip
    """Mean gold of the answers to prompts at each of the temperatures, all drawn with the same keys."""
    keys = [jax.random.fold_in(run.key("temperatures"), k) for k in range(samples)]
    gold = {}
    for temperature in temperatures:
        found = answer(run, model, params, questions, keys, temperature=temperature, batch_size=batch_size, keep=keep)
        gold[temperature] = mean_grades(found.by_prompt())["gold"]
    return gold


def write(folder: pathlib.Path, results: dict, rows: Mapping[str, Row], asked: Mapping[str, Questions]) -> None:
    """Writes the results of an evaluation, and before them every answer with its numbers, and what it answers."""
    prompts = {group: questions.prompts for group, questions in asked.items()}
    told = [
        {"group": group, "place": i, **record.to_json()}
        for group in ("domain", "general")
        for i, record in enumerate(prompts[group])
    ]
    said = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in told)
    files.write_text_atomic(folder / sampled.PROMPTS, said)
    lines = [json.dumps(line, ensure_ascii=False) for name, row in rows.items() for line in row.lines(name, prompts)]
    files.write_text_atomic(folder / sampled.ANSWERS, "".join(f"{line}\n" for line in lines))
    files.write_json_atomic(folder / "results.json", results)


def check_others(key: str, chosen_on: Sequence[Prompt], measured_on: Sequence[Prompt]) -> None:
    """Refuses prompts that something is chosen on and that it is then measured on as well; `key` names the former."""
    said = lambda record: tuple((message["role"], message["content"]) for message in record.prompt)
    measured = {said(record): record for record in measured_on}
    both = [record for record in chosen_on if said(record) in measured]
    if both:
        where, same = both[0].where, measured[said(both[0])].where
        raise UserError(
            f"{key}: {len(both)} of its {len(chosen_on)} prompts are prompts of evaluate.domain as well"
            f"{f', {where} is {same}' if where and same else ''}; what is chosen on them would be measured on the "
            "questions that chose it: name other prompts."
        )
