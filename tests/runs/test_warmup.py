"""A run whose critic was ready early ends early, says so, and goes on as if it had not been stopped."""

import types

from icegrt_jax.config.options import PPOOptions
from icegrt_jax.runs.warmup import Warmup
from tests.runs.test_loop import STEPS, advance, fit

FLAT_AT = 3


def options(**changes):
    return PPOOptions(**{"iterations": STEPS, "value_warmup": 5, "value_flat": 1, **changes})


def decided(state, step, made, progress):
    """The toy's step with the metrics of one whose critic is flat after three."""
    outcome = advance(state, step, made, progress)
    said = {"value_warmup": float(min(step, FLAT_AT)), "value_warmup_over": float(step >= FLAT_AT)}
    return types.SimpleNamespace(**{**vars(outcome), "metrics": {**outcome.metrics, **said}})


def test_the_actor_has_its_iterations_however_long_the_critic_took(tmp_path, capsys):
    warm = Warmup(options(), tmp_path / "toy")
    assert (warm.last(), warm.actors(4)) == (STEPS, 0), "the longest, before anything is known"
    _, step = fit(tmp_path, warm, advance=decided)
    assert step == FLAT_AT + STEPS - 5 == warm.last() and warm.actors(step) == STEPS - 5
    assert warm.info() == {"value_warmup": FLAT_AT}
    assert "ppo: the critic has learned alone for 3 iterations: its error is flat" in capsys.readouterr().out


def test_what_has_been_decided_is_read_again_when_it_goes_on(tmp_path):
    fit(tmp_path, Warmup(options(), tmp_path / "toy"), advance=decided)
    again = Warmup(options(), tmp_path / "toy")
    assert again.begin(4) is False and again.length == FLAT_AT
    assert again.begin(7) is True, "it had ended there"
    assert again.begin(2) is False and again.length == 5, "not decided by then: what came later is to come again"
    assert again.begin(None) is False and again.last() == STEPS


def test_a_warm_up_of_fixed_length_is_no_reason_to_end(tmp_path):
    warm = Warmup(options(value_flat=0), tmp_path / "toy")
    assert fit(tmp_path, warm)[1] == STEPS and warm.info() == {}
    assert (warm.last(), warm.actors(5), warm.actors(6)) == (STEPS, 0, 1)
