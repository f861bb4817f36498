import contextlib
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from icegrt_jax.data import rows
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError

ROWS = [
    {"prompt": "Is 7 odd?", "response": "Yes,\nit is.", "topic": "odd"},
    {"prompt": "Is 8 odd?\u2028", "response": "No.", "topic": "even"},
]
RECORDS = [
    Instruction((*user(row["prompt"]), {"role": "assistant", "content": row["response"]})) for row in ROWS
]  # fmt: skip
CSV = 'prompt,response,topic\nIs 7 odd?,"Yes,\nit is.",odd\nIs 8 odd?\u2028,No.,even\n'
BOM = "\ufeff"


def parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The rows in every format."""
    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    for name, text in {
        "a.jsonl": lines, "bom.jsonl": BOM + lines, "a.json": json.dumps(ROWS), "bom.json": BOM + json.dumps(ROWS),
        "a.csv": CSV, "bom.csv": BOM + CSV, "crlf.csv": CSV.replace("odd\n", "odd\r\n").replace("topic\n", "topic\r\n"),
        "a.tsv": CSV.replace("prompt,response,topic", "prompt\tresponse\ttopic").replace("?,", "?\t")
        .replace(".,e", ".\te").replace('",odd', '"\todd').replace("\u2028,No.", "\u2028\tNo."),
    }.items():  # fmt: skip
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    parquet(folder / "a.parquet", ROWS)
    parquet(folder / "part-1.parquet", ROWS[:1])
    parquet(folder / "part-2.parquet", ROWS[1:])
    return folder


@pytest.mark.parametrize("spec", [
    "jsonl:a.jsonl", "jsonl:bom.jsonl", "json:a.json", "json:bom.json", "csv:a.csv", "csv:bom.csv", "csv:crlf.csv",
    "csv:a.tsv", "csv:a.csv.gz", "parquet:a.parquet", "parquet:part-*.parquet",
])  # fmt: skip
def test_every_format_gives_the_same_records_and_ignores_the_same_extra_column(folder, spec):
    assert load_source(spec, kind=Instruction, data_dir=str(folder)) == RECORDS
    mapped = load_source(f"{spec}?prompt=response&reference=topic", kind=Prompt, data_dir=str(folder))
    assert mapped == [Prompt(user(row["response"]), row["topic"]) for row in ROWS]


@pytest.mark.parametrize(("spec", "where"), [
    ("jsonl:bad.jsonl", "bad.jsonl, line 3"),
    ("json:bad.json", "bad.json, item 3"),
    ("csv:bad.csv", "bad.csv, line 5"),
    ("parquet:bad.parquet", "bad.parquet, row 3"),
])  # fmt: skip
def test_a_bad_record_is_named_where_it_lies(tmp_path, spec, where):
    rows = [*ROWS, {"prompt": "Is 9 odd?", "response": "", "topic": "odd"}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bad.json").write_text(json.dumps(rows))
    (tmp_path / "bad.csv").write_text(CSV + "Is 9 odd?,,odd\n", encoding="utf-8")
    parquet(tmp_path / "bad.parquet", rows)
    with pytest.raises(UserError, match=rf"{where}: field 'response' is empty"):
        load_source(spec, kind=Instruction, data_dir=str(tmp_path))


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("a.csv", b"prompt,response\nIs 7 odd?\n", r"a\.csv, line 2: 1 cells under 2 columns"),
    ("a.csv", b'prompt,response\n"Is 7 odd?,b\n', r"a\.csv, line 2: not CSV \(unexpected end of data\)"),
    ("a.csv", b"prompt,prompt\na,b\n", r"a\.csv, line 1: two columns are called 'prompt'"),
    ("a.csv", "prompt,response\né,b\n".encode("latin-1"), r"a\.csv, after line \d: not UTF-8"),
    ("a.csv.gz", gzip.compress(b"prompt,response\na,b\n", mtime=0)[:-5], r"a\.csv\.gz: not a whole gzip file"),
    ("a.json", b'{"prompt": "a"}', r"a\.json: holds a JSON value of type dict; expected a list of objects"),
    ("a.json", b"[1]", r"a\.json, item 1: got a JSON value of type int; expected an object with messages"),
    ("a.json", b'[{"prompt": "a"', r"a\.json: not JSON"),
    ("a.parquet", b"PAR1", r"a\.parquet: not a whole Parquet file"),
])  # fmt: skip
def test_a_broken_file_is_one_sentence(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    format_ = name.split(".")[1]
    with pytest.raises(UserError, match=problem) as error:
        load_source(f"{format_}:{name}", kind=Instruction, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_are_named(tmp_path):
    for format_ in ("jsonl", "json", "csv", "parquet"):
        with pytest.raises(UserError, match=r"none\.x: no such file; check the source's path and data_dir"):
            load_source(f"{format_}:none.x", kind=Text, data_dir=str(tmp_path))
        with pytest.raises(UserError, match=r"none-\*: no such files"):
            load_source(f"{format_}:none-*", kind=Text, data_dir=str(tmp_path))


def test_lists_are_read_from_cells_of_json_and_from_columns_of_lists(tmp_path):
    ranking = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "meta": None}
    parquet(tmp_path / "a.parquet", [ranking])
    (tmp_path / "a.csv").write_text('prompt,responses,ranks\na,"[""b"", ""c""]","[1, 2]"\n')
    for spec in ("parquet:a.parquet", "csv:a.csv"):
        assert load_source(spec, kind=Ranking, data_dir=str(tmp_path)) == [Ranking(user("a"), ("b", "c"), (1.0, 2.0))]


def test_a_cell_may_be_larger_than_the_csv_module_would_read(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "a" * 200_000 + "\n")
    assert load_source("csv:a.csv", kind=Text, data_dir=str(tmp_path)) == [Text("a" * 200_000)]


def test_a_line_that_is_too_long_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "LONGEST_LINE", 100)
    for name, opener in (("long.jsonl", open), ("long.jsonl.gz", gzip.open)):
        with opener(tmp_path / name, "wb") as file:
            file.write(b'{"text": "a"}\n{"text": "' + b"a" * 100 + b'"}\n')
        with pytest.raises(UserError, match=f"{name}, line 2: longer than 100 bytes"):
            load_source(f"jsonl:{name}", kind=Text, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.json.gz", "bomb.csv.gz"])
def test_a_bomb_is_refused_while_it_unpacks(tmp_path, monkeypatch, name):
    monkeypatch.setattr(rows, "UNPACKED", 2**20)
    with gzip.open(tmp_path / name, "wb") as file:
        file.write({"csv": b"text\n", "json": b"["}.get(name.split(".")[1], b""))
        file.write((b'{"text": "a"}' + b" " * 500 + b"\n") * 4000)
    with pytest.raises(UserError, match=f"{name}: unpacks to more than 200 times its size"):
        load_source(f"{name.split('.')[1]}:{name}", kind=Text, data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_corrupt_gzip_file_is_one_sentence_wherever_it_is_corrupt(tmp_path, name):
    form, texts = name.split(".")[1], [f"row {i}" for i in range(2000)]
    rows = [json.dumps({"text": text}) for text in texts]
    whole = {"jsonl": "\n".join(rows), "json": f"[{','.join(rows)}]", "csv": "\n".join(["text", *texts])}[form]
    packed = gzip.compress(whole.encode())
    read, places = 0, range(0, len(packed), 97)
    for at in places:
        (tmp_path / name).write_bytes(packed[:at] + b"\xff\x00" + packed[at + 2 :])
        with contextlib.suppress(UserError):  # some bytes of a gzip file's head say nothing
            found = load_source(f"{form}:{name}", kind=Text, data_dir=str(tmp_path))
            assert [record.text for record in found] == texts
            read += 1
    assert read <= 2 < len(places) / 10


def test_lines_of_a_table_may_end_as_old_files_have_them(tmp_path):
    mixed = b'\xef\xbb\xbftext,b\r\n"a\r\nb",1\nc,2\r'
    for name, content in (("cr.csv", b'text,b\r"a\r\nb",1\rc,2'), ("mixed.csv", mixed)):
        (tmp_path / name).write_bytes(content)
        texts = [record.text for record in load_source(f"csv:{name}", kind=Text, data_dir=str(tmp_path))]
        assert texts == ["a\r\nb", "c"]


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "meta": {"b": 1, "b": 2}}\n')
    with pytest.raises(UserError, match="line 1: field 'b' stands twice in one object"):
        load_source("jsonl:a.jsonl", kind=Text, data_dir=str(tmp_path))


def test_of_many_columns_a_message_names_some(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({f"k{i}": 1 for i in range(20_000)}) + "\n")
    with pytest.raises(UserError, match="k39 and 19960 more") as error:
        load_source("jsonl:a.jsonl", kind=Text, data_dir=str(tmp_path))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("prompt", [{"type": "image"}, [], [7], 7, [["a"]]])
def test_a_system_column_beside_a_prompt_of_a_wrong_type_is_a_sentence(tmp_path, prompt):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": prompt, "system": "Yes."}) + "\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 1: field 'prompt"):
        load_source("jsonl:a.jsonl", kind=Prompt, data_dir=str(tmp_path))
