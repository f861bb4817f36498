"""Tokenizers that cannot be loaded, each in one sentence that names the file; a folder's code, which is never run."""

import json

import pytest

from icegrt_jax import cli
from icegrt_jax.data.tokenizer_folder import read_tokenizer
from icegrt_jax.data.tokenizers import load_tokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import load_hf_model
from tests.data.templates import make

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 11421896\n"
CODE = """
import pathlib
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
pathlib.Path(r"{ran}").touch()
class Own(PreTrainedTokenizerFast): pass
class Shape(PreTrainedConfig): model_type = "own"
"""
OWN = {"AutoTokenizer": [None, "own.Own"]}


@pytest.fixture
def folder(tmp_path):
    make("chatml").save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The file that a folder's code writes; whoever asks whether to run it is told to."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return tmp_path / "ran"


def edit(file, **changes):
    """Sets keys of a JSON file; None takes one out."""
    content = {**(json.loads(file.read_text()) if file.is_file() else {}), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_model(folder, **changes):
    content = json.loads((folder / "tokenizer.json").read_text())
    edit(folder / "tokenizer.json", model={**content["model"], **changes})


def add_code(folder, ran, *, config: bool):
    """A tokenizer of the folder's own, named in tokenizer_config.json or in config.json."""
    (folder / "own.py").write_text(CODE.format(ran=ran))
    if config:
        edit(folder / "tokenizer_config.json", tokenizer_class=None)
        edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Shape", **OWN})
    else:
        edit(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map=OWN)


def vocabulary(change):
    return lambda folder: change(folder / "tokenizer.json")


def without_vocabulary(folder, **keys):
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", **keys)


FORM = "tokenizer.json: the library tokenizers .* does not know this form"
CONFIG = "tokenizer_config.json: transformers cannot make a tokenizer of it and tokenizer.json"
BROKEN = {
    "a newer form of merges": (lambda folder: edit_model(folder, merges=[{"pair": "a b"}]), FORM),
    "a newer kind of model": (lambda folder: edit_model(folder, type="Later"), FORM),
    "an unknown pre-tokenizer": (vocabulary(lambda file: edit(file, pre_tokenizer={"type": "Later"})), FORM),
    "an unknown normalizer": (vocabulary(lambda file: edit(file, normalizer={"type": "Later"})), FORM),
    "a broken pattern": (
        vocabulary(lambda file: edit(file, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("},
                                                          "behavior": "Isolated", "invert": False})), FORM),
    "a list": (vocabulary(lambda file: file.write_text("[]")), FORM),
    "an object without anything": (vocabulary(lambda file: file.write_text("{}")), FORM),
    "cut off": (vocabulary(lambda file: file.write_text(file.read_text()[:900])), "tokenizer.json: not valid JSON"),
    "empty": (vocabulary(lambda file: file.write_text("")), "tokenizer.json: not valid JSON"),
    "a page of a server": (vocabulary(lambda file: file.write_text("<html>")), "tokenizer.json: not valid JSON"),
    "bytes": (vocabulary(lambda file: file.write_bytes(b"\x80\xff")), "tokenizer.json: cannot be read as a text"),
    "a pointer": (vocabulary(lambda file: file.write_text(POINTER)), "tokenizer.json: a git-lfs pointer"),
    "an empty vocabulary": (
        lambda folder: edit_model(folder, vocab={}, merges=[]), "tokenizer.json: makes no tokens of plain text"),
    "no vocabulary": (without_vocabulary, ": no tokenizer.json, and transformers cannot make one of what is here"),
    "no vocabulary, which its class makes up": (
        lambda folder: without_vocabulary(folder, tokenizer_class="Qwen2Tokenizer"), ": no vocabulary here"),
    "half a vocabulary": (
        lambda folder: (without_vocabulary(folder, tokenizer_class="Qwen2Tokenizer"),
                        edit(folder / "vocab.json", a=0, b=1)), "cannot make one of what is here"),
    "SentencePiece's file alone, broken": (
        lambda folder: (without_vocabulary(folder, tokenizer_class="LlamaTokenizer"),
                        (folder / "tokenizer.model").write_bytes(b"junk")), "cannot make one of what is here"),
    "slow only": (
        lambda folder: (without_vocabulary(folder, tokenizer_class="BertJapaneseTokenizer"),
                        (folder / "vocab.txt").write_text("a\n[UNK]\n")), ": not a fast tokenizer; convert it"),
    "settings cut off": (
        lambda folder: (folder / "tokenizer_config.json").write_text('{"a'), "tokenizer_config.json: not valid JSON"),
    "settings in a list": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json: holds a JSON list"),
    "settings nested without an end": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[" * 100_000), "_config.json: not valid JSON"),
    "a number as EOS": (lambda folder: edit(folder / "tokenizer_config.json", eos_token=7), CONFIG),
    "a word as the longest text": (lambda folder: edit(folder / "tokenizer_config.json", model_max_length="x"), CONFIG),
    "a broken list of added tokens": (
        lambda folder: edit(folder / "tokenizer_config.json", added_tokens_decoder={"5": 7}), CONFIG),
    "a number as template": (
        lambda folder: ((folder / "chat_template.jinja").unlink(),
                        edit(folder / "tokenizer_config.json", chat_template=7)), "chat_template=7; expected a text"),
    "a template's pointer": (
        lambda folder: (folder / "chat_template.jinja").write_text(POINTER), "chat_template.jinja: a git-lfs pointer"),
    "a broken map of special tokens": (
        lambda folder: (folder / "special_tokens_map.json").write_text("{"), "special_tokens_map.json: not valid JSON"),
    "a broken config.json": (
        lambda folder: (folder / "config.json").write_text("[]"), "config.json: holds a JSON list"),
}  # fmt: skip


@pytest.mark.parametrize("break_it, message", BROKEN.values(), ids=BROKEN)
def test_a_tokenizer_that_cannot_be_loaded_is_one_sentence_with_its_file(folder, break_it, message):
    assert load_tokenizer(folder).encode_text("Yes.")
    break_it(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(folder)
    said = str(caught.value)
    assert said.startswith(str(folder)) and "\n" not in said and len(said) < 500 + len(str(folder))


def test_a_panic_of_the_tokenizers_library_is_a_sentence(folder, monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "0")
    edit(folder / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(UserError, match=FORM):
        load_tokenizer(folder)


@pytest.mark.parametrize("config", [False, True])
def test_the_code_of_a_folder_is_never_run_and_nobody_is_asked(folder, ran, config):
    add_code(folder, ran, config=config)
    file = folder / ("config.json" if config else "tokenizer_config.json")
    for _ in range(2):
        with pytest.raises(UserError, match=f"{file}: auto_map names code for the tokenizer .own.Own., which is never"):
            load_tokenizer(folder)
        assert not ran.exists()
    # What the sentence says to do helps.
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", auto_map=None)
    assert load_tokenizer(folder).encode_text("Yes.") and not ran.exists()


def test_code_in_another_repository_is_not_fetched(folder, ran):
    edit(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map=["someone/model--own.Own", None])
    with pytest.raises(UserError, match=r"\(someone/model--own.Own\), which is never run"):
        load_tokenizer(folder)


def test_a_class_of_transformers_is_taken_in_the_place_of_the_folders_code(folder, ran):
    add_code(folder, ran, config=False)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert read_tokenizer(folder)("Yes.")["input_ids"] == make("chatml")("Yes.")["input_ids"]
    assert not ran.exists()


@pytest.mark.parametrize("config", [False, True])
def test_no_command_runs_the_code_of_a_model_folder(folder, ran, tmp_path, capsys, config):
    add_code(folder, ran, config=config)
    edit(folder / "config.json", architectures=["LlamaForCausalLM"])
    for command in (
        ["check-model", f"--hf={folder}"],
        ["sft", "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path / 'run'}",
         f"--config.model.path={folder}", "--config.pretrain.steps=0", "--config.sft.batch_size=8"],
    ):  # fmt: skip
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, error
        assert "auto_map names code" in error
    with pytest.raises(UserError, match="auto_map names code"):
        load_hf_model(folder)
    assert not ran.exists() and not (tmp_path / "run").exists()
