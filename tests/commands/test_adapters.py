"""The chain with adapters: it runs, resumes to the bit, is evaluated as trained, and leaves folders that load."""

import shutil

import chex
import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.models.hf.peft import load_adapter, save_adapter
from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.models.tree import flatten
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.restore import load_own, load_role
from tests.commands.runs import call, copy_parts, run

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
    lora, adapter = load_adapter(tmp_path / "adapter", model.config)
    base = stored_as(ice.load_model(workdir / "sft").params, "int8")
    chex.assert_trees_all_close(merged(base, adapter, lora), model.params, atol=1e-6)
    assert max(float(np.abs(x).max()) for path, x in flatten(adapter).items() if path.endswith("lora_b")) > 0


def test_an_adapter_on_a_folder_with_an_adapter_is_that_folder_changed_twice(finished, tmp_path, capsys):
    base, first = tmp_path / "base", tmp_path / "first"
    assert call("export", finished[0], "--stage=sft", f"--out={base}") == 0, capsys.readouterr().err
    model = ice.load_model(base)
    lora, rng = LoRAConfig(rank=2), np.random.default_rng(0)
    fresh = init_adapter(jax.random.key(0), model.params, lora)
    save_adapter(first, jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape), fresh), model.config, lora, str(base))
    workdir = copy_parts(finished, tmp_path / "run", "data")
    keys = {"pretrain.steps": 0, "model.path": base, "model.adapter": first, "sft.lora.rank": 3}
    assert call("sft", workdir, **keys) == 0, capsys.readouterr().err
    config, own, record = load_own(workdir / "sft", "policy")
    assert record.base == {"path": str(base), "adapter": str(first)} and record.lora.rank == 3
    expected = merged(ice.load_model(base, adapter=first).params, own, record.lora)
    chex.assert_trees_all_close(ice.load_model(workdir / "sft").params, expected, atol=1e-6)
    moved = np.abs(expected["layers"]["0"]["attn"]["q"]["kernel"] - model.params["layers"]["0"]["attn"]["q"]["kernel"])
    assert moved.max() > 1e-3
    assert call("export", workdir, "--stage=sft", f"--out={tmp_path / 'out'}", "--adapter", **keys) == 2
    assert "merged in, which PEFT would not know" in capsys.readouterr().err


def test_adapters_on_eight_devices_go_on_where_they_stopped(shared, tmp_path, capsys):
    finished, _ = shared
    whole = tmp_path / "whole"
    parts = ("data", "tokenizer", "pretrain", "sft", "reward")
    for name in parts:
        shutil.copytree(finished / name, whole / name)
    keys = {**SHARED, "mesh.fsdp": 2, "mesh.tensor": 2}
    assert call("ppo", whole, **keys) == 0, capsys.readouterr().err
    half = tmp_path / "half"
    for name in parts:
        shutil.copytree(finished / name, half / name)
    shutil.copytree(whole / "ppo", half / "ppo")
    (half / "ppo" / "done.json").unlink()
    shutil.rmtree(half / "ppo" / "checkpoints" / "5")
    assert call("ppo", half, **keys) == 0, capsys.readouterr().err
    assert (half / "ppo" / "metrics.jsonl").read_text() == (whole / "ppo" / "metrics.jsonl").read_text()


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
    small = {"mesh.fsdp": 2, "mesh.tensor": 2, "ppo.iterations": 2}
    assert call("ppo", workdir, **small, **keys) == 0, capsys.readouterr().err
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
