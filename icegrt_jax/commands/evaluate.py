"""`icegrt evaluate`: what each stage bought, on the same held-out prompts.

In-domain answers are sampled at `evaluate.temperature` (and once more greedily), general tasks are
answered greedily. Best-of-n samples n answers of ICE-Instruct and keeps the one ICE-Reward prefers.
"""

import pathlib

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.options import DrawOptions, EvaluateOptions, Options, RewardOptions, Specs
from icegrt_jax.data.encode import encode_prompt
from icegrt_jax.data.records import Prompt
from icegrt_jax.evaluation.intervals import grade_intervals, task_interval
from icegrt_jax.evaluation.judges import BY_NAME, mean_grades
from icegrt_jax.evaluation.table import format_examples, format_table
from icegrt_jax.hosts import sync
from icegrt_jax.runs import generation, inputs, notes, rundir, scoring, stage_models
from icegrt_jax.runs.sections import sampler_for
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import Generation, prompt_arrays
from icegrt_jax.training.progress import Progress


def main(config: Options, workdir: pathlib.Path) -> None:
    """Asks every finished stage's model the same questions, after a check of all that will be read."""
    notes.warn("evaluate", inputs.check(config, workdir, "evaluate"))
    compare(config, workdir)


def compare(config: Options, workdir: pathlib.Path) -> None:
    """Evaluates the finished stages; prints the table and writes evaluate/results.json."""
    section = config.evaluate
    rundir.require(workdir, "evaluate", "sft")
    run = rundir.start(config, workdir)
    folder = run.folder("evaluate")
    if not rundir.finished(run, "evaluate"):
        domain, general = (_prompts(run, specs, section.limit) for specs in (section.domain, section.general))
        stages = [("base", *stage_models.before_sft(run, config.model, pretrained=bool(config.pretrain.steps)))]
        stages.append(("ICE-Instruct", *stage_models.stage_params(run, "sft", "policy")))
        if rundir.finished(run, "ppo"):
            stages.append(("ICE-GRT", *stage_models.stage_params(run, "ppo", "policy")))
        _audit(run, [*domain, *general])
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
                    "prompt": domain[i].prompt[-1]["content"],
                    "answers": {name: row["answers"][i] for name, row in rows.items()},
                }
                for i in _spread(len(domain), section.examples)
            ],
            "order": list(rows),
        }
        sync.main_first(folder / "results.json", lambda: files.write_json_atomic(folder / "results.json", results))
        rundir.finish(run, "evaluate", step=len(rows), models={})
    show(folder)


def show(folder: pathlib.Path) -> None:
    """Prints the table and the examples of a finished evaluation."""
    results = files.read_json(folder / "results.json")
    print("\n" + format_table(results["rows"]) + "\n\n" + format_examples(results["examples"]) + "\n", flush=True)


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` places spread over a list of `count`, so that every kind of prompt is shown."""
    return [int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()]


def _prompts(run: rundir.Run, specs: Specs, limit: int) -> list[Prompt]:
    loaded = run.load(specs, Prompt)
    chosen = [prompt for records in loaded.values() for prompt in (records[:limit] if limit else records)]
    longest = run.lengths.max_prompt_length
    fitting = [p for p in chosen if len(encode_prompt(p, run.tokenizer)) <= longest]
    if len(fitting) < len(chosen):
        print(f"evaluate  {len(chosen) - len(fitting)} of {len(chosen)} prompts are over {longest} tokens: left out")
    return fitting


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
    metrics, intervals, sampled, size = {}, {}, None, config.batch_size
    if domain:
        with progress.phase("in-domain"):
            sampled = _answers(run, model, params, domain, temperature=config.temperature, batch_size=size)
            greedy = _answers(run, model, params, domain, temperature=0.0, batch_size=size)
        metrics |= mean_grades(config.judge, domain, sampled.text)
        metrics |= _by_split(config.judge, domain, sampled.text)
        metrics["gold_greedy"] = mean_grades(config.judge, domain, greedy.text)["gold"]
        metrics["length"] = float(sampled.mask.sum(axis=1).mean())
        intervals |= grade_intervals(config.judge, domain, sampled.text)
        intervals["gold_greedy"] = grade_intervals(config.judge, domain, greedy.text)["gold"]
    if general:
        with progress.phase("general"):
            answers = _answers(run, model, params, general, temperature=0.0, batch_size=size).text
        metrics |= _by_task(config.general_judge, general, answers)
        tasks = [record.meta.get("task", "general") for record in general]
        intervals["general"] = task_interval(config.general_judge, general, answers, tasks)
    return {"metrics": metrics, "intervals": intervals, "answers": sampled.text if sampled else []}


def _best_of(
    run, config: EvaluateOptions, reward_options: RewardOptions, model, params, domain, progress: Progress
) -> dict:
    """The row of the answer that ICE-Reward likes best among n of ICE-Instruct."""
    reward_config, reward = stage_models.stage_params(run, "reward", "reward")
    with progress.phase("best of n"):
        n, size = config.best_of, config.batch_size
        out = _answers(
            run, model, params, domain, temperature=config.temperature, batch_size=size, num_samples=n,
            stream="best_of",
        )  # fmt: skip
        reader = scoring.load_reader(run, reward_options)
        with jax.set_mesh(run.mesh):
            scores = scoring.score_generation(reader, reward, reward_config, domain, out, size)
        best = scores.reshape(-1, n).argmax(axis=1) + n * np.arange(len(domain))
    texts = [out.text[i] for i in best]
    metrics = mean_grades(config.judge, domain, texts)
    metrics |= _by_split(config.judge, domain, texts)
    metrics["length"] = float(out.mask[best].sum(axis=1).mean())
    intervals = grade_intervals(config.judge, domain, texts)
    return {"metrics": metrics, "intervals": intervals, "answers": texts}


def _by_split(judge: str, records: list[Prompt], texts: list[str]) -> dict[str, float]:
    """Gold score of each kind of held-out prompt, where the records say which kind they are."""
    splits = sorted({record.meta["split"] for record in records if "split" in record.meta})
    return {
        f"gold/{split}": mean_grades(judge, *_pick(records, texts, lambda r, s=split: r.meta.get("split") == s))["gold"]
        for split in splits
    }


def _by_task(judge: str, records: list[Prompt], texts: list[str]) -> dict[str, float]:
    """Score of each general task, and `general`, the mean over the tasks."""
    tasks = sorted({record.meta.get("task", "general") for record in records})
    scores = {}
    for task in tasks:
        chosen, answers = _pick(records, texts, lambda r, t=task: r.meta.get("task", "general") == t)
        grades = [BY_NAME[judge](record, answer)["gold"] for record, answer in zip(chosen, answers, strict=True)]
        scores[f"general/{task}"] = sum(grades) / len(grades)
    return {"general": sum(scores.values()) / len(scores), **scores}


def _pick(records: list[Prompt], texts: list[str], wanted) -> tuple[list[Prompt], list[str]]:
    chosen = [(record, text) for record, text in zip(records, texts, strict=True) if wanted(record)]
    return [record for record, _ in chosen], [text for _, text in chosen]
