"""`icegrt evaluate`: what each stage bought, on the same held-out prompts.

In-domain answers are sampled at `evaluate.temperature` (and once more greedily), general tasks are
answered greedily. Best-of-n samples n answers of ICE-Instruct and keeps the one ICE-Reward prefers.
"""

import collections
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.commands import leaving_models
from icegrt_jax.config.options import DrawOptions, EvaluateOptions, Options, RewardOptions
from icegrt_jax.data.encode import fit_prompts
from icegrt_jax.data.records import Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.evaluation.intervals import grade_intervals, task_interval
from icegrt_jax.evaluation.judges import mean_grades
from icegrt_jax.evaluation.table import COLUMNS, columns_of, columns_with, format_examples, format_note, format_table
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import begin, generation, inputs, judging, notes, rundir, scoring, stage_models, trackers
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.runs.stage import Stage
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import Generation, prompt_arrays
from icegrt_jax.training.progress import Progress

Grades = list[dict[str, float]]


def compare(run: rundir.Run, config: Options) -> None:
    """Evaluates the finished stages and writes evaluate/results.json."""
    section, folder = config.evaluate, run.folder("evaluate")
    domain, general = (_questions(run, section, config.domain, group) for group in ("domain", "general"))
    base = stage_models.before_sft(run, config.model, pretrained=bool(config.pretrain.steps))
    stages = [("base", *base), *_stages(run)]
    _audit(run, [*domain.prompts, *general.prompts])
    rows = {}
    best_of = section.best_of if domain and rundir.finished(run, "reward") else 0
    with Progress(len(stages) + bool(best_of), "evaluate") as progress:
        for name, model, params in stages:
            rows[name] = _evaluate(run, section, model, params, domain, general, progress)
            progress.update(len(rows))
            if name == "ICE-Instruct" and best_of:
                rows[f"best-of-{best_of}"] = _best_of(run, section, config.reward, model, params, domain, progress)
                progress.update(len(rows))
    results = {
        "rows": [
            {"name": name, "metrics": row["metrics"], "intervals": row["intervals"]} for name, row in rows.items()
        ],
        "prompts": {"domain": len(domain), "general": len(general)},
        "examples": [
            {
                "prompt": domain.prompts[i].prompt[-1]["content"],
                "answers": {name: row["answers"][i] for name, row in rows.items()},
            }
            for i in _spread(len(domain), section.examples)
        ],
        "order": list(rows),
        **_columns(domain, rows),
    }
    sync.main_first(folder / "results.json", lambda: files.write_json_atomic(folder / "results.json", results))
    numbers = {f"evaluate/{name}/{key}": x for name, row in rows.items() for key, x in row["metrics"].items()}
    examples = "\n\n".join(format_examples(results["examples"]).splitlines())
    trackers.tell(config.log, folder, {**numbers, "evaluate/examples": examples})
    rundir.finish(run, "evaluate", step=len(rows), models={})


def _stages(run: rundir.Run) -> list[tuple[str, ModelConfig, dict]]:
    """Row, shape and parameters of the policy that each finished stage has left."""
    rows = {command.name: command.leaves["policy"].row for command in leaving_models() if "policy" in command.leaves}
    return [
        (row, *stage_models.stage_params(run, name, "policy"))
        for name, row in rows.items()
        if row not in ("", "base") and rundir.finished(run, name)
    ]


def show(folder: pathlib.Path) -> None:
    """Prints the table and the examples of a finished evaluation."""
    results = files.read_json(folder / "results.json")
    parts = [format_table(results["rows"], columns_of(results)), format_examples(results["examples"])]
    if "prompts" in results:  # older results do not have it
        parts.insert(1, format_note(results["rows"], results["prompts"]))
    print("\n" + "\n\n".join(parts) + "\n", flush=True)


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread over a list of `count`, so that every kind of prompt is shown."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()]


def _questions(run: rundir.Run, section: EvaluateOptions, domain: str, group: str) -> judging.Questions:
    longest, judge_of = run.lengths.max_prompt_length, judging.of_evaluation(section, group, domain)
    loaded = run.load(getattr(section, group), Prompt)
    asked, over = judging.fitting(loaded, judge_of, run.tokenizer, longest, section.limit)
    if over:
        print(f"evaluate  {over} of {len(asked) + over} prompts are over {longest} tokens: left out")
    return asked


def _columns(domain: judging.Questions, rows: dict[str, dict]) -> dict:
    """The columns of the table, where the judges have other numbers to show than the usual ones."""
    names = dict.fromkeys(name for row in rows.values() for name in row["graded"])
    shown = domain.shows(names)
    return {} if shown.items() <= dict(COLUMNS).items() else {"columns": columns_with(shown)}


def _audit(run: rundir.Run, prompts: list[Prompt]) -> None:
    """Looks at the prompts as the sampler gets them."""
    if prompts:
        tokens, mask = prompt_arrays([prompt.prompt for prompt in prompts], run.tokenizer)
        notes.audit(run, "evaluate", [{"tokens": tokens, "mask": mask}], run.tokenizer)


def _sampler(run: rundir.Run, temperature: float) -> SamplerConfig:
    return sampler_for(run.tokenizer, DrawOptions(temperature=temperature), run.lengths.max_response_length)


def _answers(
    run, model, params, prompts, *, temperature: float, batch_size: int, num_samples: int = 1, stream: str = "evaluate"
) -> Generation:
    asked, sampler = [p.prompt for p in prompts], _sampler(run, temperature)
    return generation.generate(
        run,
        model,
        params,
        asked,
        run.key(stream),
        sampler,
        num_samples=num_samples,
        batch_size=batch_size,
    )


def _evaluate(run, config: EvaluateOptions, model, params, domain, general, progress: Progress) -> dict:
    """One stage's row: metrics, 95 % intervals over the prompts, and its sampled in-domain answers."""
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    sampled, grades, size = None, [], config.batch_size
    if domain:
        with progress.phase("in-domain"):
            sampled = _answers(run, model, params, domain.prompts, temperature=config.temperature, batch_size=size)
            greedy = _answers(run, model, params, domain.prompts, temperature=0.0, batch_size=size)
        grades, greedy_grades = domain.grade(sampled.text), domain.grade(greedy.text)
        metrics |= mean_grades(grades)
        metrics |= _by_split(domain.prompts, grades)
        metrics["gold_greedy"] = mean_grades(greedy_grades)["gold"]
        metrics["length"] = float(sampled.mask.sum(axis=1).mean())
        intervals |= grade_intervals(grades)
        intervals["gold_greedy"] = grade_intervals(greedy_grades)["gold"]
    if general:
        with progress.phase("general"):
            answers = _answers(run, model, params, general.prompts, temperature=0.0, batch_size=size).text
        gold = [grade["gold"] for grade in general.grade(answers)]
        tasks = [record.meta.get("task", "general") for record in general.prompts]
        metrics |= _by_task(tasks, gold)
        intervals["general"] = task_interval(gold, tasks)
    texts = sampled.text if sampled else []
    return {"metrics": metrics, "intervals": intervals, "answers": texts, "graded": _names(grades)}


def _best_of(
    run, config: EvaluateOptions, reward_options: RewardOptions, model, params, domain, progress: Progress
) -> dict:
    """The row of the answer that ICE-Reward likes best among n of ICE-Instruct."""
    reward_config, reward = stage_models.stage_params(run, "reward", "reward")
    with progress.phase("best of n"):
        n, size = config.best_of, config.batch_size
        out = _answers(
            run, model, params, domain.prompts, temperature=config.temperature, batch_size=size, num_samples=n,
            stream="best_of",
        )  # fmt: skip
        reader = scoring.load_reader(run, reward_options)
        with jax.set_mesh(run.mesh):
            scores = scoring.score_generation(reader, reward, reward_config, domain.prompts, out, size)
        best = scores.reshape(-1, n).argmax(axis=1) + n * np.arange(len(domain))
    texts = [out.text[i] for i in best]
    grades = domain.grade(texts)
    metrics = mean_grades(grades)
    metrics |= _by_split(domain.prompts, grades)
    metrics["length"] = float(out.mask[best].sum(axis=1).mean())
    return {
        "metrics": metrics, "intervals": grade_intervals(grades), "answers": texts, "graded": _names(grades)
    }  # fmt: skip


def _names(grades: Grades) -> list[str]:
    """The numbers that the judges gave."""
    return list(dict.fromkeys(name for grade in grades for name in grade))


def _by_split(records: list[Prompt], grades: Grades) -> dict[str, float]:
    """Gold score of each kind of held-out prompt, where the records say which kind they are."""
    gold = collections.defaultdict(list)
    for record, grade in zip(records, grades, strict=True):
        if "split" in record.meta:
            gold[record.meta["split"]].append(grade["gold"])
    return {f"gold/{split}": sum(gold[split]) / len(gold[split]) for split in sorted(gold)}


def _by_task(tasks: list[str], gold: list[float]) -> dict[str, float]:
    """Score of each general task, and `general`, the mean over the tasks."""
    by_task = collections.defaultdict(list)
    for task, grade in zip(tasks, gold, strict=True):
        by_task[task].append(grade)
    scores = {f"general/{task}": sum(by_task[task]) / len(by_task[task]) for task in sorted(by_task)}
    return {"general": sum(scores.values()) / len(scores), **scores}


def readings(section: EvaluateOptions, domain: str, longest: int, policy: ChatTokenizer) -> Iterator[Reading]:
    """The prompts of both groups."""
    fit = lambda records: fit_prompts(records, policy, longest, "drop")
    length = inputs.tokens("max_prompt_length", longest)
    for group in ("domain", "general"):
        judge_of = judging.of_evaluation(section, group, domain)
        for name, spec in getattr(section, group).items():
            reading = Reading(f"evaluate.{group}.{name}", spec, Prompt, fit, length, section.limit)
            yield inputs.judged(reading, judge_of(name))


STAGE = Stage(
    "evaluate",
    compare,
    after=lambda run, config: show(run.folder("evaluate")),
    due=lambda config: True,
    needs=lambda config: ("sft",),
    readings=lambda config, policy, _: readings(config.evaluate, config.domain, config.max_prompt_length, policy),
    only_measures=True,
)
main = begin.program(STAGE)
