"""Metrics on disk: one line per step, the same file whether or not the run was stopped."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.training.event_names import tag
from icegrt_jax.training.metrics import MetricsWriter, read_metrics


def test_a_row_is_one_line_with_the_step_first(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(3, {"loss": jnp.float32(0.1), "count": np.int32(4), "accuracy": 0.5, "half": jnp.bfloat16(1.5)})
    expected = '{"step": 3, "loss": 0.1, "count": 4, "accuracy": 0.5, "half": 1.5}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == expected


def test_a_float32_is_written_without_loss(tmp_path):
    values = np.random.default_rng(0).normal(size=100).astype(np.float32)
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        for step, value in enumerate(values):
            writer.write(step, {"x": jnp.asarray(value)})
    read = np.array([row["x"] for row in read_metrics(tmp_path / "metrics.jsonl")], np.float32)
    np.testing.assert_array_equal(read, values)


def test_a_value_that_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(1, {"loss": jnp.nan, "ratio": jnp.inf, "kl": 0.0})
    path = tmp_path / "metrics.jsonl"
    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "ratio": None, "kl": 0.0}
    row = read_metrics(path)[0]
    assert math.isnan(row["loss"]) and math.isnan(row["ratio"]) and row["kl"] == 0.0


def test_a_resumed_run_leaves_the_file_of_one_that_was_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    metrics = lambda step: {"loss": jnp.float32(1 / step), "kl": step}
    with MetricsWriter(whole, resume_step=None) as writer:
        for step in range(1, 9):
            writer.write(step, metrics(step))
    with MetricsWriter(stopped, resume_step=None) as writer:
        for step in range(1, 7):
            writer.write(step, metrics(step))
    with open(stopped / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # killed here; the last checkpoint is of step 4
    with MetricsWriter(stopped, resume_step=4) as writer:
        for step in range(5, 9):
            writer.write(step, metrics(step))
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_run_without_a_checkpoint_starts_a_new_file(tmp_path):
    for loss in (1.0, 2.0):
        with MetricsWriter(tmp_path, resume_step=None) as writer:
            writer.write(0, {"loss": loss})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 2.0}]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_every_metric_of_ppo_has_a_heading_and_groups_stay_what_they_are():
    named = {
        "score_raw": "score", "gold_verdict": "score", "rewards": "score", "kl_coef": "kl", "approx_kl": "kl",
        "value_loss": "critic", "advantage_std": "critic", "ratio_max_dev": "agreement", "eos_rate": "answers",
        "policy_loss": "train", "grad_norm": "train", "clip_frac": "train", "accuracy": "train",
    }  # fmt: skip
    assert {name: tag(name) for name in named} == {name: f"{group}/{name}" for name, group in named.items()}
    for name in ("heldout/loss", "optimizer/lr", "time/tokens_per_s", "samples/rollout", "reward/form"):
        assert tag(name) == name


def test_reading_skips_a_half_written_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.')
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}]


def test_tensorboard_gets_scalars_histograms_and_what_to_purge(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(1, {"loss": 0.5, "scores": jnp.arange(8.0), "bad": jnp.array([jnp.nan, 1.0])})
    with MetricsWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"loss": 0.5})
    events = [e for path in sorted(tmp_path.glob("events.out.tfevents.*")) for e in read_events(path)]
    tags = {(value.tag, value.WhichOneof("value")) for event in events for value in event.summary.value}
    assert tags == {("train/loss", "simple_value"), ("score/scores", "histo"), ("train/bad", "histo")}
    assert any(event.HasField("session_log") and event.step == 1 for event in events)
    assert "scores" not in read_metrics(tmp_path / "metrics.jsonl")[0]


def test_samples_are_appended_and_cut_like_metrics(tmp_path):
    path = tmp_path / "ppo" / "samples.jsonl"
    files.append_jsonl(path, [{"step": 1, "text": "a\nb\u2028c"}, {"step": 2, "text": "ü"}])
    files.append_jsonl(path, [{"step": 3, "text": "late"}])
    files.cut_jsonl(path, 2)
    assert files.read_jsonl(path) == [{"step": 1, "text": "a\nb\u2028c"}, {"step": 2, "text": "ü"}]


def test_a_json_file_is_replaced_only_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "done.json"
    files.write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json_atomic(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["done.json"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_never_written_and_named(tmp_path, number):
    path = tmp_path / "done.json"
    files.write_json_atomic(path, {"step": 1})
    with pytest.raises(UserError, match=rf"done.json: heldout.made/accuracy is {number}, which is no result"):
        files.write_json_atomic(path, {"step": 2, "heldout": {"made/accuracy": number}})
    with pytest.raises(UserError, match=r"rows\[1\].metrics.gold is "):
        files.write_json_atomic(path, {"rows": ({"metrics": {}}, {"metrics": {"gold": number}})})
    assert files.read_json(path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == ["done.json"]


def read_events(path):
    """The events of a TFRecord file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        events.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return events
