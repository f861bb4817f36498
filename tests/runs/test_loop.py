"""The one training loop: what looks on, what writes, and that a stopped run has the rows of one that was not."""

import functools
import types

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax import files
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs.loop import Left, Loop, Outcome, Unlearned, resumed, train
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.checkpoints import Checkpoints, abstract_like
from icegrt_jax.training.finite import TrainingError
from icegrt_jax.training.metrics import MetricsWriter
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.preemption import Preempted
from icegrt_jax.training.state import create_state, trained

MODEL = ModelConfig(
    vocab_size=8, d_model=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8, d_ff=8, max_length=8
)
STEPS = 9


class Stopped(Exception):
    """What a test stops a loop with, as a kill would."""


@jax.jit
def _state(key):
    params = {"policy": {"norm": {"scale": jnp.zeros(8)}}}
    return create_state(key, params, {"policy": MODEL}, {"policy": OptimizerConfig(lr=0.1, total_steps=STEPS)})


@functools.partial(jax.jit, donate_argnums=0)
def _update(state, number):
    params = jax.tree.map(lambda x: x + number, state.params)
    return state.replace(step=state.step + 1, params=params), {"loss": 1.0 / number}


def advance(state, step, made, progress):
    return Outcome(*_update(state, made(step)), more=step)


def fit(folder, *watchers, advance=advance, save_every=2, **more):
    """(last state, last step) of a loop that adds 1, 2, … to a parameter."""
    run = types.SimpleNamespace(folder=lambda stage: folder / stage, mesh=make_mesh(data=-1, fsdp=1, tensor=1))
    state, start = resumed(run, "toy", _state(jax.random.key(0)))
    loop = Loop("toy", STEPS, float, advance, save_every=save_every, shown=("loss",), watchers=watchers, **more)
    return train(run, loop, state, start)


def total(state) -> float:
    return float(state.params["policy"]["norm"]["scale"][0])


def saved(folder) -> list[int]:
    return sorted(int(path.name) for path in (folder / "toy" / "checkpoints").iterdir())


class Heldout:
    """Measures every third step, keeps the best state, ends the stage after `ends`; `fails`: stops the loop there."""

    def __init__(self, folder, ends=STEPS, fails=0):
        self.folder, self.ends, self.fails = folder / "toy", ends, fails
        self.began, self.seen = [], []

    def begin(self, step):
        self.began.append(step)
        return step == self.ends

    def after(self, step, outcome, write):
        assert outcome.more == step
        self.seen.append(step)
        if step % 3 == 0:
            write({"heldout": total(outcome.state)})
            if step == 3:
                with Checkpoints(self.folder / "best", keep=1) as best:
                    best.save(step, trained(outcome.state))
        if step == self.fails:
            raise Stopped
        return step == self.ends


def test_a_stage_that_a_watcher_ends_is_saved_there_and_stays_there(tmp_path):
    state, step = fit(tmp_path, Heldout(tmp_path, ends=5), row_every=2, last_alone=True)
    assert (step, total(state), saved(tmp_path)) == (5, 15.0, [5])
    again = Heldout(tmp_path, ends=5)
    state, step = fit(tmp_path, again, row_every=2, last_alone=True)
    assert (step, total(state), again.began, again.seen) == (5, 15.0, [5], [])


def test_a_watcher_is_given_the_state_before_the_next_step_takes_it(tmp_path):
    state, step = fit(tmp_path, Heldout(tmp_path))
    assert (step, total(state)) == (STEPS, 45.0)
    with Checkpoints(tmp_path / "toy" / "best") as best:
        assert total(best.restore(abstract_like(trained(state)))) == 1 + 2 + 3


@pytest.mark.parametrize("row_every", [0, 4])
def test_a_stopped_loop_goes_on_to_the_rows_of_one_that_was_not(tmp_path, row_every):
    fit(tmp_path / "whole", Heldout(tmp_path / "whole"), row_every=row_every)
    with pytest.raises(Stopped):
        fit(tmp_path / "stopped", Heldout(tmp_path / "stopped", fails=7), row_every=row_every)
    watcher = Heldout(tmp_path / "stopped")
    state, _ = fit(tmp_path / "stopped", watcher, row_every=row_every)
    assert (watcher.began, watcher.seen, total(state)) == ([6], [7, 8, 9], 45.0)
    rows = [(tmp_path / name / "toy" / "metrics.jsonl").read_bytes() for name in ("whole", "stopped")]
    assert rows[0] == rows[1]
    rows = files.read_jsonl(tmp_path / "whole" / "toy" / "metrics.jsonl")
    assert [row["step"] for row in rows if "heldout" in row] == [3, 6, 9]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    if row_every:
        assert list(losses) == [1, 4, 8, 9] and losses[4] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    else:
        assert losses == {step: pytest.approx(1 / step) for step in range(1, STEPS + 1)}


class Tracker:
    """A writer of a user's own."""

    made = []

    def __init__(self, folder, *, resume_step):
        self.resume_step, self.rows, self.flushed, self.closed = resume_step, [], 0, False
        self.made.append(self)

    def write(self, step, metrics):
        self.rows.append((step, dict(metrics)))

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed = True


def test_every_writer_gets_every_row_and_is_closed_also_when_the_loop_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(Tracker, "made", [])
    writers = (MetricsWriter, Tracker)
    with pytest.raises(Stopped):
        fit(tmp_path, Heldout(tmp_path, fails=5), writers=writers)
    fit(tmp_path, Heldout(tmp_path), writers=writers)
    first, second = Tracker.made
    assert (first.resume_step, second.resume_step) == (None, 4)
    assert (first.flushed, second.flushed) == (2, 3) and first.closed and second.closed
    timed = lambda row: any(name.startswith("time/") for name in row)
    assert [step for step, row in first.rows if not timed(row)] == [1, 2, 3, 3, 4, 5]
    assert [step for step, row in second.rows if not timed(row)] == [5, 6, 6, 7, 8, 9, 9]
    assert [step for step, row in second.rows if timed(row)] == [5, 6, 7, 8, 9], "seconds of each phase"
    assert {step for step, row in second.rows if row.get("time/save_s", 0) > 0} == {7, 9}, "behind steps 6 and 8"
    kept = [row["step"] for row in files.read_jsonl(tmp_path / "toy" / "metrics.jsonl")]
    assert kept == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]


@pytest.mark.parametrize("row_every", [0, 4])
def test_a_step_that_is_not_finite_is_neither_written_nor_saved(tmp_path, row_every):
    def spoiled(state, step, made, progress):
        outcome = advance(state, step, made, progress)
        bad = {"loss": jnp.float32(jnp.nan)}
        return Outcome(outcome.state, bad) if step == 4 else outcome

    with pytest.raises(TrainingError, match="Step 4: not finite: loss=nan. Step 2, the last one saved, is finite"):
        fit(tmp_path, advance=spoiled, row_every=row_every)
    assert saved(tmp_path) == [2]
    assert all(row["step"] < 4 for row in files.read_jsonl(tmp_path / "toy" / "metrics.jsonl"))


@pytest.mark.parametrize("row_every", [0, 4])
@pytest.mark.parametrize("fails", [1, 6, 7])
@pytest.mark.parametrize("left", [False, True])
def test_a_step_that_has_changed_nothing_leaves_the_step_before(tmp_path, fails, row_every, left):
    def refuses(state, step, made, progress):
        if step == fails:
            raise Left if left else Unlearned("not today")
        return advance(state, step, made, progress)

    whole, _ = fit(tmp_path / "whole", row_every=row_every)
    with pytest.raises(Preempted if left else Unlearned) as error:
        fit(tmp_path, advance=refuses, row_every=row_every)
    assert not left or error.value.step == (fails - 1 or None)
    assert (max(saved(tmp_path)) if (tmp_path / "toy" / "checkpoints").exists() else 0) == fails - 1
    state, step = fit(tmp_path, row_every=row_every)
    assert (total(state), step) == (total(whole), STEPS)
    rows = [(folder / "toy" / "metrics.jsonl").read_bytes() for folder in (tmp_path, tmp_path / "whole")]
    assert rows[0] == rows[1]
