"""Names of the Hugging Face hub: what is asked for, and what is said when it does not answer."""

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from icegrt_jax.errors import UserError
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.models.hf.hub import local_folder
from tests.models.examples import CONFIG, make_params


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the hub was asked for; it answers with a model."""
    save_hf(tmp_path / "cache", CONFIG, make_params(), None)
    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_name_is_downloaded_without_pickles_or_code(asked):
    assert load_hf("someone/model")[0] == CONFIG
    [(name, options)] = asked
    allowed = huggingface_hub.utils.filter_repo_objects
    files = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja", "vocab.txt"]
    others = ["pytorch_model.bin", "modeling_x.py", "consolidated.safetensors", "original/params.json", "model.pth"]
    assert list(allowed([*files, *others], **options)) == files
    assert name == "someone/model"


def test_what_is_here_is_never_asked_for(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert str(local_folder("someone/model")) == "someone/model"
    for path in ("cache", "./someone/else", "/no/such", "a/b/c"):
        local_folder(path)
    assert not asked


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    def snapshot_download(name, **options):
        raise LocalEntryNotFoundError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError) as error:
        load_hf("someone/model")
    message = str(error.value)
    assert message.startswith("someone/model: no such folder here, and the Hugging Face hub did not give it (offline)")
    assert "\n" not in message
