"""`icegrt check-model` on tiny models of transformers, whole and broken."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from icegrt_jax import cli
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.evaluation import parity
from icegrt_jax.models.hf.folder import save_hf
from tests.data.templates import CHATML, make
from tests.models.examples import CONFIG, make_params
from tests.models.examples_hf import SHAPE, THETA

ROOT = pathlib.Path(__file__).parent.parent.parent
REFUSE = "{% if messages | length == 1 %}{{ raise_exception('too short') }}{% endif %}"
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a random Llama and a tokenizer, made by transformers alone."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), make("chatml")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{**SHAPE, **THETA, "vocab_size": len(tokenizer), "initializer_range": 0.1},
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(model, tmp_path):
    """A copy with one weight changed by a tenth of the largest one."""
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    weight = tensors["model.layers.1.mlp.up_proj.weight"]
    weight[0, 0] += 0.1 * np.abs(weight).max()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.fixture
def reward_model(tmp_path):
    tokenizer = wrap(make("chatml"))
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)
    params = make_params(config, scalar_head=True)
    assert params["head"]["bias"] != 0
    save_hf(tmp_path / "reward", config, params, tokenizer)
    return tmp_path / "reward"


def check(capsys, *flags):
    """The exit code and the lines printed."""
    code = cli.main(["check-model", "--new_tokens=6", *flags])
    return code, capsys.readouterr().out.splitlines()


def test_a_model_of_transformers_is_the_same_here(model, capsys):
    code, lines = check(capsys, f"--hf={model}")
    assert code == 0, lines
    assert [line[2:22].rstrip() for line in lines[1:-1]] == [
        "tokenizer ids", "chat template", "EOS ids", "tied embeddings", "logits, right-padded", "logits, left-padded",
        "greedy tokens",
    ]  # fmt: skip
    assert all(line.endswith("equal") or "relative" in line for line in lines[1:-1])
    assert lines[-1] == "the same (tolerance 0.0001 of the largest logit)"


def test_one_changed_weight_is_seen_in_the_logits(model, broken, capsys):
    code, lines = check(capsys, f"--hf={broken}", f"--reference={model}")
    assert code == 1
    assert lines[-1].startswith("differs: logits, right-padded; logits, left-padded")
    assert [line[0] for line in lines[1:8]] == [" ", " ", " ", " ", " ", "!", "!"]
    assert check(capsys, f"--hf={broken}")[0] == 0, "by itself it is a model like any other"
    assert check(capsys, f"--hf={broken}", f"--reference={model}", "--tolerance=0.5")[0] == 0


def test_other_answers_are_seen_in_the_greedy_tokens(model, tmp_path, capsys):
    folder = tmp_path / "other"
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(model)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    make("chatml").save_pretrained(folder)
    code, lines = check(capsys, f"--hf={folder}", f"--reference={model}")
    assert code == 1 and "greedy tokens" in lines[-1] and "different: prompt 1 from token 0 on" in lines[-2]


def test_two_tokens_within_the_tolerance_are_a_tie():
    logits = np.array([1.0, 10.0, 9.9985, 9.9])
    assert parity._is_tie(logits, 2, 1e-4) and not parity._is_tie(logits, 3, 1e-4)


def test_another_template_and_another_vocabulary_are_named(model, tmp_path, capsys):
    for name, tokenizer, expected in [
        ("template", make("chatml", template=CHATML.replace("Help.", "Do.")), "differs: chat template"),
        ("refusing", make("chatml", template=CHATML + REFUSE), "differs: chat template"),
        ("vocabulary", make("mistral"), "differs: tokenizer ids; chat template"),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "model.safetensors"):
            (folder / file).write_bytes((model / file).read_bytes())
        tokenizer.save_pretrained(folder)
        code, lines = check(capsys, f"--hf={model}", f"--reference={folder}")
        assert code == 1 and lines[-1].startswith(expected)


def test_bfloat16_has_its_own_tolerance(model, capsys):
    code, lines = check(capsys, f"--hf={model}", "--dtype=bfloat16")
    assert code == 0 and "tolerance 0.03" in lines[-1]
    assert check(capsys, f"--hf={model}", "--dtype=bfloat16", "--tolerance=1e-6")[0] == 1


def test_a_reward_model_is_compared_by_its_scores_with_the_stored_bias(reward_model, capsys):
    code, lines = check(capsys, f"--hf={reward_model}")
    assert code == 0, lines
    names = ["PAD", "scores, one by one", "scores, right-padded", "scores, left-padded"]
    assert [line[2:22].rstrip() for line in lines[3:7]] == names
    raw = json.loads((reward_model / "config.json").read_text())
    copy = reward_model.parent / "without"
    copy.mkdir()
    for file in reward_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if k != "icegrt_head_bias"}))
    code, lines = check(capsys, f"--hf={reward_model}", f"--reference={copy}")
    assert code == 1 and lines[-1].startswith(f"differs: {'; '.join(names[1:])} (")


@pytest.mark.slow  # two processes that import transformers
def test_without_torch_it_says_what_was_not_compared(model, reward_model):
    code = """
import sys
sys.modules["torch"] = None  # as if it were not installed
from icegrt_jax import cli
sys.exit(cli.main(["check-model", f"--hf={sys.argv[1]}"]))
"""
    for folder, missing in [(model, "logits, greedy tokens"), (reward_model, "scores")]:
        run = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
        lines = run.stdout.splitlines()
        assert run.returncode == 0, run.stderr
        assert lines[-1].startswith(f"the same in what was compared; not compared: {missing} (")
        assert lines[1].endswith("equal") and lines[-2].endswith("torch is not installed")


def test_prompts_come_from_a_file(model, tmp_path, capsys):
    rows = [{"prompt": "Why?"}, {"prompt": [{"role": "system", "content": "Be brief."},
                                            {"role": "user", "content": "Who?"}]}]  # fmt: skip
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, lines = check(capsys, f"--hf={model}", f"--prompts={path}")
    assert code == 0 and "2 conversations" in lines[2]


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "config.json").unlink(), "no config.json here; expected a Hugging Face model folder."),
    (lambda folder: [file.unlink() for file in folder.glob("*token*")], "no tokenizer here"),
    (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
])  # fmt: skip
def test_what_cannot_be_checked_is_one_sentence(broken, capsys, change, message):
    change(broken)
    assert cli.main(["check-model", f"--hf={broken}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {broken}: {message}") and error.count("\n") == 1


def test_bad_prompts_are_named(model, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Why?"}\n{"promt": "Who?"}\n')
    assert cli.main(["check-model", f"--hf={model}", f"--prompts={path}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}, line 2: unknown field 'promt'")
    path.write_text("\n")
    assert cli.main(["check-model", f"--hf={model}", f"--prompts={path}"]) == 2
    assert capsys.readouterr().err == f"error: {path}: no records in it.\n"
