"""The report: one page and its pictures, whatever part of a run there is."""

import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.commands import report
from icegrt_jax.config.options import Options
from icegrt_jax.errors import UserError
from icegrt_jax.report import curves, panels

BAND = {"kl_target": 6.0, "kl_low": 3.0, "kl_high": 9.0}

CONFIG = Options(seed=7, data_dir="</pre><script>config</script>")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    assert plt.get_fignums() == []


def write_run(workdir):
    training = [{"step": s, "loss": 1 / s, **({"val_loss": 1.1 / s} if s % 10 == 0 else {})} for s in range(1, 41)]
    files.append_jsonl(workdir / "sft" / "metrics.jsonl", training)
    files.append_jsonl(workdir / "reward" / "metrics.jsonl", [row | {"accuracy": 0.7} for row in training])
    calibration = {"confidence": [0.55, 0.7, 0.9], "accuracy": [0.5, None, 0.8], "count": [4, 0, 9]}
    files.write_json_atomic(workdir / "reward" / "calibration.json", calibration)
    ppo = [{"step": s, "score_raw": s / 9, "kl": 0.1 * s, **BAND, "kl_coef": 0.2, "ratio": 1.0, "gold": None}
           for s in range(1, 41)]  # fmt: skip
    files.append_jsonl(workdir / "ppo" / "metrics.jsonl", ppo)
    files.write_json_atomic(workdir / "ppo" / "done.json", {})
    results = {
        "rows": [
            {"name": "base", "metrics": {"verdict": 0.5, "general": None, "general/copy": 0.25}},
            {"name": "ICE-GRT", "metrics": {"verdict": 0.875, "general": 0.5, "general/copy": 0.125}},
        ],
        "examples": [{"prompt": "<b>Ad</b> & more", "answers": {"ICE-GRT": "<script>x</script>", "base": "second"}}],
        "order": ["base", "ICE-GRT"],
    }
    files.write_json_atomic(workdir / "evaluate" / "results.json", results)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    write_run(workdir)
    report.main(CONFIG, workdir)
    return workdir / "report"


def test_a_whole_run_becomes_pictures_and_one_page(out):
    pictures = {p.name: p.read_bytes() for p in out.glob("*.png")}
    assert set(pictures) == {"sft.png", "reward.png", "reward_calibration.png", "ppo.png", "evaluate.png"}
    assert all(png.startswith(PNG) for png in pictures.values())
    page = (out / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched from elsewhere
    assert "finished, last metrics at step 40" in page
    assert "No metrics of pretrain in this run." in page


def test_the_table_marks_the_best_of_each_column(out):
    page = (out / "index.html").read_text()
    assert '<tr><td>base</td><td>0.500</td><td>–</td><td class="best">0.250</td></tr>' in page
    assert '<tr><td>ICE-GRT</td><td class="best">0.875</td><td class="best">0.500</td><td>0.125</td></tr>' in page


def test_the_least_harm_is_best_and_differences_stand_below_the_table(tmp_path):
    results = {
        "rows": [
            {"name": "base", "metrics": {"lies": 0.5, "greedy/lies": 0.25, "temperature": 0.3}},
            {"name": "ICE-GRT", "metrics": {"lies": 0.125, "greedy/lies": 0.5, "temperature": 0.7}},
        ],
        "harms": {"lies": "lies told"},
        "differences": [
            {"row": "ICE-GRT", "minus": "base", "metric": "lies", "difference": -0.375, "interval": [-0.5, -0.25]}
        ],
    }
    files.write_json_atomic(tmp_path / "evaluate" / "results.json", results)
    report.main(CONFIG, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert '<tr><td>base</td><td>0.500</td><td class="best">0.250</td><td>0.300</td></tr>' in page
    assert '<tr><td>ICE-GRT</td><td class="best">0.125</td><td>0.500</td><td>0.700</td></tr>' in page
    assert "<tr><th>ICE-GRT minus base</th><th></th></tr>" in page
    assert "<tr><td>lies told</td><td>-37.5 [-50.0, -25.0]</td></tr>" in page


def test_texts_of_models_data_and_config_are_escaped(out):
    page = (out / "index.html").read_text()
    assert "<script" not in page and "<b>Ad</b>" not in page
    assert "&lt;b&gt;Ad&lt;/b&gt; &amp; more" in page
    assert page.index("second") < page.index("&lt;script&gt;x&lt;/script&gt;")  # the order of the models


def test_a_workdir_with_nothing_to_report_is_refused(tmp_path):
    for made in ("run", "empty", "ppo"):
        (tmp_path / made).mkdir()
    (tmp_path / "ppo" / "metrics.jsonl").touch()
    for workdir in (tmp_path / "none", tmp_path / "empty", tmp_path):
        with pytest.raises(UserError, match=f"^{workdir}: nothing to report"):
            report.main(CONFIG, workdir)
        assert not (workdir / "report").exists()


def test_what_a_run_has_not_done_is_said_on_the_page(tmp_path):
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "metrics.jsonl").write_text('{"step": 1, "kl": 0.5}\n')
    report.main(CONFIG, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    for name in ("pretrain", "sft", "reward"):
        assert f"No metrics of {name} in this run." in page
    assert "No evaluation in this run." in page


def test_a_run_under_way_can_be_reported(tmp_path):
    (tmp_path / "ppo").mkdir()
    text = json.dumps({"step": 1, "score_raw": None, "unknown": 3}) + '\n{"step": 2, "sc'
    (tmp_path / "ppo" / "metrics.jsonl").write_text(text)
    report.main(CONFIG, tmp_path)
    assert "not finished, last metrics at step 1" in (tmp_path / "report" / "index.html").read_text()


def test_own_rewards_are_drawn_by_name_apart_from_their_counts():
    rows = [{"step": s, "reward/right": 0.1 * s, "reward/right/known": 1.0, "reward/brief": -s} for s in (1, 2)]
    figure = curves.training_figure(rows, panels.PPO, "PPO")
    drawn = {axes.get_title(loc="left"): [line.get_label() for line in axes.get_lines()] for axes in figure.axes}
    plt.close(figure)
    assert drawn == {
        "Own rewards": ["reward/right", "reward/brief"],
        "Own rewards: share with an opinion": ["reward/right/known"],
    }


def test_panels_without_data_are_left_out():
    rows = [{"step": s, "kl": 0.1, **BAND, "entropy": math.nan} for s in range(3)]
    figure = curves.training_figure(rows, panels.PPO, "PPO")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["KL to the reference (nats)"]
    assert "target" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    plt.close(figure)


def test_smoothing_keeps_a_constant_skips_nans_and_averages_neighbours():
    np.testing.assert_array_equal(curves.smoothed(np.full(9, 2.0), half=3), np.full(9, 2.0))
    values = np.array([0.0, 3.0, np.nan, 5.0, 100.0])
    np.testing.assert_allclose(curves.smoothed(values, half=1), [1.5, 1.5, 4.0, 52.5, 52.5])


def test_alarms_are_a_table_under_their_stage_and_lines_in_the_panels_of_their_metrics(tmp_path):
    write_run(tmp_path)
    said = {"measured": "KL 9.1", "cause": "too <fast>", "change": {"a.b": "up"}}
    event = {"alarm": "kl_too_large", "metric": "kl", **said}
    rows = [{"step": 9, "begins": True}, {"step": 20, "begins": False}, {"step": 31, "begins": True}]
    files.append_jsonl(tmp_path / "ppo" / "alarms.jsonl", [{**event, **row} for row in rows])
    report.main(CONFIG, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count('<table class="alarms">') == 1 and page.index('id="ppo"') < page.index("kl_too_large")
    said = "<td>KL 9.1</td><td>too &lt;fast&gt;</td><td>a.b: up</td>"
    assert f"<td>kl_too_large</td><td>9 to 20</td>{said}" in page and f"<td>from 31 on</td>{said}" in page
    metrics = [{"step": s, "kl": 0.1, "gold": 0.5} for s in range(1, 41)]
    figure = curves.training_figure(metrics, panels.PPO, "PPO", [("kl", 9, "kl_too_large")])
    dashed = lambda ax: [line.get_label() for line in ax.lines if line.get_linestyle() == "--"]
    marked = {ax.get_title(loc="left"): dashed(ax) for ax in figure.axes}
    plt.close(figure)
    assert marked == {"Gold verdict": [], "KL to the reference (nats)": ["kl_too_large"]}
