"""The next step's host work is begun while this step's is used."""

import threading

import pytest

from icegrt_jax.data.prefetch import Ahead


def test_the_next_step_is_made_before_it_is_asked_for_and_none_after_the_last():
    made, begun = [], threading.Event()

    def make(step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        if step == 4:
            begun.set()
        return step * step

    with Ahead(make, stop=6) as batch_of:
        assert batch_of(3) == 9
        assert begun.wait(10), "step 4 is made without being asked for"
        assert [batch_of(4), batch_of(5)] == [16, 25]
    assert made == [(3, True), (4, False), (5, False)]


def test_a_resumed_run_gets_the_steps_of_one_that_never_stopped():
    with Ahead(lambda step: step * step, stop=6) as batch_of:
        whole = [batch_of(step) for step in range(6)]
    with Ahead(lambda step: step * step, stop=6) as batch_of:
        assert [batch_of(step) for step in range(3, 6)] == whole[3:]


def test_what_a_step_raises_is_raised_where_it_is_asked_for():
    def make(step):
        if step == 1:
            raise ValueError("row 7 is empty")
        return step

    with Ahead(make, stop=3) as batch_of:
        assert batch_of(0) == 0
        with pytest.raises(ValueError, match="row 7"):
            batch_of(1)
