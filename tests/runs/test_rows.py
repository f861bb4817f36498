"""Rows of metrics: which steps the progress line calls done, while the device works on the next one."""

import types

import numpy as np
import pytest

from icegrt_jax.runs.rows import Means
from icegrt_jax.runs.skips import Skips
from icegrt_jax.training.metrics import Writers

STEPS = 9


class Running:
    """A metric on a device that gets to it when it is waited for."""

    ndim = 0

    def __init__(self):
        self.done = False

    def block_until_ready(self):
        self.done = True
        return self

    def __array__(self, dtype=None, copy=None):
        self.done = True
        return np.ones((), dtype or np.float32)


@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_step_counts_as_done_once_it_is_and_the_next_one_runs_meanwhile(tmp_path, every):
    asked, seen = [], []

    def update(step, metrics=None):
        done = [metric.done for metric in asked]
        seen.append((step, all(done[:step]), len(done) - step, any(done[step:])))

    progress = types.SimpleNamespace(update=update)
    rows = Means(tmp_path, None, Writers([]), progress, ("loss",), left=str, every=every, skips=Skips("toy", 3))
    for step in range(1, STEPS + 1):
        asked.append(Running())
        rows.add(step, {"loss": asked[-1]})
    assert seen == [(step, True, 1, False) for step in range(1, STEPS)]
    rows.settle(STEPS, last=True)
    assert seen[-1] == (STEPS, True, 0, False)
