"""The critic's warm-up ends once its error is flat: against plain arithmetic in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.training import warmup


def length_of(errors, window, most):
    """Iterations of warm-up, from the words of `moved`; None: not over yet."""
    for done in range(1, len(errors) + 1):
        last, before = errors[done - window : done], errors[max(done - 2 * window, 0) : done - window]
        if done >= most or (done >= 2 * window and np.mean(last) >= 0.98 * np.mean(before)):
            return done
    return None


def walked(errors, window, most):
    kept = warmup.start(window)
    for error in errors:
        kept = warmup.moved(kept, jnp.float32(error), most)
    return kept


@pytest.mark.parametrize(
    "errors, window, most, length",
    [
        ([8, 4, 2, 1, 1, 1, 1], 1, 99, 5),  # 1 after 1
        ([8, 4, 2, 1, 1, 1, 1], 2, 99, 7),  # (1, 1) after (2, 1) still falls, (1, 1) after (1, 1) does not
        ([8, 4, 2, 1, 1, 1, 1], 2, 3, 3),
        ([1, 1, 1], 2, 99, None),  # two windows are not full yet
        ([100, 99, 98], 1, 99, 2),  # falls by one in a hundred: flat
        ([100, 97, 94], 1, 99, None),
        ([1, 5, 9], 1, 99, 2),  # an error that rises is no longer falling
    ],
)
def test_the_warm_up_is_over_when_the_error_no_longer_falls_and_at_the_most(errors, window, most, length):
    assert length_of(np.array(errors, np.float64), window, most) == length
    kept = walked(errors, window, most)
    assert bool(kept["over"]) == (length is not None)
    assert int(kept["length"]) == (length or len(errors)), "what is over stays as it was"


def test_any_course_of_the_error_is_decided_as_in_float64():
    rng = np.random.default_rng(0)
    for _ in range(40):
        window, most = int(rng.integers(1, 4)), int(rng.integers(6, 14))
        errors = np.exp(-rng.uniform(0, 0.5) * np.arange(14)) * rng.uniform(0.7, 1.3, 14) + 0.1
        kept, expected = walked(errors, window, most), length_of(errors, window, most)
        assert int(kept["length"]) == expected and bool(kept["over"])
        assert {name: float(x) for name, x in warmup.said(kept).items()} == {
            "value_warmup": expected, "value_warmup_over": 1.0,
        }  # fmt: skip
