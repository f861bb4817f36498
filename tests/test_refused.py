"""What the operating system refuses is one sentence, wherever a command meets it."""

import errno
import os

import pytest

from icegrt_jax import cli, refused


@pytest.mark.parametrize("number", refused.ADVICE)
def test_an_error_of_the_system_is_a_sentence_with_the_place_and_what_to_do(number, monkeypatch, capsys):
    def run(argv):
        raise OSError(number, os.strerror(number), "/runs/a/metrics.jsonl")

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: /runs/a/metrics.jsonl: {os.strerror(number)}; ") and said.count("\n") == 1


@pytest.mark.parametrize("error", [
    ValueError("RESOURCE_EXHAUSTED: Error writing \"a/b\": No space left on device [source locations]"),
    RuntimeError("rename: Read-only file system"),
])  # fmt: skip
def test_a_library_that_tells_of_it_in_its_own_words_is_understood(error):
    assert "; " in refused.sentence(error)


def test_what_may_be_a_mistake_of_ours_stays_a_traceback():
    assert refused.sentence(FileNotFoundError(errno.ENOENT, "x")) is None
    with pytest.raises(KeyError), refused.told():
        raise KeyError("x")
