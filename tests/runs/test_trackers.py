"""Trackers of the user's own, named in the config."""

import pytest

from icegrt_jax import files
from icegrt_jax.config.options import LogOptions
from icegrt_jax.errors import UserError
from icegrt_jax.runs import trackers
from icegrt_jax.training.metrics import Writers

TRACKER = """
class Tracker:
    def __init__(self, folder, *, resume_step):
        self.file = open(folder / "tracked.txt", "a")
        print("made", resume_step, file=self.file)

    def write(self, step, metrics):
        print(step, sorted(metrics), 1 / (step != 13), file=self.file)

    def flush(self):
        print("flushed", file=self.file)

    def close(self):
        self.file.close()


class Half:
    def write(self, step, metrics):
        pass


def function(folder, resume_step):
    pass
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "my_tracker.py").write_text(TRACKER)
    return tmp_path / "my_tracker.py"


def test_a_tracker_gets_every_row_and_metrics_jsonl_what_a_repeated_run_would_write(tmp_path, file):
    made = trackers.writers(LogOptions(writers=(f"{file}:Tracker",)))
    with Writers(make(tmp_path, resume_step=None) for make in made) as writers:
        writers.write(1, {"loss": 0.5})
        writers.write(1, {"time/tokens_per_s": 9.0, "optimizer/lr": 0.1})
        writers.write(1, {"heldout/loss": 0.25, "heldout/sample": "a text"})
        writers.flush()
    assert (tmp_path / "tracked.txt").read_text().splitlines() == [
        "made None", "1 ['loss'] 1.0", "1 ['optimizer/lr', 'time/tokens_per_s'] 1.0",
        "1 ['heldout/loss', 'heldout/sample'] 1.0", "flushed",
    ]  # fmt: skip
    assert files.read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 0.5}, {"step": 1, "heldout/loss": 0.25}]
    events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
    assert all(tag in events for tag in (b"loss", b"optimizer/lr", b"time/tokens_per_s", b"heldout/sample", b"a text"))


def test_a_mistake_in_a_tracker_is_one_sentence_with_its_file_and_line(tmp_path, file):
    with pytest.raises(UserError, match="Half has no flush; expected a class made with"):
        trackers.writers(LogOptions(writers=(f"{file}:Half",)))
    with pytest.raises(UserError, match="function is no class"):
        trackers.writers(LogOptions(writers=(f"{file}:function",)))
    _, make = trackers.writers(LogOptions(writers=(f"{file}:Tracker",)))
    tracker = make(tmp_path, resume_step=None)
    with pytest.raises(UserError, match=rf"log.writers: '{file}:Tracker': {file}, line 8: ZeroDivisionError"):
        tracker.write(13, {})
    tracker.close()
