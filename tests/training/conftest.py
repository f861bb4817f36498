"""What several tests of training begin with."""

import pytest

from tests.training.examples import B, make_rollout, make_state


@pytest.fixture(scope="module")
def rollout():
    rollout = make_rollout(make_state())
    assert 2 <= rollout.finished.sum() <= B - 2, "both endings should occur"
    return rollout
