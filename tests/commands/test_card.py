"""What an export says of itself, and adapters that PEFT opens with their base."""

import re

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.config import default_config, read
from icegrt_jax.data.licences import LICENCES
from icegrt_jax.models.api import load_hf_model, save_model
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.report import card
from icegrt_jax.training.restore import load_role
from tests.commands.runs import ROOT, call, copy_parts

PARTS = ("data", "tokenizer", "pretrain", "sft", "reward", "ppo", "evaluate")
ORDER = ("pretrain", "sft", "reward", "ppo")
SECTIONS = ["What it is", "Base model", "Data", "Results", "How to load", "Config"]


def export(workdir, out, *flags, **keys):
    assert call("export", workdir, f"--out={out}", *flags, **keys) == 0
    return ModelCard.load(out / "README.md")


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory):
    return copy_parts(finished, tmp_path_factory.mktemp("card") / "run", *PARTS)


def test_every_export_has_a_card_in_the_hubs_format(workdir, tmp_path, capsys):
    for stage, role, row in [
        ("pretrain", "policy", "base"), ("sft", "policy", "ICE-Instruct"), ("reward", "reward", ""),
        ("ppo", "policy", "ICE-GRT"), ("ppo", "value", ""),
    ]:  # fmt: skip
        found = export(workdir, tmp_path / f"{stage}-{role}", f"--stage={stage}", f"--role={role}")
        assert re.findall(r"^## (.*)$", found.text, re.M) == SECTIONS
        header = found.data.to_dict()
        kind = "text-generation" if role == "policy" else "text-classification"
        assert header["library_name"] == "transformers" and header["pipeline_tag"] == kind
        assert "license" not in header and "base_model" not in header, "nothing is invented"
        assert found.text.count("(this model)") == bool(row) and f"**{row}** (this model)" in found.text or not row
        assert ("| this model minus ICE-Instruct | gold |" in found.text) == (row == "ICE-GRT")
        assert "embedded domain adreview | made by icegrt_jax" in found.text
        stages = set(re.findall(r"^\| (pretrain|sft|reward|ppo) \|", found.text, re.M))
        assert stages == set(ORDER[: ORDER.index(stage) + 1])
        assert str(tmp_path) not in found.content and str(workdir) not in found.content


def test_the_table_has_the_evaluations_numbers_with_intervals_over_the_prompts(workdir, tmp_path):
    results = files.read_json(workdir / "evaluate" / "results.json")
    found = export(workdir, tmp_path / "out", "--stage=sft").text
    counts = results["prompts"]
    assert f"95 % intervals over the prompts: {counts['domain']} in-domain prompts (judge `adreview`)" in found
    for row in results["rows"]:
        low, high = row["intervals"]["gold"]
        assert low <= row["metrics"]["gold"] <= high and high - low > 0.01
        assert f"{100 * row['metrics']['gold']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in found
    reward = export(workdir, tmp_path / "reward", "--stage=reward").text
    accuracy = files.read_json(workdir / "reward" / "done.json")["heldout"]["made/accuracy"]
    assert f"{100 * accuracy:.1f} % [" in reward and "intervals over the pairs" in reward


def test_without_an_evaluation_the_card_says_so(workdir, tmp_path):
    fresh = copy_parts((workdir,), tmp_path / "run", "data", "tokenizer", "sft")
    found = export(fresh, tmp_path / "out", "--stage=sft").text
    assert "No evaluation has run" in found and "%" not in found.split("## Results")[1].split("##")[0]


def test_a_readme_of_the_users_own_is_not_replaced_and_a_card_is(workdir, tmp_path, capsys):
    export(workdir, tmp_path / "out", "--stage=sft")
    export(workdir, tmp_path / "out", "--stage=sft")
    (tmp_path / "out" / "README.md").write_text("# my notes\n")
    assert call("export", workdir, f"--out={tmp_path / 'out'}", "--stage=sft") == 2
    assert "holds README.md, which is not part of a model" in capsys.readouterr().err
    assert (tmp_path / "out" / "README.md").read_text() == "# my notes\n"


def test_licences_are_those_of_the_docs():
    rows = [line.split(" | ") for line in (ROOT / "docs" / "data.md").read_text().splitlines() if "`domain/" in line
            or "`preference/" in line or "`instruct/" in line]  # fmt: skip
    documented = {re.search(r"`(\w+/\w+/)", row[3])[1]: (row[0].removeprefix("| "), row[2]) for row in rows if row[3:]}
    assert documented == LICENCES


def test_the_licence_of_the_base_and_of_public_sets_is_named_and_no_folder_of_this_machine(workdir, tmp_path):
    base = tmp_path / "secret" / "base"
    export(workdir, base, "--stage=sft")
    sources = {"a": "ecqa:domain/ecqa/official_test.jsonl.gz", "b": "jsonl:/home/me/secret/own.jsonl"}
    config = configured(model={"path": str(base)}, sft={"sources": sources, "steps": 5})
    config.domain = ""
    model, _ = load_role(workdir / "sft", "policy")
    text = written(tmp_path / "one", config, workdir, model)
    assert "not known to this run" in text
    assert "| ECQA | CDLA-Sharing-1.0; questions MIT |" in text and "| - | not known |" in text
    assert "secret" not in text and "`.../base`" in text
    header = ModelCard.load(base / "README.md")
    header.data.license = "mit"
    header.save(base / "README.md")
    assert "Its licence: mit, by its model card." in written(tmp_path / "two", config, workdir, model)
    config.model.path = "someone/model"
    assert "base_model: someone/model" in written(tmp_path / "three", config, workdir, model)


def configured(**groups):
    config = default_config()
    with config.unlocked():
        config.update(groups)
    return config


def written(folder, config, workdir, model):
    folder.mkdir()
    options = read(config)
    told = card.Told(
        stage="sft", role="policy", what="a model", row="ICE-Instruct", base=options.model, reward=options.reward,
        value=options.value, stages={name: getattr(options, name) for name in ORDER[:2]}, domain=options.domain,
        evaluate=options.evaluate, config=config.to_dict(),
    )  # fmt: skip
    card.write(folder, workdir, told, model, "so")
    return (folder / "README.md").read_text()


def test_a_saved_model_of_the_api_has_a_card_too(workdir, tmp_path):
    save_model(ice.load_model(workdir / "sft"), tmp_path / "out")
    found = ModelCard.load(tmp_path / "out" / "README.md")
    assert found.data.library_name == "transformers" and "licence that function does not know" in found.text


@pytest.fixture(scope="module")
def adapted(workdir, tmp_path_factory):
    """A fine-tuning stage that trained an adapter on the pretrained model."""
    folder = copy_parts((workdir,), tmp_path_factory.mktemp("adapted") / "run", "data", "tokenizer", "pretrain")
    assert call("sft", folder, **{"sft.lora.rank": 2, "sft.steps": 3}) == 0
    return folder


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("named", [False, True], ids=["beside it", "elsewhere"])
def test_peft_opens_an_exported_adapter_with_its_base_from_anywhere(adapted, tmp_path, monkeypatch, named):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    keys, flags = {"sft.lora.rank": 2, "sft.steps": 3}, ["--stage=sft", "--adapter"]
    if named:
        save_hf(tmp_path / "moved", *load_role(adapted / "pretrain", "policy"), None)
        flags.append(f"--base={tmp_path / 'moved'}")
    found = export(adapted, tmp_path / "lora", *flags, **keys)
    assert found.data.library_name == "peft" and (tmp_path / "lora" / "base").is_dir() != named
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora").eval()
    model = ice.load_model(adapted / "sft")
    tokens = np.arange(6)[None] + 5
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    ours = model.logits(model.params, tokens, np.ones_like(tokens, bool))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    before = load_role(adapted / "pretrain", "policy")[1]["layers"]["0"]["attn"]["q"]["kernel"]
    assert np.abs(model.params["layers"]["0"]["attn"]["q"]["kernel"] - before).max() > 0


def test_an_adapters_base_that_was_a_folder_is_named_by_its_whole_path(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(workdir, tmp_path / "model", "--stage=sft")
    run = copy_parts((workdir,), tmp_path / "run", "data")
    keys = {"model.path": "model", "pretrain.steps": 0, "sft.lora.rank": 2, "sft.steps": 2}
    assert call("sft", run, **keys) == 0, capsys.readouterr().err
    export(run, tmp_path / "lora", "--stage=sft", "--adapter", **keys)
    named = files.read_json(tmp_path / "lora" / "adapter_config.json")["base_model_name_or_path"]
    assert named == str(tmp_path / "model") and not (tmp_path / "lora" / "base").exists()
    jax.tree.map(np.testing.assert_array_equal, load_hf(named)[1], load_hf_model("model").params)


def test_a_base_without_an_adapter_is_refused(workdir, tmp_path, capsys):
    assert call("export", workdir, f"--out={tmp_path / 'out'}", "--stage=sft", "--base=x") == 2
    assert "--base=x: only an adapter has a base; add --adapter" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
