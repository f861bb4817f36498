"""Data sets of the Hugging Face hub: what is asked for, played by a hub in a folder."""

import fnmatch
import pathlib
import types

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from icegrt_jax.data import hub_rows
from icegrt_jax.data.records import Instruction, Text, user
from icegrt_jax.data.sources import files_of, load_source, understood
from icegrt_jax.errors import UserError

MAPPING = "?prompt=question&response=answer"


class ConnectError(Exception):
    """As HTTP libraries have one of their own."""


class Hub:
    """Its data sets' files, in a folder; those asked for are `downloaded`. Offline it has only these."""

    def __init__(self, folder):
        self.folder, self.asked, self.error, self.questions = folder, [], None, 0

    def add(self, file, *rows):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    def list_repo_files(self, repo, *, repo_type, revision):
        assert (repo, repo_type, revision) == ("someone/sums", "dataset", "refs/convert/parquet")
        self.questions += 1
        if self.error:
            raise self.error
        return [str(path.relative_to(self.folder)) for path in sorted(self.folder.rglob("*.parquet"))]

    def snapshot_download(self, repo, *, repo_type, revision, allow_patterns, local_files_only=False):
        if self.error and not self.asked:
            raise LocalEntryNotFoundError("offline\nand more")
        self.asked += [allow_patterns] if allow_patterns else []
        return str(self.folder)


def another_process():
    """What a process knows of data sets is forgotten."""
    hub_rows.files.cache_clear()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_rows, "LISTS", tmp_path / "cache" / "hub_files.json")
    another_process()
    yield
    another_process()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    hub.add("main/train/0000.parquet", {"question": "1 + 1?", "answer": "2"})
    hub.add("main/train/0001.parquet", {"question": "1 + 2?", "answer": "3"}, {"question": "1 + 3?", "answer": ""})
    hub.add("main/test/0000.parquet", {"question": "2 + 2?", "answer": "4"})
    return hub


def answer(question, said):
    return Instruction((*user(question), {"role": "assistant", "content": said}))


def test_a_split_is_downloaded_alone_and_read(hub):
    assert load_source(f"hf:someone/sums#test{MAPPING}", kind=Instruction) == [answer("2 + 2?", "4")]
    assert hub.asked == ["main/test/*.parquet"]
    assert fnmatch.filter(hub.list_repo_files("someone/sums", repo_type="dataset", revision="refs/convert/parquet"),
                          hub.asked[0]) == ["main/test/0000.parquet"]  # fmt: skip
    assert load_source("hf:someone/sums/main#train?text=question", kind=Text)[2] == Text("1 + 3?")
    assert [path.name for path in files_of("hf:someone/sums")] == ["0000.parquet", "0001.parquet"]


def test_a_bad_row_is_named_by_data_set_file_and_row(hub):
    with pytest.raises(UserError, match=r"^hf:someone/sums \(0001\.parquet\), row 2: field 'response' is empty"):
        load_source(f"hf:someone/sums{MAPPING}", kind=Instruction)


def test_what_is_not_there_is_said_with_what_is(hub):
    with pytest.raises(UserError, match="no split 'dev' there; it has main#test, main#train"):
        load_source("hf:someone/sums#dev", kind=Text)
    hub.add("hard/test/0000.parquet", {"question": "a"})
    with pytest.raises(
        UserError, match="several configurations; name one: hf:someone/sums/hard#test, hf:someone/sums/m"
    ):
        load_source("hf:someone/sums#test", kind=Text)
    for name in ("sums", "a/b/c/d", "a//b"):
        with pytest.raises(UserError, match="expected OWNER/NAME"):
            load_source(f"hf:{name}", kind=Text)


def not_found():
    response = types.SimpleNamespace(status_code=404, headers={}, request=None)
    return RepositoryNotFoundError("404 no such data set\nlong", response=response)


@pytest.mark.parametrize("error", [ConnectError("no route"), OSError("no name"), not_found()], ids=repr)
def test_a_hub_that_does_not_answer_is_one_sentence(hub, error):
    hub.error = error
    with pytest.raises(UserError) as raised:
        load_source("hf:someone/sums", kind=Text)
    message = str(raised.value)
    assert message.startswith("hf:someone/sums: the Hugging Face hub did not give it, and it is not in the cache (")
    assert message.endswith("read them as parquet:PATH.") and "\n" not in message


def test_what_was_downloaded_is_read_without_a_network(hub):
    load_source(f"hf:someone/sums#test{MAPPING}", kind=Instruction)
    busy = HfHubHTTPError(
        "429 too many requests", response=types.SimpleNamespace(status_code=429, headers={}, request=None)
    )
    for hub.error in (ConnectError("no route"), busy):
        another_process()
        assert load_source(f"hf:someone/sums#test{MAPPING}", kind=Instruction) == [answer("2 + 2?", "4")]


def test_a_process_asks_the_hub_once_however_often_it_looks(hub):
    spec = f"hf:someone/sums#test{MAPPING}"
    for _ in range(3):
        assert load_source(spec, kind=Instruction) and understood(spec, kind=Instruction) and files_of(spec)
    assert hub.questions == 1 and len(hub.asked) == 1
    hub.add("main/test/0000.parquet", {"question": "2 + 3?", "answer": "5"})
    another_process()
    assert load_source(spec, kind=Instruction) == [answer("2 + 3?", "5")] and hub.questions == 2


def test_a_failure_is_not_remembered(hub):
    hub.error = ConnectError("no route")
    with pytest.raises(UserError):
        load_source("hf:someone/sums#test?text=answer", kind=Text)
    hub.error = None
    assert load_source("hf:someone/sums#test?text=answer", kind=Text) == [Text("4")]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The hub's client itself, offline, its cache with a data set of two files as it keeps them."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "hub" / "datasets--someone--sums"
    reference = folder / "refs" / "refs" / "convert" / "parquet"
    reference.parent.mkdir(parents=True)
    reference.write_text("0" * 40)
    snapshot = Hub(folder / "snapshots" / ("0" * 40))
    for i in range(2):
        snapshot.add(f"main/train/000{i}.parquet", {"question": f"1 + {i}?", "answer": f"{1 + i}"})
    return snapshot


def test_the_hub_s_own_client_gives_offline_what_its_cache_has(own_cache):
    spec = f"hf:someone/sums{MAPPING}"
    assert load_source(spec, kind=Instruction) == [answer("1 + 0?", "1"), answer("1 + 1?", "2")]
    with pytest.raises(
        UserError, match="^hf:someone/others: the Hugging Face hub did not give it, and it is not in the"
    ):
        load_source("hf:someone/others", kind=Text)
    # A download that was ended in the middle, of which only the list tells.
    hub_rows.kept.update(hub_rows.LISTS, {"someone/sums": [f"main/train/000{i}.parquet" for i in range(3)]})
    another_process()
    with pytest.raises(UserError, match="^hf:someone/sums: 2 of its 3 files are here; run again with a network"):
        load_source("hf:someone/sums?text=question", kind=Text)


def test_half_a_download_is_not_taken_for_the_whole_afterwards_without_a_network(hub):
    load_source(f"hf:someone/sums#test{MAPPING}", kind=Instruction)
    (hub.folder / "main/train/0001.parquet").unlink()
    hub.error = ConnectError("no route")
    with pytest.raises(UserError, match="1 of its 2 files are here; run again with a network"):
        load_source("hf:someone/sums?text=question", kind=Text)


def test_half_a_download_is_not_taken_for_the_whole(hub, monkeypatch):
    listed = hub.list_repo_files
    monkeypatch.setattr(hub, "list_repo_files", lambda *a, **k: [*listed(*a, **k), "main/test/0001.parquet"])
    with pytest.raises(UserError, match="1 of its 2 files are here; run again with a network"):
        load_source("hf:someone/sums#test", kind=Text)
    assert pathlib.Path(hub.folder / "main/test/0000.parquet").is_file()
