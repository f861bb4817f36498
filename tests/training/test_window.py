"""A row of metrics has the means of all updates since the row before, wherever the run was stopped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.training import window as module
from icegrt_jax.training.finite import check_finite
from icegrt_jax.training.window import Window

VALUES = [float(x) for x in jax.random.normal(jax.random.key(0), (12,))]


def add(window, first, last):
    for step in range(first, last + 1):
        window.add(step, {"loss": jnp.float32(VALUES[step]), "targets": jnp.float32(step)})


def test_a_window_has_the_means_of_its_steps_and_the_next_one_begins_anew(tmp_path):
    window = Window(tmp_path, resume_step=None)
    window.add(1, {"loss": jnp.float32(1.0)})
    assert window.means() == {"loss": 1.0}
    for step, loss in ((2, 3.0), (3, 4.0), (4, 8.0)):
        window.add(step, {"loss": jnp.float32(loss)})
    assert window.means() == {"loss": 5.0}
    window.add(5, {"loss": jnp.float32(7.0)})
    assert window.means() == {"loss": 7.0}


def test_one_step_comes_out_bit_for_bit(tmp_path):
    window = Window(tmp_path, resume_step=None)
    window.add(1, {"loss": jnp.float32(0.1)})
    loss = window.means()["loss"]
    assert loss.dtype == np.float32 and loss == np.float32(0.1)


@pytest.mark.parametrize("stopped", range(1, 11))
def test_a_window_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, stopped):
    whole = Window(tmp_path / "whole", resume_step=None)
    add(whole, 1, 11)
    before = Window(tmp_path / "run", resume_step=None)
    for step in range(1, stopped + 1):  # a checkpoint at every step
        add(before, step, step)
        before.save(step)
    after = Window(tmp_path / "run", resume_step=stopped)
    add(after, stopped + 1, 11)
    assert after.means() == whole.means()


def test_steps_after_the_checkpoint_do_not_count_twice(tmp_path):
    window = Window(tmp_path, resume_step=None)
    add(window, 1, 3)
    window.save(3)
    add(window, 4, 6)
    window.save(6)  # and killed before that checkpoint was complete
    again = Window(tmp_path, resume_step=3)
    add(again, 4, 6)
    again.save(6)
    assert [row["step"] for row in files.read_jsonl(tmp_path / "window.jsonl")] == [3, 6]
    assert again.means() == window.means()


def test_a_run_begun_anew_and_a_checkpoint_at_a_row_have_an_empty_window(tmp_path):
    window = Window(tmp_path, resume_step=None)
    add(window, 1, 3)
    window.save(3)
    window.means()
    window.save(4)
    for resume_step in (4, None):
        empty = Window(tmp_path, resume_step=resume_step)
        add(empty, 5, 5)
        assert empty.means()["targets"] == 5.0


def test_when_metrics_are_read_does_not_show_and_the_newest_waits(tmp_path, monkeypatch):
    read, device_get = [], jax.device_get
    note = lambda rows: read.extend(int(row["targets"]) for row in rows)
    monkeypatch.setattr(jax, "device_get", lambda rows: note(rows) or device_get(rows))
    windows = [Window(tmp_path / name, resume_step=None) for name in "ab"]
    add(windows[0], 1, 11)
    assert read == []
    monkeypatch.setattr(module, "HELD", 3)
    add(windows[1], 1, 11)
    assert read == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert windows[0].means() == windows[1].means()


def test_the_step_that_is_not_finite_is_the_one_that_is_refused(tmp_path):
    window = Window(tmp_path, resume_step=None, check=check_finite)
    for step, loss in ((1, 1.0), (2, jnp.nan), (3, 1.0)):
        window.add(step, {"loss": jnp.float32(loss)})
    window.save(3)
    with pytest.raises(UserError, match="^Step 2: not finite: loss=nan"):
        window.means()
    resumed = Window(tmp_path, resume_step=3, check=check_finite)
    resumed.add(4, {"loss": jnp.float32(1.0)})
    with pytest.raises(UserError, match="^Step 4: not finite: loss=nan"):
        resumed.means()


def test_a_histogram_is_not_averaged(tmp_path):
    with pytest.raises(AssertionError, match="no mean"):
        Window(tmp_path, resume_step=None).add(1, {"scores": jnp.zeros(3)})
