"""A row of a supervised stage has the means of all updates since the row before, also of a run that was stopped."""

import signal

import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import copy_parts, run

KEYS = {"log.checkpoint_every": 100}
BEFORE = ("data", "tokenizer", "pretrain")


@pytest.mark.slow
def test_a_row_has_the_means_since_the_row_before_however_the_run_was_stopped(finished, tmp_path):
    workdirs = {every: copy_parts(finished, tmp_path / str(every), *BEFORE) for every in (1, 4)}
    for every, workdir in workdirs.items():
        process = run("sft", workdir, **KEYS, **{"log.every": every})
        assert process.returncode == 0, process.stderr
    single, means = (read_metrics(workdirs[every] / "sft" / "metrics.jsonl") for every in (1, 4))
    assert [row["step"] for row in single] == [1, 2, 3, 4, 5, 6] and [row["step"] for row in means] == [1, 4, 6]
    for row, (first, last) in zip(means, ((1, 1), (2, 4), (5, 6)), strict=True):
        for name in ("loss", "entropy", "target_prob", "targets", "grad_norm"):
            expected = np.mean([s[name] for s in single if first <= s["step"] <= last])
            assert row[name] == pytest.approx(expected, rel=1e-6)
    assert np.ptp([row["loss"] for row in single[1:4]]) > 0.001, "or a single one would do"

    stopped = copy_parts(finished, tmp_path / "stopped", *BEFORE)
    # Shown as done while the third runs, which is the last: a row since the second update is open.
    process = run("sft", stopped, **KEYS, **{"log.every": 4}, stop=("sft", 2, signal.SIGTERM))
    assert process.returncode != 0 and (stopped / "sft" / "window.jsonl").is_file()
    assert run("sft", stopped, **KEYS, **{"log.every": 4}).returncode == 0
    rows = [(workdir / "sft" / "metrics.jsonl").read_bytes() for workdir in (stopped, workdirs[4])]
    assert rows[0] == rows[1]
    assert files.read_json(stopped / "sft" / "done.json") == files.read_json(workdirs[4] / "sft" / "done.json")
