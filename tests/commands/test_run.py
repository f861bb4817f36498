"""`icegrt run`: what it says of the parts of a run."""

import pytest

from icegrt_jax.commands import run
from icegrt_jax.config.convert import with_values
from icegrt_jax.config.options import Options

OWN_REWARD = {"sft.steps": 1, "ppo.iterations": 1, "ppo.rewards.mine": "own.py:mine"}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (OWN_REWARD, ["sft", "ppo", "evaluate", "report"]),
        ({"pretrain.steps": 1, "reward.steps": 1}, ["pretrain", "sft", "reward", "evaluate", "report"]),
        ({"reward.init": "a/folder"}, ["sft", "reward", "evaluate", "report"]),  # used as it is, but measured
    ],
)
def test_only_the_parts_that_a_run_has_are_named_and_counted(values, parts, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(run.begin, "carry_out", lambda stage, config, workdir: called.append(stage.name))
    monkeypatch.setattr(run.inputs, "check", lambda *_: [])
    monkeypatch.setattr(run.provenance, "check", lambda *_: [])
    run.main(with_values(Options(), values), tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert called == parts
    assert [line.partition(":")[0] for line in said] == [
        f"[{i}/{len(parts)}] {name}" for i, name in enumerate(parts, 1)
    ]
    assert not any("reward model" in line for line in said)
