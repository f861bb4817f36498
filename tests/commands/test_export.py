"""`icegrt export`: every model of a run as a folder that transformers loads."""

import jax
import numpy as np
import pytest

from icegrt_jax import api, files
from icegrt_jax.models.hf.folder import load_hf
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, copy_parts

ROLES = [("sft", "policy"), ("reward", "reward"), ("ppo", "policy"), ("ppo", "value")]


@pytest.fixture
def workdir(finished, tmp_path):
    return copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft", "reward", "ppo")


def export(workdir, out, *more):
    return call("export", workdir, f"--out={out}", *more)


def test_every_model_of_a_run_is_exported_and_loads_in_transformers(workdir, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    for stage, role in ROLES:
        out = tmp_path / f"{stage}-{role}"
        assert export(workdir, out, f"--stage={stage}", f"--role={role}") == 0, capsys.readouterr().err
        assert f"{out}: the {role} model of {stage}" in capsys.readouterr().out
        kind = "CausalLM" if role == "policy" else "SequenceClassification"
        auto = getattr(transformers, f"AutoModelFor{kind}")
        model, info = auto.from_pretrained(out, output_loading_info=True)
        assert type(model).__name__ == f"LlamaFor{kind}"
        assert not info["missing_keys"] and not info["unexpected_keys"]
        shape = files.read_json(workdir / stage / "done.json")["models"][role]
        assert model.config.hidden_size == shape["d_model"]
    ours = api.load_model(workdir / "ppo")
    jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / "ppo-policy")[1], ours.params)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ppo-policy")
    assert len(theirs) == ours.tokenizer.vocab_size


def test_the_role_is_the_stages_own_by_default_and_the_dtype_can_be_chosen(workdir, tmp_path, capsys):
    for stage, kind in [("reward", "SequenceClassification"), ("sft", "CausalLM")]:
        assert export(workdir, tmp_path / stage, f"--stage={stage}", "--dtype=bfloat16") == 0
        raw = files.read_json(tmp_path / stage / "config.json")
        assert (raw["architectures"], raw["dtype"]) == ([f"LlamaFor{kind}"], "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", ["false", "true"])
def test_an_export_is_the_base_model_of_another_run(workdir, tmp_path, capsys, scan_layers):
    assert export(workdir, tmp_path / "base", "--stage=sft") == 0
    keys = {"model.path": tmp_path / "base", "pretrain.steps": 0, "sft.steps": 2, "model.scan_layers": scan_layers}
    keys |= {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    assert call("sft", tmp_path / "other", **keys) == 0, capsys.readouterr().err
    loss = [read_metrics(folder / "sft" / "metrics.jsonl")[0]["loss"] for folder in (workdir, tmp_path / "other")]
    assert loss[1] < loss[0], "it goes on from where the first run ended"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--stage=pretrain"], "the pretrain stage has not finished; run `icegrt pretrain` first."),
        (["--stage=sft", "--role=value"], "--role=value: the sft stage has no such model; it has policy."),
        (["--stage=sft", "--dtype=int8"], "argument --dtype: invalid choice: 'int8'"),
    ],
)
def test_what_is_not_there_is_not_exported_and_nothing_written(workdir, tmp_path, capsys, flags, message):
    assert export(workdir, tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
