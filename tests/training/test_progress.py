"""Progress: few lines in a file, a bar on a terminal, the time of each phase."""

import io
import time

import pytest

from icegrt_jax.training.progress import Progress, print_header


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream, *, total=100, start=0):
    with Progress(total, "ppo", start=start, stream=stream) as progress:
        for step in range(start + 1, total + 1):
            with progress.phase("rollout"):
                pass
            progress.update(step, {"score": 0.125, "kl": 3})
    return stream.getvalue()


def test_a_log_file_gets_a_plain_line_per_tenth():
    lines = run(io.StringIO()).splitlines()
    assert len(lines) == 11  # ten and the summary
    assert lines[0].startswith("ppo  10/100  10%  score 0.125  kl 3  ")
    assert "left" in lines[0]
    assert lines[-1].startswith("ppo  100/100 after ")
    assert "\r" not in "".join(lines)


def test_what_takes_long_at_first_is_said_where_there_is_something_to_do():
    for start, lines in ((0, ["ppo  0/4  the first step compiles its programs"]), (4, [])):
        stream = io.StringIO()
        Progress(4, "ppo", start=start, stream=stream).begin()
        assert stream.getvalue().splitlines() == lines
    bar = Terminal()
    Progress(4, "ppo", stream=bar).begin()
    assert "compiles" not in bar.getvalue()


def test_a_terminal_gets_a_bar():
    text = run(Terminal())
    assert "\r" in text and "100/100" in text


def test_a_resumed_run_counts_from_where_it_goes_on():
    lines = run(io.StringIO(), start=80).splitlines()
    assert [line.split()[1] for line in lines] == ["90/100", "100/100", "100/100"]


def test_slow_steps_get_a_line_before_a_tenth_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(1000, "sft", stream=stream)
    for step in range(1, 5):
        now[0] += 10.0
        progress.update(step)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["2/1000", "4/1000"]
    assert lines[-1].endswith("10 s/step, 2:46:00 left")


def test_the_first_step_which_compiles_is_not_in_the_eta(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(10, "sft", stream=stream)
    for step, seconds in [(1, 500.0), (2, 1.0)]:
        now[0] += seconds
        progress.update(step)
    first, second = stream.getvalue().splitlines()
    assert "left" not in first
    assert second.endswith("1 s/step, 8.0 s left")


def test_phases_add_up_and_a_failing_one_counts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(2, "ppo", stream=stream)
    for _ in range(2):
        with progress.phase("rollout"):
            now[0] += 3.0
    with pytest.raises(RuntimeError), progress.phase("update"):
        now[0] += 2.0
        raise RuntimeError
    assert progress.phases() == {"rollout": 6.0, "update": 2.0}
    progress.close()
    assert "after 8.0 s (rollout 6.0 s, update 2.0 s); 0 programs compiled in 0.0 s" in stream.getvalue()


def test_a_stage_starts_with_what_it_does():
    stream = io.StringIO()
    print_header("reward", "ranking loss", number=3, total=6, stream=stream)
    assert stream.getvalue() == "[3/6] reward: ranking loss\n"
