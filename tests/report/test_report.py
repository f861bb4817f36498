"""The page of a run: what its data are, that texts stay texts, and how large it gets."""

import html
import json
import re

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.commands import report
from icegrt_jax.config.options import LogOptions
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import paired
from icegrt_jax.report import about, browse, build, compare, evaluation, lines, live, page, panels, settings, words
from icegrt_jax.training import times
from tests.report import made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return made.write(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def text(workdir):
    report.main(workdir=str(workdir))
    return (workdir / "report" / "index.html").read_text(encoding="utf-8")


def data_of(text):
    """The data in a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_a_run_of_300_iterations_is_one_file_under_5_mb_that_asks_nobody(text):
    assert len(text.encode()) < 5_000_000
    shown = text.partition('id="data"')[0]
    assert not re.search(r'(src|href)="(?!#)', shown)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(shown) and "connect-src" not in shown


def test_a_script_in_an_answer_is_a_text_and_ends_no_element(text):
    assert made.SCRIPT not in text and text.count("</script>") == 3
    found = [a["text"] for item in data_of(text)["collections"][0]["items"] for a in item["answers"]]
    assert found.count(made.SCRIPT) == len(made.ROWS)
    assert page.as_json({"a": "</script><!--", "b": float("nan")}) == '{"a":"\\u003c/script>\\u003c!--","b":null}'


def test_a_half_of_a_pair_of_utf_16_breaks_no_page():
    half = page.render("compare.html", {}, title="\ud800", written="", runs=[], table=None, stages=[], keys=[])
    assert "<title>?</title>" in half


def test_what_was_run_stands_at_the_top(text):
    top = text.partition('id="results"')[0]
    said = (
        "2026-01-02 03:04 UTC to 2026-01-02 03:06 UTC",
        "2 min 0 s",
        "1 × CPU, 2 cores",
        "icegrt_jax 0.1.0, jax 0.10.2",
    )
    assert all(one in top for one in (*said, "ICE-GRT: PPO", "finished"))


def test_time_is_that_of_the_sessions_and_of_one_without_an_end_that_of_its_rows():
    step = {"step": 1, "time/rollout_s": 3.0, "time/learn_s": 1.0, "time/tokens_per_s": 900.0}
    assert about.seconds_of([made.BEGUN, step, made.ENDED]) == 120.0
    assert about.seconds_of([made.BEGUN, step, made.BEGUN, step, step]) == 12.0
    assert about.seconds_of([made.BEGUN]) is None


def test_a_row_that_a_kill_has_cut_costs_no_other(tmp_path):
    times.append(tmp_path, {"step": 1, "a": 1})
    with open(tmp_path / times.FILE, "a") as file:
        file.write('{"step": 2, "a"')
    times.append(tmp_path, {"step": 2, "a": 3})
    times.append(tmp_path, {"step": 2, "b": 4})
    assert times.by_step(times.read(tmp_path)) == [{"step": 1, "a": 1}, {"step": 2, "a": 3, "b": 4}]


def test_the_table_has_words_intervals_and_a_best_only_where_it_is_said(text):
    table = evaluation.table(made.results())
    titles = {column["key"]: (column["title"], column["first"]) for column in table["columns"]}
    assert titles["general/copy"] == ("task: copy", False) and titles["gold"] == ("gold", True)
    last = dict(zip(titles, table["rows"][-1]["cells"]))
    assert last["gold"]["best"] and (last["gold"]["text"], last["gold"]["interval"]) == ("80.0 %", "[75.0, 85.0]")
    assert not last["length"]["best"], "longer is not better"
    assert text.count("★ best") == 1
    assert '+40.0 [+30.0, +50.0]</td><td class="better">better' in text and "could be chance" in text


def test_best_needs_an_interval_to_every_other_row_and_of_harms_the_least():
    rng = np.random.default_rng(0)
    one = rng.normal(0.5, 0.1, 200)
    rows = {
        "a": {"gold": one, "lies": one + 0.3, "even": one},
        "b": {"gold": one + 0.2, "lies": one, "even": one + rng.normal(0, 0.01, 200)},
    }
    assert paired.best(rows, {"lies"}) == {"gold": "b", "lies": "b"}
    assert paired.best({**rows, "c": {"gold": one + 0.2 + rng.normal(0, 0.01, 200)}}, {"lies"}) == {"lies": "b"}
    assert paired.best({"a": rows["a"]}, ()) == {}


def test_curves_have_their_data_smoothed_their_bands_and_alarms(text):
    drawn = {panel["title"]: panel for panel in data_of(text)["stages"][0]["panels"]}
    kl = drawn["KL to the reference (nats per answer)"]
    assert kl["lines"][0]["y"][:2] == [0.02, 0.04] and len(kl["lines"][0]["trend"]) == 300
    assert kl["bands"][0]["middle"][0] == 6.0 and kl["marks"] == [{"step": 9, "alarm": "kl_too_large"}]
    assert drawn["Clipped fraction"]["share"] and "Learning rate" in drawn
    assert [line["name"] for line in drawn["Seconds by phase"]["lines"]] == ["rollout", "learn"]
    assert "Held-out prompts (gold)" not in drawn, "panels without data are left out"
    assert "too &lt;fast&gt;" in text


def test_own_rewards_are_drawn_by_name_apart_from_their_counts():
    rows = [{"step": s, "reward/right": 0.1 * s, "reward/right/known": 1.0, "reward/brief": -s} for s in (1, 2)]
    found = {one["title"]: [line["name"] for line in one["lines"]] for one in lines.panels_of(rows, panels.PPO)}
    assert found == {"Own rewards": ["right", "brief"], "Own rewards: share with an opinion": ["right: known"]}


def test_smoothing_keeps_a_constant_skips_nans_and_averages_neighbours():
    np.testing.assert_array_equal(lines.smoothed(np.full(9, 2.0), half=3), np.full(9, 2.0))
    values = np.array([0.0, 3.0, np.nan, 5.0, 100.0])
    np.testing.assert_allclose(lines.smoothed(values, half=1), [1.5, 1.5, 4.0, 52.5, 52.5])


def test_long_lines_are_thinned_with_their_ends_kept():
    steps, values = lines.thinned(np.arange(5000), np.arange(5000.0))
    assert len(steps) == lines.MOST_POINTS and (steps[0], steps[-1], values[-1]) == (0, 4999, 4999.0)


def test_the_frontier_is_a_point_for_each_iteration_that_has_score_and_kl():
    rows = [{"step": 1, "kl": 0.5, "score_raw": 1.0}, {"step": 2, "kl": 1.0}, {"step": 2, "heldout/gold": 0.7}]
    found = lines.frontier(rows, 10)
    assert {one["metric"]: (one["step"], one["kl"], one["score"]) for one in found["scores"]} == {
        "score_raw": ([1], [0.5], [1.0]), "heldout/gold": ([2], [1.0], [0.7])
    }  # fmt: skip
    assert lines.frontier([{"step": 1, "loss": 1.0}], 10) is None


def test_the_browser_has_every_stage_s_answer_with_its_numbers_and_tokens(text):
    answers, rollouts, followed = data_of(text)["collections"]
    assert len(answers["items"]) == 64 and answers["by"] == list(made.ROWS) and len(answers["kinds"]) == 2
    assert [one["title"] for one in answers["measures"]] == ["score", "judge (gold)", "KL (nats)", "tokens", "verdict"]
    last = answers["items"][3]["answers"][-1]
    assert last["numbers"]["kl"] == pytest.approx(sum(last["of_tokens"]["kl"]), rel=1e-3)
    assert len(last["tokens"]) == len(last["of_tokens"]["kl"]) == last["numbers"]["length"]
    assert {one["key"] for one in rollouts["colours"]} == {"kl", "advantages", "values"}
    assert [one["by"] for one in followed["items"][0]["answers"]] == [f"iteration {s}" for s in (1, 2, 4, 8, 300)]


def test_what_is_too_much_for_a_page_is_left_out_from_all_over_and_counted():
    items = [{"prompt": "x" * 90, "n": i} for i in range(100)]
    taken, left = browse.bounded(items, 2000, spread=True)
    assert 10 < len(taken) < 20 and len(taken) + left == 100
    assert taken[0]["n"] == 0 and taken[-1]["n"] > 80
    assert browse.bounded(items, 10**6) == (items, 0)


def test_the_config_says_what_is_set_typed_and_other_than_a_recipe(text):
    row = next(row for row in settings.table('{"ppo": {"gamma": 0.9}}', {"ppo.gamma": 1.0}, {"ppo.gamma"}))
    assert (row["value"], row["default"], row["recipe"]) == ("0.9", "1.0", "1.0")
    assert row["set"] and row["typed"] and row["differs"] and row["meaning"].startswith("discount")
    assert re.search(r'data-is="set typed "><th scope="row"><code>ppo.gamma', text)
    assert about.overrides(["icegrt run --config.a.b=1 '--config.c=(1, 2)' --noconfig.d"]) == {"a.b", "c", "d"}


def test_numbers_are_words():
    names = ("v", "greedy/v", "gold/new_ads", "some_thing")
    assert [words.title_of(name, {"v": "verdict right"}) for name in names] == [
        "verdict right", "verdict right (greedy)", "gold: new ads prompts", "some thing"
    ]  # fmt: skip
    assert words.number(None, share=True) == "–" and words.number(28.83, share=False) == "28.83"
    assert [words.duration(s) for s in (42, 187, 7380)] == ["42 s", "3 min 7 s", "2 h 3 min"]


def test_a_workdir_with_nothing_to_report_is_refused(tmp_path):
    for name in ("run", "empty", "ppo"):
        (tmp_path / name).mkdir()
    (tmp_path / "ppo" / "metrics.jsonl").touch()
    for folder in (tmp_path / "none", tmp_path / "empty", tmp_path):
        with pytest.raises(UserError, match=f"^{folder}: nothing to report"):
            report.main(workdir=str(folder))
        assert not (folder / "report").exists()


def test_a_run_under_way_and_one_of_an_older_version_can_be_reported(tmp_path):
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "metrics.jsonl").write_text('{"step": 1, "score_raw": null, "unknown": 3}\n{"step": 2, "sc')
    report.main(workdir=str(tmp_path))
    assert "last metrics at step 1" in (tmp_path / "report" / "index.html").read_text()
    told = {"group": "domain", "row": "base", "decoding": "sampled", "sample": 0, "tokens": 2, "grades": {"gold": 1.0}}
    files.append_jsonl(tmp_path / "evaluate" / "by_prompt.jsonl", [{**told, "prompt": 0, "answer": "yes"}])
    asked = {"group": "domain", "place": 0, "prompt": [{"role": "user", "content": "is it?"}], "reference": "yes"}
    files.append_jsonl(tmp_path / "evaluate" / "prompts.jsonl", [asked])
    [found] = browse.collections(tmp_path, {})
    assert found["items"][0]["answers"][0] == {"by": "base", "text": "yes", "numbers": {"length": 2.0, "gold": 1.0}}


def test_two_runs_are_laid_over_each_other(workdir, tmp_path):
    other = made.write(tmp_path / "other", iterations=20, prompts=4)
    config = json.loads((other / "config.json").read_text())
    config["ppo"]["lam"] = 0.5
    (other / "config.json").write_text(json.dumps(config))
    report.main(compare=[str(workdir), str(other)], out=str(tmp_path / "both.html"))
    text = (tmp_path / "both.html").read_text()
    kl = next(one for one in data_of(text)["stages"][0]["panels"] if one["title"].startswith("KL to"))
    assert [(line["name"], line["colour"], len(line["x"])) for line in kl["lines"]] == [
        ("run", 0, 300),
        ("other", 1, 20),
    ]
    [gold, general] = data_of(text)["bars"]
    assert [(one["name"], one["y"]) for one in gold["bars"]] == [("run: ICE-GRT", [0.8]), ("other: ICE-GRT", [0.8])]
    assert general["labels"] == ["copy"]
    assert "<code>ppo.lam</code></th><td>0.95</td><td>0.5</td>" in text and "<code>ppo.gamma" not in text
    with pytest.raises(UserError, match="named twice"):
        compare.names_of([workdir, workdir])
    with pytest.raises(UserError, match="two runs or more"):
        report.main(compare=[str(workdir)])
    with pytest.raises(UserError, match="expected --workdir=RUN, or --compare"):
        report.main()


def test_a_report_that_cannot_be_written_never_stops_a_training(tmp_path, monkeypatch, capsys):
    made.write(tmp_path / "run", iterations=2, prompts=2)
    writer = live.Live(tmp_path / "run", report.stages, minutes=0.0)
    assert writer.after(1, None, print) is False
    page_path = tmp_path / "run" / "report" / "index.html"
    first = page_path.stat().st_mtime_ns
    monkeypatch.setattr(build, "rendered", lambda *_: 1 / 0)
    assert writer.after(2, None, print) is False and writer.after(3, None, print) is False
    said = capsys.readouterr().out
    assert said.count("the report is not written while this stage trains (ZeroDivisionError") == 1
    assert page_path.stat().st_mtime_ns == first, "the old page stays"
    assert report.while_training(tmp_path, LogOptions(report_minutes=0.0)) == ()
    rarely = live.Live(tmp_path / "run", report.stages, minutes=60.0)
    rarely.after(1, None, print)
    assert "not written" not in capsys.readouterr().out, "nothing is due"
