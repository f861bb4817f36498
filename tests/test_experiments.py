"""What the studies print of their numbers."""

import pathlib
import re
import runpy

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
SEEDS = ROOT / "experiments" / "quickstart_seeds"


def test_every_spread_in_the_table_is_a_95_percent_interval():
    study = runpy.run_path(str(SEEDS / "run.py"))
    row = lambda x: {name: x for name in (*study["COLUMNS"], "greedy/false_clear")}
    seeds = {
        str(i): {
            "rows": {"base": row(0.0), "ICE-Instruct": row(x), "best-of-8": row(1.5 * x), "ICE-GRT": row(2 * x)},
            "late_kl": 10 * x,
        }
        for i, x in enumerate((0.1, 0.2, 0.3))
    }
    text = study["table"](seeds, study["summarize"](seeds))
    # Of 10, 20 and 30 the mean is 20, the standard deviation 10; Student's t of two degrees of freedom is 4.303.
    assert 4.303 * 10 / 3**0.5 == pytest.approx(24.8, abs=0.05)
    assert "95 % intervals" in text.splitlines()[0]
    assert f"| ICE-Instruct | {' | '.join(['20.0 ± 24.8'] * 7)} | 0.2 ± 0.2 |" in text
    assert "- gold, sampled, less ICE-Instruct: +20.0 ± 24.8" in text
    assert "- gold, sampled, less best-of-8: +10.0 ± 12.4" in text
    assert "2.00 ± 2.48 nats" in text


@pytest.mark.parametrize("page", ["README.md", "experiments/quickstart_seeds/README.md"])
def test_the_pages_show_the_table_that_the_study_made(page):
    shown = (ROOT / page).read_text(encoding="utf-8")
    table = [line for line in (SEEDS / "results" / "table.md").read_text(encoding="utf-8").splitlines() if "±" in line]
    assert len(table) == 14 and [line for line in table if line not in shown] == []


def test_the_picture_of_the_readme_shows_the_numbers_of_the_study():
    import matplotlib.pyplot as plt

    from icegrt_jax import files

    study, picture = (runpy.run_path(str(SEEDS / name)) for name in ("run.py", "picture.py"))
    seeds = list(files.read_json(SEEDS / "results" / "seeds.json")["seeds"].values())
    figure, axes = plt.subplots()
    picture["by_stage"](axes, seeds)
    shown = {round(bar.get_height(), 1) for bar in axes.patches}
    line = next(x for x in study["table"](dict(enumerate(seeds)), study["summarize"](dict(enumerate(seeds))))
                .splitlines() if x.startswith("| ICE-GRT"))  # fmt: skip
    verdict, analysis, _, _, _, general, *_ = (float(cell.split("±")[0]) for cell in line.split("|")[2:-1])
    assert {verdict, analysis, general} <= shown
    plt.close(figure)
    assert "](docs/quickstart.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def test_the_limits_of_choosing_are_those_of_the_judge_and_the_page_shows_what_was_measured():
    from icegrt_jax import files

    folder = ROOT / "experiments" / "beyond_best_of_n"
    study = runpy.run_path(str(folder / "limits.py"))
    scores, gold = np.random.default_rng(0).normal(size=(2, 3, 6))
    np.testing.assert_allclose(study["best_of"](gold, gold, 6), gold.max(axis=1))
    np.testing.assert_allclose(study["best_of"](scores, gold, 1), gold.mean(axis=1))
    assert study["pairs"](gold, gold)[0] == 1 and study["pairs"](-gold, gold)[0] == 0
    measured = files.read_json(folder / "results" / "limits.json")
    assert (folder / "results" / "limits.md").read_text(encoding="utf-8") == study["table"](measured)


def test_the_study_of_own_rewards_compares_arms_by_seed_and_values_form_alone(tmp_path):
    import matplotlib.pyplot as plt

    study, own = (runpy.run_path(str(ROOT / "experiments" / "own_reward" / name)) for name in ("run.py", "form.py"))
    row = lambda x: {name: x for name in study["COLUMNS"]}
    curves = lambda x: {name: [x] * 12 for name in study["CURVES"]}
    seeds = {
        str(i): {arm: {"rows": {"ICE-Instruct": row(x), "best-of-8": {"gold": x}, "ICE-GRT": row((2 + j) * x)},
                       "curves": curves(x)}
                 for j, arm in enumerate(study["ARMS"])}
        for i, x in enumerate((0.1, 0.2, 0.3))
    }  # fmt: skip
    text = study["table"](seeds)
    assert f"| ICE-Instruct | {' | '.join(['20.0 ± 24.8'] * 5)} | 0.2 ± 0.2 |" in text
    assert "| best-of-8 | - | - | 20.0 ± 24.8 | - | - | - |" in text
    assert f"| PPO, function | {' | '.join(['40.0 ± 49.7'] * 5)} | 0.4 ± 0.5 |" in text
    assert f"| both - model | {' | '.join(['+20.0 ± 24.8'] * 5)} | +0.2 ± 0.2 |" in text
    assert "| 2 | model | 0.300 | 0.30 | 90.0 | 90.0 | 0.9 |" in text
    study["plot"](seeds, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG") and not plt.get_fignums()

    prompts = [[{"role": "user", "content": "review this ad. ad: doctors love it."}]] * 5
    reviews = ['"doctors love it" breaks rule 6, fake authority. verdict: reject', "verdict: approve",
               '"nurses love it" breaks rule 6. verdict: reject', "no rule is broken. verdict: reject", ""]  # fmt: skip
    assert own["form"](prompts, reviews, [None] * 5) == [1.0, 0.25, 0.75, 0.75, 0.0]


def test_the_study_of_own_data_says_what_is_read_and_what_the_limit_was():
    sets, large = (runpy.run_path(str(ROOT / "experiments" / "own_data" / name)) for name in ("run.py", "large.py"))
    found = {
        "source": "jsonl:rows.jsonl", "understood": "read as alpaca", "stage": "sft", "number": "loss",
        "before": 5.25, "after": 3.5,
        "counts": {"records": 100, "kept": 60, "cut": 30, "dropped": 10},
    }  # fmt: skip
    ranked = {**found, "stage": "reward", "number": "accuracy", "before": 0.5, "after": 0.625}
    text = sets["table"]({"alpaca": found, "comve": {**ranked, "counts": {"records": 9, "identical": 2}}})
    assert "| alpaca | instruction, input, output | sft | 100 | 90 | 30 | 10 | loss | 5.250 | 3.500 |" in text
    assert "| comve | answers with scores | reward | 9 | 7 | 0 | 2 | accuracy | 50.0 % | 62.5 % |" in text
    assert "- `jsonl:rows.jsonl`: read as alpaca" in text

    MIB, run = 1 << 20, {"rc": 0, "seconds": 20.0, "peak": 200 << 20, "losses": [7.0, 5.0]}
    said = {
        "way": "cgroup", "small_bytes": 4 * MIB, "limit": 240 * MIB, "rows": 1000, "bytes": 720 * MIB,
        "build": {**run, "bytes": 500 * MIB, "losses": []}, "small_jsonl": run, "small_tokens": run, "tokens": run,
        "jsonl": {**run, "rc": -9, "losses": []},
    }  # fmt: skip
    text = large["table"](said)
    assert "Limit 240 MiB (a memory cgroup)" in text and "3.00 times the limit" in text
    assert "| pretrain, tokens | 720 | 240 | 200 | well | 20 | 7.000 → 5.000 |" in text
    assert "| pretrain, jsonl | 720 | 240 | 200 | killed: out of memory | 20 | - |" in text
    assert "the same, bit for bit" in text


def test_the_trial_takes_all_from_the_readme_and_counts_every_second_once(tmp_path):
    from icegrt_jax.config.file import load_config

    trial = runpy.run_path(str(ROOT / "experiments" / "own_expert" / "run.py"))
    files = trial["shown"]((ROOT / "README.md").read_text(encoding="utf-8"))
    assert list(files) == ["my_reward.py", "mine.py"]
    (tmp_path / "mine.py").write_text(trial["edited"](files["mine.py"], "/a/folder"))
    config = load_config(str(tmp_path / "mine.py"))
    assert config.model.path == "/a/folder"
    assert config.ppo.sources.mine == "csv:reasons_train.csv?prompt=question&reference=reason"
    assert config.evaluate.domain.mine == "csv:reasons_test.csv?prompt=question&reference=reason"
    printed = [(4.0, "[1/2] sft: ICE-Instruct"), (5.0, "sft  1/2"), (9.0, "[2/2] report: curves"), (10.5, "finished")]
    assert trial["parts"](printed) == {"start": 4.0, "sft": 5.0, "report": 1.5}
    row = {"name": "base", "metrics": {"gold": 0.1, "gold_greedy": 0.2, "length": 3.0}}
    row["intervals"] = {"gold": [0.05, 0.15], "gold_greedy": [0.1, 0.3]}
    steps = {"install": {"seconds": 60.0, "cpu_seconds": 50.0}, "run": {"seconds": 100.0, "cpu_seconds": 180.0}}
    text = trial["table"]({"prompts": 9, "rows": [row], "steps": steps, "parts": {"sft": 70.0}})
    assert "| base | 10.0 [5.0, 15.0] | 20.0 [10.0, 30.0] | 3.0 |" in text
    assert text.endswith("| ... sft | 70 | |\n| all | 160 | 230 |\n")


@pytest.mark.parametrize("page", ["README.md", "experiments/own_expert/README.md"])
def test_the_pages_show_the_table_of_the_trial(page):
    table = (ROOT / "experiments" / "own_expert" / "results" / "table.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in table if line.startswith(("| base", "| ICE-"))]
    shown = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert len(rows) == 3 and [row for row in rows if row not in shown] == []


def test_the_harness_s_own_backend_and_ours_agree_on_smollm2_to_rounding_and_ours_is_twice_as_fast():
    from icegrt_jax import files

    folder = ROOT / "experiments" / "lm_eval"
    study, results = runpy.run_path(str(folder / "run.py")), files.read_json(folder / "results" / "lm_eval.json")
    assert list(results["tasks"]) == list(study["TASKS"]) and len(results["tasks"]) == 6
    total = study["total"](results["tasks"])
    apart = [found["largest_difference"] for found in results["tasks"].values()]
    assert total == results["total"] and total["rows"] >= 200
    assert max(apart) < 1e-3 and total["greedy_different"] == 0
    exact = files.read_json(folder / "results" / "exact.json")
    assert all(found["icegrt"] < 2e-4 < found["hf"] for found in exact.values())
    assert all(found["metrics"]["hf"] == found["metrics"]["icegrt"] for found in results["tasks"].values())
    assert total["warm"]["hf"] >= 2 * total["warm"]["icegrt"]
    made = study["table"](results)
    assert made + "\n" == (folder / "results" / "table.md").read_text(encoding="utf-8")
    assert made in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["four_factors", "recipes"])
def test_every_arm_of_a_study_is_a_config_that_holds_and_samples_as_many_answers(name):
    from icegrt_jax.config import checks, read
    from icegrt_jax.config.file import load_config

    study = runpy.run_path(str(ROOT / "experiments" / name / "run.py"))
    for arm_name, arm in study["ARMS"].items():
        values = [f"--config.{override}" for override in (*study["SHARED"]["ALL"], *arm.overrides)]
        options = read(load_config(str(ROOT / arm.config), values))
        checks.check(options)
        length = 180 if arm_name.startswith("three times") else 60
        assert (options.ppo.iterations, options.ppo.batch_size * options.ppo.samples_per_prompt) == (length, 128)
        # Else the seed's own reward stage, which has sampled with these, would not be taken.
        assert (options.ppo.temperature, options.ppo.top_k, options.ppo.top_p, options.ppo.min_p) == (1.0, 0, 1.0, 0.0)


def test_the_page_of_the_recipes_shows_its_table():
    folder = ROOT / "experiments" / "recipes"
    rows = (folder / "results" / "table.md").read_text(encoding="utf-8").splitlines()
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert len(rows) > 8 and [row for row in rows if row not in page] == []


def test_the_study_of_the_factors_compares_arms_with_the_recipe_by_seed(tmp_path):
    import matplotlib.pyplot as plt

    study = runpy.run_path(str(ROOT / "experiments" / "four_factors" / "run.py"))
    arms, shared = study["ARMS"], study["SHARED"]
    run = lambda x, kl: {
        "row": {name: x for name in shared["COLUMNS"]},
        "curves": {"gold": [x] * 12, "kl": [0.0, 0.0, *[kl] * 10]},
    }
    seeds = {
        str(i): {"recipe": run(x, 1.5), "no KL": run(x - 0.1 - x / 10, 9.0)} for i, x in enumerate((0.5, 0.6, 0.7))
    }
    seeds["0"]["no replay"] = run(0.5, 1.0)  # of one seed: left out
    del seeds["2"]["no KL"]
    text = shared["table"](arms, seeds, "factor")
    assert f"| | recipe | 3 | {' | '.join(['60.0 ± 24.8'] * 6)} | 0.6 ± 0.2 | 1.5 |" in text
    assert f"| KL-control | no KL | 2 | {' | '.join(['**-15.5 ± 6.4**'] * 6)} | **-0.2 ± 0.1** | 9.0 |" in text
    assert "no replay" not in text
    page = (ROOT / "experiments" / "four_factors" / "README.md").read_text(encoding="utf-8")
    rows = (ROOT / "experiments" / "four_factors" / "results" / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 8 and [row for row in rows if row not in page] == []
    said = (ROOT / "README.md").read_text(encoding="utf-8").partition("What they are worth on the quickstart")[2]
    figures = re.findall(r"\d+\.\d ± \d+\.\d", said.partition("\n\n")[0])
    assert len(figures) == 5 and [figure for figure in figures if figure not in "\n".join(rows)] == []
    seeds["0"]["no KL"]["curves"] = {"gold": [0.5] * 9, "kl": [9.0] * 9}  # not as long as that of another seed
    shared["plot"](arms, seeds, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG") and not plt.get_fignums()
