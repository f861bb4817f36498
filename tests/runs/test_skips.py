"""Skipped updates are counted, in no mean, and too many in a row end the stage with the batch kept."""

import signal

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.runs.loop import Outcome
from icegrt_jax.runs.skips import Skips
from icegrt_jax.training.finite import TrainingError
from icegrt_jax.training.preemption import Preempted
from tests.runs.test_loop import STEPS, advance, fit, saved, total


def test_updates_count_as_in_a_row_across_steps():
    skips = Skips("ppo", 3)
    assert [skips.add(step, flags) for step, flags in enumerate([[0, 0], [0, 1], [1, 0], [0, 1]], 1)] == [0, 1, 1, 1]
    assert skips.in_a_row == 1
    with pytest.raises(
        TrainingError, match=r"^Steps 4 to 5: not finite: .* of 3 updates in a row \(log.skipped=3\)"
    ) as e:
        skips.add(5, [1, 1])
    assert e.value.step == 4


def test_with_a_limit_of_one_the_first_ends_the_stage():
    skips = Skips("sft", 1, left=lambda: "Step 2 is kept.")
    assert skips.add(3, 0.0) == 0
    with pytest.raises(TrainingError, match=r"Step 4: not finite: loss or gradient of an update .* Step 2 is kept\.$"):
        skips.add(4, jnp.float32(1))


def test_a_skipped_update_is_said_once(capsys):
    skips = Skips("ppo", 9)
    skips.add(1, [0, 1, 1]), skips.add(2, 1.0)
    assert capsys.readouterr().out.splitlines() == [
        "ppo  warning: step 1: loss or gradient is not finite; 2 of its 3 updates skipped",
        "ppo  warning: step 2: loss or gradient is not finite; the update is skipped",
    ]


def skipping(*steps):
    """An `advance` whose update is skipped at these steps, as `training.updates` says it."""

    def own(state, step, made, progress):
        if step in steps:
            return Outcome(state, {"loss": jnp.float32(0), "skipped": jnp.float32(1)}, more=step)
        outcome = advance(state, step, made, progress)
        return Outcome(outcome.state, {**outcome.metrics, "skipped": jnp.float32(0)}, more=step)

    return own


@pytest.mark.parametrize("row_every", [0, 4])
def test_skipped_updates_are_counted_in_the_rows_and_in_no_mean(tmp_path, row_every):
    state, _ = fit(tmp_path, advance=skipping(3, 6, 7), row_every=row_every)
    assert total(state) == sum(range(1, STEPS + 1)) - 3 - 6 - 7
    rows = {row["step"]: row for row in files.read_jsonl(tmp_path / "toy" / "metrics.jsonl")}
    if row_every:
        assert {step: row.get("skipped") for step, row in rows.items()} == {1: None, 4: 1, 8: 2, 9: None}
        assert rows[4]["loss"] == pytest.approx((1 / 2 + 1 / 4) / 2) and rows[8]["loss"] == pytest.approx(
            (1 / 5 + 1 / 8) / 2
        )
    else:
        assert [step for step, row in rows.items() if row.get("skipped")] == [3, 6, 7]
        assert rows[3] == {"step": 3, "skipped": 1} and rows[4]["loss"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("row_every", [0, 4])
def test_a_loop_that_skips_goes_on_after_a_stop_to_the_rows_of_one_that_was_not_stopped(tmp_path, row_every):
    class Stop(Exception):
        pass

    def until(state, step, made, progress):
        if step == 8:
            raise Stop
        return skipping(3, 5)(state, step, made, progress)

    fit(tmp_path / "whole", advance=skipping(3, 5), row_every=row_every)
    with pytest.raises(Stop):
        fit(tmp_path / "run", advance=until, row_every=row_every)
    fit(tmp_path / "run", advance=skipping(3, 5), row_every=row_every)
    rows = [(tmp_path / name / "toy" / "metrics.jsonl").read_bytes() for name in ("whole", "run")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("row_every", [0, 100])
def test_nothing_is_saved_while_updates_are_skipped_and_too_many_end_the_stage_with_the_batch(tmp_path, row_every):
    with pytest.raises(TrainingError) as error:
        fit(tmp_path, advance=skipping(3, 4, 6, 7, 8), row_every=row_every)
    assert saved(tmp_path) == [2, 5], "4 was put off to 5, 6 for ever"
    text = str(error.value)
    assert text.startswith("Steps 6 to 8: not finite: loss or gradient of 3 updates in a row")
    assert "Step 5, the last one saved, is finite and kept" in text
    path = tmp_path / "toy" / "not_finite" / "step_6.npz"
    assert text.endswith(f"The batch of step 6 is kept in {path}.")
    with np.load(path) as kept:
        assert {name: float(value) for name, value in kept.items()} == {"batch": 6.0}


def test_the_rollout_of_a_step_that_is_not_finite_is_kept_with_its_texts(tmp_path):
    def spoiled(state, step, made, progress):
        return (
            Outcome(state, {"loss": jnp.float32(jnp.nan)}, more=step)
            if step == 3
            else advance(state, step, made, progress)
        )

    keep = lambda more: ({"rollout": {"tokens": np.arange(more)}}, [{"response": "a"}])
    with pytest.raises(TrainingError, match=r"Step 3: not finite: loss=nan.* Its rollout is kept in .*step_3\.npz\.$"):
        fit(tmp_path, advance=spoiled, keep=keep)
    folder = tmp_path / "toy" / "not_finite"
    with np.load(folder / "step_3.npz") as kept:
        assert kept["rollout/tokens"].tolist() == [0, 1, 2]
    assert files.read_jsonl(folder / "step_3.jsonl") == [{"response": "a"}]


def test_a_signal_while_updates_are_skipped_leaves_the_step_before_them(tmp_path):
    def asked(state, step, made, progress):
        if step == 6:
            signal.raise_signal(signal.SIGTERM)
        return skipping(5, 6)(state, step, made, progress)

    with pytest.raises(Preempted) as stop:
        fit(tmp_path, advance=asked)
    assert (stop.value.step, saved(tmp_path)) == (4, [2, 4])


def test_a_last_update_that_is_skipped_ends_the_stage_as_it_is(tmp_path):
    state, step = fit(tmp_path, advance=skipping(STEPS))
    assert (step, total(state), max(saved(tmp_path))) == (STEPS, sum(range(1, STEPS)), STEPS)
