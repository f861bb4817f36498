"""What the scripts of this folder draw, count and compare; the runs themselves are in the scripts."""

import importlib
import json
import math
import random
import runpy
import signal
import sys

import pytest

from icegrt_jax import files
from tests.faults import compare, damage, damage_stages, kills, places, process_counts, soak
from tests.faults.kills import Ending, Moment

WALK = [
    (0.0, "+start/imports"), (1.0, "+ppo/begin"), (1.5, "+ppo/rollout"), (2.0, "-ppo/begin"), (2.1, "+ppo/checkpoint"),
    (2.2, "-ppo/begin"), (2.5, "+ppo/rollout"), (2.6, "-ppo/begin"), (3.0, "+evaluate/begin"),
    (9.0, "+evaluate/in-domain"),
]  # fmt: skip


@pytest.mark.parametrize("name", places.CALLED)
def test_what_is_a_place_while_it_runs_is_there(name):
    module, _, function = name.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_places_have_the_times_that_were_spent_in_them():
    known = kills.spans(WALK)
    assert known["ppo"]["ppo/rollout"] == pytest.approx([0.5, 0.1])
    assert set(known["evaluate"]) == {"evaluate/begin", "evaluate/in-domain"}


def test_moments_are_of_the_stage_that_is_due_or_the_next_and_come_with_every_place():
    known, rng = kills.spans(WALK), random.Random(0)
    drawn = [kills.drawn(rng, known, "ppo") for _ in range(400)]
    by_time = [moment for moment in drawn if not moment.place]
    assert 60 < len(by_time) < 140 and all(0 < moment.delay <= kills.EARLY for moment in by_time)
    assert {moment.place for moment in drawn} == {"", *known["ppo"], *known["evaluate"]}
    behind_saves = [moment.delay for moment in drawn if moment.place == "ppo/checkpoint"]
    assert max(behind_saves) > 0.2, "while it is written in the background"
    assert {kills.drawn(rng, known, "evaluate").place.partition("/")[0] for _ in range(50)} == {"", "evaluate"}


def test_a_moment_has_come_at_the_place_or_late_in_a_later_stage():
    assert not kills._reached(Moment("ppo/rollout", 2, 0.0), WALK[:6])
    assert kills._reached(Moment("ppo/rollout", 2, 0.0), WALK[:7])
    assert not kills._reached(Moment("ppo/rollout", 3, 0.0), WALK[:9])
    assert kills._reached(Moment("ppo/rollout", 3, 0.0), WALK), "six seconds into the evaluation"


SAID = "SIGTERM: saved at step 3; run the same command to continue."


@pytest.mark.parametrize("ending, number, how", [
    (Ending("ppo/learn", -9, ""), signal.SIGKILL, ""),
    (Ending("ppo/learn", 143, f"ppo 3/5\n{SAID}"), signal.SIGTERM, ""),
    (Ending("", 0, ""), signal.SIGTERM, ""),
    (Ending("report/begin", 0, "", 0.1), signal.SIGTERM, ""),
    (Ending("ppo/learn", 0, "", 20.0), signal.SIGTERM, "exit 0"),
    (Ending("ppo/learn", 143, f"{SAID}\nmore"), signal.SIGTERM, "no sentence"),
    (Ending("ppo/learn", 143, f"Traceback (most recent call last):\n{SAID}"), signal.SIGTERM, "a traceback"),
    (Ending("ppo/learn", 130, SAID), signal.SIGTERM, "exit 130"),
    (Ending("", 1, ""), signal.SIGKILL, "exit 1 by itself"),
])  # fmt: skip
def test_how_an_attempt_has_ended_is_judged(ending, number, how):
    assert kills.wrong(ending, number) == how


def test_two_workdirs_differ_where_a_byte_does_but_for_times(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, seconds in ((one, 1.5), (other, 1.7)):
        (folder / "ppo").mkdir(parents=True)
        (folder / "ppo" / "metrics.jsonl").write_text('{"step": 1, "kl": 0.5}\n{"step": 2, "kl": 0.6}\n')
        (folder / "ppo" / "compiles.json").write_text(json.dumps({"seconds": seconds}))
        sums = {"example.txt": "abc", "compiles.json": str(seconds)}
        (folder / "ppo" / "checksums.json").write_text(json.dumps(sums))
        (folder / "ppo" / f"events.out.tfevents.{seconds}").write_bytes(b"x")
    assert compare.differences(compare.tree(one), compare.tree(other)) == []
    (other / "ppo" / "metrics.jsonl").write_text('{"step": 2, "kl": 0.6}\n{"step": 2, "kl": 0.6}\n')
    (other / "ppo" / ".done.json.tmp").touch()
    assert compare.differences(compare.tree(one), compare.tree(other)) == ["ppo/.done.json.tmp", "ppo/metrics.jsonl"]
    assert compare.lost_and_doubled(compare.steps(other), compare.steps(one)) == (1, 1)


def test_the_table_counts_every_portion_and_says_what_was_bad(capsys):
    end = {"seed": 0, "chain": 1, "signal": "SIGTERM", "place": "ppo/learn", "seconds": 1.25, "half": False}
    rows = [{**end, "bad": ""}, {**end, "signal": "SIGKILL", "half": True, "bad": ""},
            {"seed": 0, "chain": 1, "differences": [], "lost": 0, "doubled": 0}]  # fmt: skip
    assert kills.told(rows)
    said = capsys.readouterr().out
    assert "| ppo/learn | 1 | 1 | 0 | 1.25 |" in said and "| (a checkpoint was half written) | 1 | 0 | 0 |" in said
    assert not kills.told([*rows, {**end, "bad": "a traceback"}])
    assert not kills.told([*rows, {**rows[-1], "differences": ["ppo/metrics.jsonl"]}])


def test_a_chain_of_which_only_the_report_is_left_is_finished_and_compared(tmp_path, monkeypatch, capsys):
    trial = kills.Trial(tmp_path, 0)
    trial.known, trial.expected, trial.steps = (
        kills.spans([*WALK, (9.5, "+report/begin"), (9.6, "-report/begin")]),
        {},
        {},
    )
    workdir = tmp_path / "chain_0_1" / "run"
    for stage in kills.STAGES[:-1]:
        files.write_json_atomic(workdir / stage / "done.json", {})
    ended = lambda arguments, env, fifo, moment, number: Ending("report/begin", -9, "") if moment else Ending("", 0, "")
    monkeypatch.setattr(kills, "attempt", ended)
    monkeypatch.setattr(compare, "tree", lambda folder: {})
    signals = [signal.SIGKILL] * 5
    trial.chain(signals)
    assert len(signals) == 5 - kills.IN_REPORT and not workdir.exists()
    rows = files.read_jsonl(tmp_path / "ends.jsonl")
    assert [row.get("exit") for row in rows] == [-9, -9, None] and rows[-1]["attempts"] == 3


def test_of_every_kind_folder_and_way_a_file_is_damaged(tmp_path):
    names = ("config.json", "data/a.jsonl", "data/b.jsonl", "sft/done.json", "sft/metrics.jsonl", "sft/.lock",
             "sft/checkpoints/3/state/d/abc", "sft/checkpoints/3/_METADATA")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    chosen = damage_stages.chosen(tmp_path, 1, random.Random(0))
    assert len(chosen) == len(set(chosen)) == 5 * 6, "of the two data sets one each time, of the lock none"
    assert {name for name, _ in chosen} >= {"config.json", "sft/done.json", "sft/metrics.jsonl"}
    assert len(damage_stages.chosen(tmp_path, 2, random.Random(0))) == 5 * 7


def test_what_was_deleted_may_stay_gone_and_nothing_else():
    sums, other = "ppo/checksums.json", "pretrain/done.json"
    expected = {sums: "a", "ppo/metrics.jsonl": "b", other: "d"}

    def ended(name, way, **more):
        found = {one: digest for one, digest in {**expected, **more}.items() if digest}
        return damage.outcome(0, "", found, damage.where_deleted(name, way, expected, found))

    assert ended(sums, "deleted", **{sums: ""}) == ended(other, "deleted", **{other: ""}) == "the same files"
    assert ended(sums, "deleted", **{sums: "of what came later"}) == "the same files"
    for bad in (
        ended(sums, "deleted", **{sums: "", "ppo/metrics.jsonl": "c"}), ended(sums, "cut", **{sums: ""}),
        ended(other, "deleted", **{other: "e"}), ended(other, "deleted", **{other: "", sums: ""}),
    ):  # fmt: skip
        assert bad == "OTHER FILES"


def test_rows_kept_for_a_checkpoint_are_compared_by_the_metrics_that_come_of_them(tmp_path):
    for name, kept in (("a", "1"), ("b", "2")):
        for file, text in (
            ("window.jsonl", kept),
            ("metrics.jsonl", "{}"),
            ("checksums.json", f'{{"window.jsonl": "{kept}"}}'),
        ):
            (tmp_path / name / "sft").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "sft" / file).write_text(text)
    a, b = (damage.tree(tmp_path / name, "sft") for name in "ab")
    assert a == b and "sft/metrics.jsonl" in a
    (tmp_path / "b" / "sft" / "metrics.jsonl").write_text("{ }")
    assert damage.tree(tmp_path / "b", "sft") != a


def test_runs_on_two_meshes_are_compared_by_steps_numbers_and_texts(tmp_path):
    rows = [{"step": step, "loss": 2.0, "score": 1.0} for step in (1, 2, 3)]
    samples = [{"step": 1, "response": "Yes."}]

    def run(name, rows, samples=samples):
        files.append_jsonl(tmp_path / name / "ppo" / "metrics.jsonl", rows)
        files.append_jsonl(tmp_path / name / "ppo" / "samples.jsonl", samples)
        return tmp_path / name

    whole = run("whole", rows)
    compared = lambda *more: process_counts.compared("ppo", run(*more), whole)
    near = [{**row, "loss": 2.0015, "score": 1.01} for row in rows]
    most, of, bad = compared("near", near)
    assert not bad and most == pytest.approx(0.5, abs=0.02) and of.startswith(("loss of step", "score of step"))
    assert compared("far", [*rows[:2], {**rows[2], "loss": 2.004}])[2][0].startswith("loss of step 3")
    assert compared("skipped", [rows[0], rows[2]])[2] == ["rows of steps [1, 3], expected [1, 2, 3]"]
    assert compared("repeated", [*rows, rows[2]])[2]
    assert compared("texts", rows, [{"step": 1, "response": "No."}])[2] == ["other texts were sampled"]


def test_a_soak_sees_what_grows_and_what_is_compiled_twice(capsys):
    measured = soak.Measured()
    measured.memory = [500.0 + i % 7 for i in range(200)]
    measured.given_out, measured.descriptors, measured.threads = [300.0] * 200, [21] * 200, [9] * 200
    measured.shapes, measured.programs["jit_compiled"] = {("score", "a"), ("score", "b"), ("ppo_update", "a")}, 3
    assert soak.told(measured, 40) and "score: 2 sizes of arguments" in capsys.readouterr().out
    measured.programs["jit_compiled"] = 4
    assert not soak.told(measured, 40)
    measured.programs["jit_compiled"], measured.descriptors = 3, [21] * 150 + [22] * 50
    assert not soak.told(measured, 40)
    measured.descriptors, measured.given_out = [21] * 200, [300.0 + i / 10 for i in range(200)]
    assert not soak.told(measured, 40)
    measured.given_out, measured.memory = [300.0] * 200, [500.0 + i / 10 for i in range(200)]
    assert not soak.told(measured, 40)
    before, held = soak.given_out(), bytearray(64 << 20)
    grown = soak.given_out() - before
    assert math.isnan(grown) or grown == pytest.approx(len(held) / 2**20, abs=1)


def test_without_atheris_the_guided_fuzzer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        runpy.run_module("tests.faults.fuzz_guided")
