"""Progress: few lines in a file, a bar on a terminal, the time of each phase."""

import contextlib
import io
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from icegrt_jax.hosts import note
from icegrt_jax.training import progress as progress_module
from icegrt_jax.training.progress import Progress, print_header
from tests.stand_in import instead

ROOT = pathlib.Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def drawn(progress, width=80):
    """The bar's line as it is now, without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as said:
        console.print(progress._bar)
    return said.get()


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


def test_a_terminal_gets_a_bar_below_ten_lines_that_stay():
    text = run(Terminal())
    assert "\r" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    stays = [line for line in plain.splitlines() if re.match(r"ppo  \d+/100 +\d+%", line)]
    assert [line.split()[1] for line in stays] == [f"{n}/100" for n in range(10, 101, 10)]
    assert "ppo  100/100 after " in plain


def test_the_cursor_is_never_hidden_as_a_killed_program_could_not_bring_it_back():
    assert "\x1b[?25" not in run(Terminal())


def test_the_bar_fits_and_says_the_time_left_whatever_else_there_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", instead(time, perf_counter=lambda: now[0]))
    metrics = {f"reward/a_function_{i}": 0.25 for i in range(8)}
    progress = Progress(300, "ppo", stream=Terminal())
    for step in (1, 2, 3):
        now[0] += 4.0
        progress.update(step, {"score_raw": 0.5, **metrics})
    with progress.phase("rollout"):
        now[0] += 1.0
    for width in (40, 60, 80, 120):
        line = drawn(progress, width).rstrip("\n")
        assert "\n" not in line and len(line) < width
        assert line.endswith("4 s/step, 19:48 left")
        assert ("3/300" in line) == ("score_raw 0.5" in line) == (width >= 60)
    assert "reward/a_function_7" not in drawn(progress, 120)
    progress.close()


def test_while_the_first_step_compiles_the_bar_says_so_with_its_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", instead(time, perf_counter=lambda: now[0]))
    progress = Progress(300, "ppo", stream=Terminal())
    with progress.phase("rollout"):
        now[0] += 12.0
        assert "0/300 rollout, compiling… 12.0 s" in " ".join(drawn(progress).split())
    progress.update(1)
    assert "compiling" not in drawn(progress)
    progress.update(2)
    with progress.phase("learn"):
        now[0] += 61.0
        assert "learn… 1:01" in drawn(progress)
    progress.close()


def test_ci_and_a_dumb_terminal_get_plain_lines(monkeypatch):
    for name, value in (("CI", "true"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            text = run(Terminal())
            assert "\r" not in text and "\x1b" not in text and len(text.splitlines()) == 11


def test_no_color_leaves_the_bar_without_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", run(Terminal()))
    monkeypatch.delenv("NO_COLOR")
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", run(Terminal()))


def test_a_note_says_how_far_a_stage_is_and_goes_with_its_end(tmp_path):
    (tmp_path / ".progress.tmp").write_text("{")  # a process was killed while it wrote
    with Progress(9, "sft", start=9, stream=io.StringIO(), workdir=tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    with Progress(9, "sft", start=3, stream=io.StringIO(), workdir=tmp_path) as progress:
        progress.begin()
        said = note.read(tmp_path)
        assert (said["stage"], said["step"], said["total"], said["compiling"]) == ("sft", 3, 9, True)
    assert note.read(tmp_path) == {} and not list(tmp_path.iterdir())


def test_a_note_of_a_stage_that_was_stopped_stays(tmp_path):
    with pytest.raises(RuntimeError), Progress(9, "sft", stream=io.StringIO(), workdir=tmp_path) as progress:
        progress.update(1, {"loss": 2.0})
        progress.update(2, {"loss": 1.5})
        raise RuntimeError
    said = note.read(tmp_path)
    assert (said["step"], said["compiling"], said["metrics"]) == (2, False, {"loss": 1.5})


def test_a_resumed_run_counts_from_where_it_goes_on():
    lines = run(io.StringIO(), start=80).splitlines()
    assert [line.split()[1] for line in lines] == ["90/100", "100/100", "100/100"]


def test_slow_steps_get_a_line_before_a_tenth_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", instead(time, perf_counter=lambda: now[0]))
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
    monkeypatch.setattr(progress_module, "time", instead(time, perf_counter=lambda: now[0]))
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
    monkeypatch.setattr(progress_module, "time", instead(time, perf_counter=lambda: now[0]))
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


BAR = """
import time
from icegrt_jax.hosts import signals
signals.of_program()
from icegrt_jax import terminal
from icegrt_jax.training.progress import Progress
with terminal.between_words(), Progress(500, "ppo") as progress:
    for step in range(1, 501):
        time.sleep(0.05)
        progress.update(step, {"kl": 1.25})
"""


def test_a_signal_ends_the_program_with_its_sentence_where_the_bar_was():
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    process = subprocess.Popen([sys.executable, "-c", BAR], env=env, start_new_session=True, **streams)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while chunk := os.read(ours, 65536):
            said += chunk
            if b"kl 1.25" in said and b"SIGTERM" not in said:
                process.send_signal(signal.SIGTERM)
    os.close(ours)
    assert process.wait() == 128 + signal.SIGTERM
    *_, last = said.replace(b"\r\n", b"").split(b"\r")
    assert last == b"\x1b[KSIGTERM: what was saved is kept; run the same command to continue."
    assert b"\x1b[?25l" not in said, "the cursor has been there all the time"
