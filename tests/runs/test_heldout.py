"""Measuring held-out data while a stage trains: what is best, when it ends, and that a stop changes neither."""

import types

import pytest

from icegrt_jax import files
from icegrt_jax.config.best import metric_of
from icegrt_jax.config.options import HeldoutOptions
from icegrt_jax.errors import UserError
from icegrt_jax.runs.heldout import Heldout
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.checkpoints import Checkpoints
from tests.runs.test_loop import STEPS, Stopped, advance, fit, saved, total

# By step, measured at 2, 4, 6, 8 and the last, 9: the best is at 4, and two later ones are not better.
LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0, 9: 0.5}


def watcher(folder, losses=LOSSES, **changes):
    section = HeldoutOptions(**{"heldout_every": 2, "best": "heldout/loss", **changes})
    run = types.SimpleNamespace(folder=lambda stage: folder / stage, mesh=make_mesh(data=-1, fsdp=1, tensor=1))
    steps = {float(sum(range(step + 1))): step for step in range(STEPS + 1)}
    measure = lambda state: {"loss": losses[steps[total(state)]], "sample": "a text"}
    return Heldout(run, "toy", section, STEPS, measure)


def best(folder):
    return sorted(int(path.name) for path in (folder / "toy" / "best").glob("[0-9]*"))


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path):
    keeper = watcher(tmp_path)
    state, _ = fit(tmp_path, keeper, row_every=4)
    assert best(tmp_path) == [9] and saved(tmp_path)[-1] == 9
    assert keeper.info() == {"best": {"step": 9, "metric": "heldout/loss", "value": 0.5}, "use": "last"}
    rows = files.read_jsonl(tmp_path / "toy" / "metrics.jsonl")
    assert {row["step"]: row["heldout/loss"] for row in rows if "heldout/loss" in row} == LOSSES
    (tmp_path / "most").mkdir()
    keeper = watcher(tmp_path / "most", best="heldout/loss:max", use="best")
    state, _ = fit(tmp_path / "most", keeper)
    assert best(tmp_path / "most") == [2] and total(keeper.best(state)) == 3.0 and keeper.info()["use"] == "best"


def test_nothing_is_kept_where_no_number_is_named(tmp_path):
    keeper = watcher(tmp_path, best="")
    _, step = fit(tmp_path, keeper)
    assert step == STEPS and not (tmp_path / "toy" / "best").exists() and keeper.info() == {}


def test_a_stage_ends_when_it_has_not_been_better_for_so_long_and_stays_ended(tmp_path, capsys):
    _, step = fit(tmp_path, watcher(tmp_path, patience=2))
    assert (step, best(tmp_path), saved(tmp_path)[-1]) == (8, [4], 8)
    assert (
        "toy: ends at step 8: heldout/loss has not been better in 2 measurements than at step 4"
        in capsys.readouterr().out
    )
    again = watcher(tmp_path, losses={}, patience=2)
    assert fit(tmp_path, again)[1] == 8 and again.info()["best"]["step"] == 4


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("at", [3, 5, 7])
def test_a_stop_at_any_step_changes_neither_the_best_nor_the_end(tmp_path, patience, at):
    """A checkpoint is saved at every second step, so a better one may have been found after the last."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _, step = fit(whole, watcher(whole, patience=patience), row_every=4)

    def stopping(state, now, made, progress):
        if now == at:
            raise Stopped
        return advance(state, now, made, progress)

    with pytest.raises(Stopped):
        fit(parts, watcher(parts, patience=patience), advance=stopping, row_every=4)
    assert fit(parts, watcher(parts, patience=patience), row_every=4)[1] == step
    assert best(parts) == best(whole)
    for name in ("heldout.jsonl", "metrics.jsonl"):
        assert (parts / "toy" / name).read_bytes() == (whole / "toy" / name).read_bytes()


def test_a_best_one_of_a_step_that_comes_again_is_not_believed(tmp_path):
    """Killed after step 4 was better than 2 and before it was saved: the numbers that come again may be others."""

    def stopping(state, now, made, progress):
        if now == 5:
            raise Stopped
        return advance(state, now, made, progress)

    with pytest.raises(Stopped):
        fit(tmp_path, watcher(tmp_path), advance=stopping, save_every=3)
    assert best(tmp_path) == [4] and saved(tmp_path) == [3]
    keeper = watcher(tmp_path, losses={**LOSSES, 4: 5.0, 9: 5.0})
    fit(tmp_path, keeper, save_every=3)
    assert best(tmp_path) == [8] and keeper.info()["best"] == {"step": 8, "metric": "heldout/loss", "value": 1.0}
    with Checkpoints(tmp_path / "toy" / "best") as kept:
        assert kept.latest() == 8


def test_a_name_tells_whether_more_is_better_or_is_told():
    assert metric_of("k", "heldout/loss") == ("heldout/loss", -1)
    assert metric_of("k", "heldout/made/calibration_error") == ("heldout/made/calibration_error", -1)
    assert metric_of("k", "heldout/accuracy") == ("heldout/accuracy", 1)
    assert metric_of("k", "heldout/length:min") == ("heldout/length", -1)
    wrong = {
        "loss": "such as heldout/loss",
        "heldout/length": "write heldout/length:max or",
        "heldout/loss:up": ":max or",
    }
    for text, said in wrong.items():
        with pytest.raises(UserError, match=f"sft.best={text!r}.*{said}"):
            metric_of("sft.best", text)


def test_a_number_that_is_not_measured_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match="toy.best='heldout/accuracy': measured are heldout/loss; name one of them."):
        fit(tmp_path, watcher(tmp_path, best="heldout/accuracy"))
