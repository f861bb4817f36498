"""`icegrt evaluate`: what each stage bought, on the same held-out prompts.

In-domain answers are sampled at `evaluate.temperature`, `evaluate.samples` to a prompt, and once more greedily; general
tasks are answered greedily. Best-of-n samples n answers of ICE-Instruct and keeps the one ICE-Reward prefers. With
`evaluate.temperatures` every stage is measured at its best one as well, which is chosen on other prompts.
"""

import collections
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from icegrt_jax import files, terminal
from icegrt_jax.commands import leaving_models
from icegrt_jax.config.options import (
    EvaluateOptions,
    LengthOptions,
    Options,
    RecordOptions,
    RewardOptions,
    ScoreOptions,
)
from icegrt_jax.data.encode import fit_prompts
from icegrt_jax.data.records import Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.evaluation import drawn, paired, table
from icegrt_jax.evaluation.intervals import task_interval
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import (
    answers,
    begin,
    heldout_reward,
    inputs,
    judging,
    kept,
    notes,
    rundir,
    score_scale,
    scoring,
    shown_answers,
    stage_models,
    trackers,
)
from icegrt_jax.runs.answers import Row
from icegrt_jax.runs.reading import Reading
from icegrt_jax.runs.stage import Stage
from icegrt_jax.sampling.generate import prompt_arrays
from icegrt_jax.training.progress import Progress

OTHERS = "temperature_prompts"


def compare(run: rundir.Run, config: Options) -> None:
    """Evaluates the finished stages and writes evaluate/results.json, by_prompt.jsonl and prompts.jsonl."""
    section, folder = config.evaluate, run.folder("evaluate")
    asked = {group: _questions(run, section, config.domain, group) for group in judging.DEFAULTS}
    domain, general = asked["domain"], asked["general"]
    answers.check_others(f"evaluate.{OTHERS}", asked[OTHERS].prompts, domain.prompts)
    base = stage_models.before_sft(run, config.model, pretrained=bool(config.pretrain.steps))
    stages = [("base", *base), *_stages(run)]
    _audit(run, [*domain.prompts, *general.prompts])
    rows: dict[str, Row] = {}
    keep = run.keep("evaluate")
    if keep.there and sync.is_main():
        print(f"evaluate  going on: {len(keep.there)} draws of answers are there", flush=True)
    best_of = section.best_of if domain and rundir.known_finished(run, "reward") else 0
    with Progress(len(stages) + bool(best_of), "evaluate", workdir=run.workdir) as progress:
        for name, model, params in stages:
            rows[name] = _evaluate(run, section, model, params, asked, progress, keep, at_best=name != "base")
            progress.update(len(rows))
            if name == "ICE-Instruct" and best_of:
                given = (run, section, config.reward, config.ppo.score, model, params, domain, progress, keep)
                rows[f"best-of-{best_of}"] = _best_of(*given)
                progress.update(len(rows))
        with progress.phase("held-out reward"):
            heldout = heldout_reward.measure(run, section, rows, domain.prompts, stages[1:]) if domain else {}
        with progress.phase("answers for the report"):
            places = _spread(len(domain), config.log.browsed) if domain else []
            reward = shown_answers.Reward.of(run, config.reward, config.ppo.score) if places else None
            shown = shown_answers.measured(run, domain.prompts, places, section.batch_size, rows, stages, reward)
    results = {
        "rows": [_told(name, row) for name, row in rows.items()],
        "prompts": {"domain": len(domain), "general": len(general)},
        "samples": section.samples if section.temperature else 1,
        "temperature": section.temperature,
        "examples": [
            {
                "prompt": domain.prompts[i].prompt[-1]["content"],
                "answers": {name: row.shown(i) for name, row in rows.items()},
            }
            for i in _spread(len(domain), section.examples)
        ],
        "order": list(rows),
        **_columns(domain, rows),
        "harms": domain.harms(),
        **({"heldout_reward": heldout} if heldout else {}),
        "differences": _differences(rows, [name for name, *_ in stages], f"best-of-{best_of}", general),
        "best": paired.best(
            {name: row.numbers for name, row in rows.items()}, domain.harms(), answers.tasks_of(general)
        ),
    }

    def write() -> None:
        shown_answers.write(folder, shown)
        answers.write(folder, results, rows, asked)

    sync.main_first(folder / "results.json", write)
    numbers = {f"evaluate/{name}/{key}": x for name, row in rows.items() for key, x in row.metrics.items()}
    examples = table.format_examples(results["examples"], markdown=True)
    trackers.tell(config.log, folder, {**numbers, "evaluate/examples": examples})
    rundir.finish(run, "evaluate", step=len(rows), models={})


def _told(name: str, row: Row) -> dict[str, Any]:
    """A row of results.json."""
    tried = {f"{temperature:g}": gold for temperature, gold in row.gold_by_temperature.items()}
    return {
        "name": name, "metrics": row.metrics, "intervals": row.intervals,
        **({"gold_by_temperature": tried} if tried else {}),
    }  # fmt: skip


def _differences(
    rows: Mapping[str, Row], stages: list[str], best_of: str, general: judging.Questions
) -> list[dict[str, Any]]:
    """What every stage after ICE-Instruct has more than that and than best-of-n, prompt by prompt."""
    later = stages[stages.index("ICE-Instruct") + 1 :] if "ICE-Instruct" in stages else []
    pairs = [(name, other) for name in later for other in (best_of, "ICE-Instruct") if other in rows]
    return list(paired.differences({name: row.numbers for name, row in rows.items()}, pairs, answers.tasks_of(general)))


def _stages(run: rundir.Run) -> list[tuple[str, ModelConfig, dict]]:
    """Row, shape and parameters of the policy that each finished stage has left."""
    rows = {command.name: command.leaves["policy"].row for command in leaving_models() if "policy" in command.leaves}
    return [
        (row, *stage_models.stage_params(run, name, "policy"))
        for name, row in rows.items()
        if row not in ("", "base") and rundir.known_finished(run, name)
    ]


def show(folder: pathlib.Path) -> None:
    """Prints the table, the differences and the examples of a finished evaluation."""
    results = files.read_json(folder / "results.json")
    if terminal.is_live(sys.stdout):
        drawn.show(results, terminal.console(sys.stdout))
        return
    parts = [
        table.format_table(results["rows"], table.columns_of(results)),
        table.format_note(results),
        table.format_differences(results),
        table.format_examples(results["examples"]),
    ]
    print("\n" + "\n\n".join(filter(None, parts)) + "\n", flush=True)


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread over a list of `count`, so that every kind of prompt is shown."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()]


def _questions(run: rundir.Run, section: EvaluateOptions, domain: str, group: str) -> judging.Questions:
    longest, judge_of = run.lengths.max_prompt_length, judging.of_evaluation(section, group, domain)
    loaded = run.load(getattr(section, group), Prompt)
    asked, over = judging.fitting(loaded, judge_of, run.tokenizer, longest, _limit(section, group))
    if over:
        print(f"evaluate  {over} of {len(asked) + over} prompts are over {longest} tokens: left out")
    return asked


def _limit(section: EvaluateOptions, group: str) -> int:
    return section.temperature_limit if group == OTHERS else section.limit


def _columns(domain: judging.Questions, rows: Mapping[str, Row]) -> dict:
    """The columns of the table, where the judges have other numbers to show than the usual ones."""
    names = dict.fromkeys(name for row in rows.values() for name in row.graded())
    shown = domain.shows(names)
    return {} if shown.items() <= dict(table.COLUMNS).items() else {"columns": table.columns_with(shown)}


def _audit(run: rundir.Run, prompts: list[Prompt]) -> None:
    """Looks at the prompts as the sampler gets them."""
    if prompts:
        tokens, mask = prompt_arrays([prompt.prompt for prompt in prompts], run.tokenizer)
        notes.audit(run, "evaluate", [{"tokens": tokens, "mask": mask}], run.tokenizer)


def _evaluate(
    run, config: EvaluateOptions, model, params, asked: Mapping[str, judging.Questions], progress: Progress,
    keep: kept.Place, *, at_best: bool,
) -> Row:  # fmt: skip
    """One stage's row; `at_best`: measured at its best temperature as well, where there are some to try."""
    row, domain, general, size = Row(), asked["domain"], asked["general"], config.batch_size
    keys = answers.keys_of(run, "evaluate", config.samples)
    ask = lambda questions, temperature: answers.answer(
        run, model, params, questions, keys, temperature=temperature, batch_size=size, keep=keep
    )
    if domain:
        with progress.phase("in-domain"):
            ways = {"sampled": ask(domain, config.temperature), "greedy": ask(domain, 0.0)}
        row.add("sampled", ways["sampled"])
        row.metrics |= answers.by_split(domain.prompts, ways["sampled"].by_prompt())
        row.metrics["length"] = ways["sampled"].length()
        row.add("greedy", ways["greedy"])
    if at_best and asked[OTHERS]:
        with progress.phase("temperatures"):
            row.gold_by_temperature = answers.gold_by_temperature(
                run, model, params, asked[OTHERS], config.temperatures, samples=config.samples, batch_size=size,
                keep=keep,
            )  # fmt: skip
            best = max(row.gold_by_temperature, key=row.gold_by_temperature.__getitem__)
            known = {found.temperature: found for found in ways.values()}
            row.add("best", known[best] if best in known else ask(domain, best))
        row.metrics["temperature"] = best
    if general:
        with progress.phase("general"):
            found = ask(general, 0.0)
        gold, tasks = [grade["gold"] for grade in found.grades[0]], answers.tasks_of(general)
        row.metrics |= answers.by_task(tasks, gold)
        row.intervals["general"] = task_interval(gold, tasks)
        row.numbers["general"] = np.array(gold, dtype=np.float64)
        row.answers.append(("general", "greedy", found))
    return row


def _best_of(
    run, config: EvaluateOptions, reward_options: RewardOptions, rule: ScoreOptions, model, params, domain,
    progress: Progress, keep: kept.Place,
) -> Row:  # fmt: skip
    """The row of the answer that ICE-Reward likes best among n of ICE-Instruct; several put together by `rule`."""
    reward_config, reward = stage_models.stage_params(run, "reward", "reward")
    scale = score_scale.read_scale(run.folder("reward"))
    n, size, draws = config.best_of, config.batch_size, []
    with progress.phase("best of n"):
        reader = scoring.load_reader(run, reward_options)
        for key in answers.keys_of(run, "best_of", config.samples if config.temperature else 1):
            out = answers.generate(
                run, model, params, domain.prompts, key,
                temperature=config.temperature, batch_size=size, num_samples=n, keep=keep,
            )  # fmt: skip
            with jax.set_mesh(run.mesh):
                scores = scoring.score_generation(reader, reward, reward_config, domain.prompts, out, size)
            if scale is not None:
                scores = scale.together(scores, rule)
            best = scores.reshape(-1, n).argmax(axis=1) + n * np.arange(len(domain))
            ids = answers.ids_of(out)
            draws.append(([out.text[i] for i in best], [ids[i] for i in best], out.finished[best]))
    row, found = Row(), answers.graded(domain, config.temperature, draws)
    row.add("sampled", found)
    row.metrics |= answers.by_split(domain.prompts, found.by_prompt())
    row.metrics["length"] = found.length()
    return row


def readings(section: EvaluateOptions, domain: str, longest: int, policy: ChatTokenizer) -> Iterator[Reading]:
    """The prompts of every group."""
    fit = lambda records: fit_prompts(records, policy, longest, "drop")
    length = inputs.tokens("max_prompt_length", longest)
    for group in judging.DEFAULTS:
        judge_of = judging.of_evaluation(section, group, domain)
        for name, spec in getattr(section, group).items():
            reading = Reading(f"evaluate.{group}.{name}", spec, Prompt, fit, length, _limit(section, group))
            yield inputs.judged(reading, judge_of(name))


def check_others(
    section: EvaluateOptions, lengths: LengthOptions, origin: RecordOptions, workdir: pathlib.Path,
    policy: ChatTokenizer,
) -> list[str]:  # fmt: skip
    """Refuses a temperature chosen on the prompts that it is measured on, and a reward model that is none."""
    heldout_reward.check(section)
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for reading in readings(section, origin.domain, lengths.max_prompt_length, policy) if section.temperatures else ():
        records = inputs.records_of(reading, origin, workdir)
        found[reading.key.split(".")[1]] += (records or [])[: reading.limit or None]
    answers.check_others(f"evaluate.{OTHERS}", found[OTHERS], found["domain"])
    return []


STAGE = Stage(
    "evaluate",
    compare,
    after=lambda run, config: show(run.folder("evaluate")),
    due=lambda config: True,
    needs=lambda config: ("sft",),
    readings=lambda config, policy, _: readings(config.evaluate, config.domain, config.max_prompt_length, policy),
    check=lambda config, *more: check_others(config.evaluate, config, config, *more),
    only_measures=True,
    title="Evaluation",
)
main = begin.program(STAGE)
