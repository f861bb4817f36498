"""The chain with adapters: it runs, resumes to the bit, is evaluated as trained, and leaves folders that load."""

import shutil

import chex
import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.models.tree import flatten
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.stored import load_own, load_role
from tests.stages.runs import call, copy_parts, run

ADAPTERS = {"sft.lora.rank": 4, "reward.lora.rank": 4, "ppo.lora.rank": 2}
SHARED = {**ADAPTERS, "roles.shared_base": "true", "model.param_dtype": "int8"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A whole run on one int8 base."""
    workdir = tmp_path_factory.mktemp("shared") / "run"
    process = run("run", workdir, **SHARED)
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout


def test_a_shared_base_trains_and_starts_as_the_reference(shared):
    workdir, _ = shared
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert rows[0]["first_ratio_error"] < 1e-5 and abs(rows[0]["kl"]) < 1e-4
    assert any(abs(row["kl"]) > 1e-6 for row in rows[1:])
    assert (workdir / "evaluate" / "results.json").is_file()


def test_only_adapters_and_heads_are_kept(shared):
    workdir, _ = shared
    for stage, role, head in [("sft", "policy", False), ("reward", "reward", True), ("ppo", "value", True)]:
        own = flatten(load_own(workdir / stage, role)[1])
        names = {path.rpartition("/")[2] for path in own if not path.startswith("head/")}
        assert names == {"lora_a", "lora_b"}, (stage, role)
        assert ("head/kernel" in own) == head
    parts = files.read_json(workdir / "ppo" / "done.json")["parts"]
    assert parts["policy"]["base"] == {"stage": "sft", "role": "policy"} and parts["policy"]["base_dtype"] == "int8"


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_a_killed_run_goes_on_to_the_same_numbers(shared, tmp_path):
    finished, _ = shared
    names = ("config.json", "data", "tokenizer", "pretrain", "sft", "reward")
    workdir = tmp_path / "again"
    for name in names:
        (shutil.copytree if (finished / name).is_dir() else shutil.copy)(finished / name, _made(workdir) / name)
    process = run("ppo", workdir, stop=("ppo", 3, 9), **SHARED)
    assert process.returncode == -9
    assert run("ppo", workdir, **SHARED).returncode == 0
    assert (workdir / "ppo" / "metrics.jsonl").read_text() == (finished / "ppo" / "metrics.jsonl").read_text()


def test_a_stage_with_an_adapter_loads_and_exports_both_ways(shared, tmp_path, capsys):
    workdir, _ = shared
    model = ice.load_model(workdir / "ppo")
    tokens, mask = np.ones((1, 3), np.int32), np.ones((1, 3), bool)
    whole = model.logits(model.params, tokens, mask)
    export = ("export", workdir, "--stage=ppo", f"--out={tmp_path / 'whole'}")
    assert call(*export, **SHARED) == 0, capsys.readouterr().err
    np.testing.assert_allclose(ice.load_model(tmp_path / "whole").logits(
        ice.load_model(tmp_path / "whole").params, tokens, mask), whole, atol=1e-5)  # fmt: skip
    assert call("export", workdir, "--stage=ppo", f"--out={tmp_path / 'adapter'}", "--adapter", **SHARED) == 0
    assert "rank 2; its base is the policy of" in capsys.readouterr().out
    base = ice.load_model(workdir / "sft")
    adapted = ice.load_model(tmp_path / "whole", adapter=tmp_path / "adapter")
    moved = [float(np.abs(x - y).max()) for x, y in zip(
        jax.tree.leaves(adapted.params), jax.tree.leaves(model.params), strict=True)]  # fmt: skip
    assert max(moved) > 0 and base.config == model.config


@pytest.mark.parametrize(
    "keys",
    [
        {"ppo.lora.rank": 2},
        {"ppo.lora.rank": 2, "value.init": "sft"},
        {"value.trunk": "policy"},
        {"value.trunk": "policy", "ppo.lora.rank": 2, "ppo.lora.rslora": "true"},
        {"value.init": "sft"},
    ],
    ids=lambda keys: "+".join(keys),
)
def test_ppo_runs_with_every_kind_of_roles(finished, tmp_path, keys, capsys):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "pretrain", "sft", "reward")
    assert call("ppo", workdir, **keys) == 0, capsys.readouterr().err
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert rows[0]["first_ratio_error"] < 1e-4 and abs(rows[0]["kl"]) < 1e-3
    for role in ("policy", "value"):
        config, params = load_role(workdir / "ppo", role)
        chex.assert_tree_all_finite(params)
        assert ("head" in params) == (role == "value")
    first, last = (row["value_error"] for row in (rows[0], rows[-1]))
    assert np.isfinite(first) and np.isfinite(last)


def test_an_adapter_where_none_was_trained_is_refused(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    assert call("export", workdir, "--stage=sft", f"--out={tmp_path / 'out'}", "--adapter") == 2
    assert "trained the policy model without one" in capsys.readouterr().err and not (tmp_path / "out").exists()
