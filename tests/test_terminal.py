"""What is written to a terminal: lines broken between words, as they are everywhere else."""

import io
import sys

import pytest

from icegrt_jax import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminals(monkeypatch):
    """Terminals of 40 columns as stdout and stderr, from here to the end of the test."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "JPY_PARENT_PID", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stdout, sys.stderr


SENTENCE = "ppo  alarm: step 12: kl_above: the mean of the last ones is beyond [1, 2]"


def test_lines_are_broken_between_words(monkeypatch):
    streams = terminals(monkeypatch)
    with terminal.between_words():
        print(SENTENCE)
    assert (sys.stdout, sys.stderr) == streams
    lines = streams[1].getvalue().splitlines()  # one console for both: it knows of the bar
    assert len(lines) == 2 and all(len(line) <= 40 for line in lines)
    assert " ".join(line.strip() for line in lines) == SENTENCE


ELSEWHERE = {
    "CI": ("CI", "true"), "kernel": ("JPY_PARENT_PID", "12"), "dumb": ("TERM", "dumb"),
    "ipykernel": ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
}  # fmt: skip


@pytest.mark.parametrize("of", [*ELSEWHERE, "pipe"])
def test_elsewhere_nothing_is_touched(monkeypatch, of):
    terminals(monkeypatch)
    if of in ELSEWHERE:
        monkeypatch.setenv(*ELSEWHERE[of])
        assert not terminal.is_live(sys.stderr)
    else:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = sys.stdout, sys.stderr
    with terminal.between_words():
        assert (sys.stdout, sys.stderr) == before


def test_a_piped_stdout_is_no_part_of_the_terminal(monkeypatch):
    streams, piped = terminals(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    with terminal.between_words():
        print(SENTENCE)
    assert piped.getvalue() == SENTENCE + "\n" and not streams[1].getvalue()


def test_parts_of_a_line_drop_out_from_its_middle():
    parts = ("ppo  3/10", ["score 0.1", "kl 2"], "8.0 s left")
    assert terminal.fitted(*parts, None) == "ppo  3/10  score 0.1  kl 2  8.0 s left"
    assert terminal.fitted(*parts, 38) == "ppo  3/10  score 0.1  kl 2  8.0 s left"
    assert terminal.fitted(*parts, 37) == "ppo  3/10  score 0.1  8.0 s left"
    assert terminal.fitted(*parts, 5) == "ppo  3/10  8.0 s left"
