"""`icegrt check-model` on exported folders into which a fault has been put back by hand: each is named."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from icegrt_jax import cli
from icegrt_jax.data import tokenizers
from icegrt_jax.data.tokenizers import load_tokenizer, wrap
from icegrt_jax.models.hf import folder
from icegrt_jax.models.hf.folder import save_hf
from tests.data.templates import make
from tests.models.examples import CONFIG, make_params

pytest.importorskip("torch")


def export(folder, *, scalar_head=False, generation=None):
    """A folder of ours; the tokenizer's EOS ends a turn, and `<|endoftext|>` is a further control token."""
    tokenizer = wrap(make("chatml"), generation=generation)
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)
    save_hf(folder, config, make_params(config, scalar_head=scalar_head), tokenizer)
    return folder


def edit(folder, name, **changes):
    raw = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({k: v for k, v in {**raw, **changes}.items() if v is not None}))


def check(capsys, folder, *flags):
    code = cli.main(["check-model", "--new_tokens=6", f"--hf={folder}", *flags])
    return code, capsys.readouterr().out.splitlines()


def verdict(lines):
    return lines[-1].removeprefix("differs: ").partition(" (tolerance")[0].split("; ")


def ordinary(folder):
    """The id of a token that a text can end with."""
    return load_tokenizer(folder).encode_text("ends.")[-1]


def test_a_reward_model_whose_config_and_tokenizer_disagree_about_pad_is_found(tmp_path, capsys):
    folder = export(tmp_path / "reward", scalar_head=True)
    assert check(capsys, folder)[0] == 0
    edit(folder, "config.json", pad_token_id=ordinary(folder))
    code, lines = check(capsys, folder)
    assert code == 1 and verdict(lines)[0] == "PAD"
    assert f"different: config.json {ordinary(folder)} ('.'), the tokenizer 1 ('<|endoftext|>')" in lines[3]


def test_a_reward_model_that_pads_with_the_end_of_a_turn_is_found(tmp_path, capsys):
    folder = export(tmp_path / "reward", scalar_head=True)
    edit(folder, "config.json", pad_token_id=0)
    edit(folder, "tokenizer_config.json", pad_token="<|im_end|>")
    code, lines = check(capsys, folder)
    assert code == 1 and set(verdict(lines)) == {f"scores, {x}" for x in ("one by one", "right-padded", "left-padded")}


def test_a_reward_model_that_pads_with_a_character_is_found(tmp_path, capsys):
    folder = export(tmp_path / "reward", scalar_head=True)
    edit(folder, "config.json", pad_token_id=load_tokenizer(folder).encode_text("~")[0])
    edit(folder, "tokenizer_config.json", pad_token="~")
    code, lines = check(capsys, folder)
    assert code == 1 and "scores, one by one" in verdict(lines)


def test_a_folder_that_cannot_pad_is_compared_row_by_row(tmp_path, capsys):
    folder = export(tmp_path / "reward", scalar_head=True)
    edit(folder, "config.json", pad_token_id=None)
    edit(folder, "tokenizer_config.json", pad_token=None)
    raw = json.loads((folder / "tokenizer.json").read_text())
    added = [token for token in raw["added_tokens"] if token["content"] == "<|im_end|>"]
    (folder / "tokenizer.json").write_text(json.dumps({**raw, "added_tokens": added}))
    code, lines = check(capsys, folder)
    assert code == 0, lines
    assert "not compared: scores, right-padded, scores, left-padded (" in lines[-1]


@pytest.fixture
def merged(tmp_path):
    """An export as other tools leave it after merging: tied by its config, with an output matrix of other values."""
    folder = export(tmp_path / "merged")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["model.embed_tokens.weight"][::-1])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_tied_config_beside_another_output_matrix_is_found(merged, capsys):
    code, lines = check(capsys, merged)
    assert code == 1 and verdict(lines) == ["tied embeddings"]
    assert "different: tied by config.json, lm_head.weight is stored with other values" in lines[4]
    edit(merged, "config.json", tie_word_embeddings=False)
    assert check(capsys, merged)[0] == 0


def test_dropping_the_output_matrix_by_its_name_is_seen_in_the_logits(merged, capsys, monkeypatch):
    edit(merged, "config.json", tie_word_embeddings=True)
    monkeypatch.setattr(folder, "as_stored", lambda config, tensors: config)
    code, lines = check(capsys, merged)
    assert code == 1 and "logits, right-padded" in verdict(lines)


GENERATION = {"eos_token_id": [0, 1, 2], "temperature": 0.6, "do_sample": True}


def test_an_export_with_one_eos_id_of_several_is_found(tmp_path, capsys):
    original = export(tmp_path / "original", generation=GENERATION)
    assert check(capsys, original)[0] == 0
    folder = export(tmp_path / "reduced", generation=GENERATION)
    for name in ("config.json", "generation_config.json"):
        edit(folder, name, eos_token_id=0)
    code, lines = check(capsys, folder, f"--reference={original}")
    assert code == 1 and verdict(lines)[0] == "EOS ids"
    assert "different: ours 0 ('<|im_end|>'), theirs 0 ('<|im_end|>'), 1 ('<|endoftext|>'), 2 (" in lines[3]


def test_an_export_that_lost_the_end_of_a_turn_is_found(tmp_path, capsys):
    folder = export(tmp_path / "model", generation=GENERATION)
    edit(folder, "generation_config.json", eos_token_id=[1])
    code, lines = check(capsys, folder)
    assert code == 1 and verdict(lines)[0] == "EOS ids"


def test_sampling_on_after_the_second_eos_id_is_found(tmp_path, capsys, monkeypatch):
    folder = export(tmp_path / "model", generation=GENERATION)
    monkeypatch.setattr(tokenizers.special_ids, "read_generation", lambda *_: {})
    code, lines = check(capsys, folder)
    assert code == 1 and verdict(lines)[0] == "EOS ids"


def test_an_export_without_the_settings_of_generation_is_found(tmp_path, capsys):
    original = export(tmp_path / "original", generation=GENERATION)
    folder = export(tmp_path / "model", generation={"eos_token_id": [0, 1, 2]})
    code, lines = check(capsys, folder, f"--reference={original}")
    assert code == 1 and verdict(lines) == ["generation settings"]
    assert any("different: do_sample, temperature" in line for line in lines)
