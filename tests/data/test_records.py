import gzip
import json

import pytest

from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, read_jsonl, user, write_jsonl
from icegrt_jax.errors import UserError

RECORDS = [
    Instruction((*user("2 + 2?"), {"role": "assistant", "content": "4"}), {"task": "sums"}),
    Ranking(user("2 + 2?"), ("4", "four", "5"), (1.0, 1.0, 2.5)),
    Prompt(user("2 + 2?"), "4", {"task": "sums", "id": 7}),
    Prompt(user("2 + 2?")),
    Text("two and two"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_json(record):
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_short_forms_mean_the_long_ones():
    assert Instruction.from_json({"prompt": "a", "response": "b"}).messages == (
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    )
    pair = Ranking.from_json({"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"})
    assert pair == Ranking(user("a"), ("b", "c"), (1.0, 2.0))


def test_files_are_split_at_line_feeds_only(tmp_path):
    # U+2028 and U+0085 may stand unescaped in JSON strings; str.splitlines would cut there.
    written = [Text("one\u2028line"), Text("an\u0085other")]
    write_jsonl(tmp_path / "a.jsonl", written)
    assert read_jsonl(tmp_path / "a.jsonl", Text) == written
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_jsonl(tmp_path / "a.jsonl.gz", Text) == written


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [Text("old")])
    with pytest.raises(AttributeError):
        write_jsonl(tmp_path / "a.jsonl", [Text("new"), None])
    assert read_jsonl(tmp_path / "a.jsonl", Text) == [Text("old")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        (Text, "{", "not JSON"),
        (Text, "[1]", "type list"),
        (Text, '{"text": ""}', "'text' is empty"),
        (Text, '{"text": 3}', "'text' is of type int"),
        (Text, '{"txt": "a"}', "unknown field 'txt'"),
        (Text, '{"text": "a", "meta": 1}', "'meta' is of type int"),
        (Prompt, "{}", "'prompt' is missing"),
        (Prompt, '{"prompt": " "}', "'prompt' is empty"),
        (Prompt, '{"prompt": []}', "'prompt' is an empty list"),
        (Prompt, '{"prompt": "a", "reference": 1}', "'reference' is of type int"),
        (Prompt, '{"prompt": [{"role": "human", "content": "a"}]}', r"'prompt\[0\].role' is 'human'"),
        (Prompt, '{"prompt": [{"role": "user"}]}', r"'prompt\[0\]'"),
        (Prompt, json.dumps({"prompt": [TURN, {"role": "system", "content": "b"}, TURN]}), r"'prompt\[1\].role'"),
        (Prompt, json.dumps({"prompt": [TURN, {"role": "assistant", "content": "b"}]}), "ends with the user's turn"),
        (Instruction, '{"prompt": "a"}', "'response' is missing"),
        (Instruction, '{"prompt": "a", "response": ""}', "'response' is empty"),
        (Instruction, json.dumps({"messages": [TURN]}), "ends with the assistant's answer"),
        (Instruction, json.dumps({"messages": [TURN], "prompt": "a"}), "'prompt' beside 'messages'"),
        (Instruction, json.dumps({"messages": [{"role": "user", "content": ""}]}), r"'messages\[0\].content' is empty"),
        (Ranking, '{"prompt": "a", "responses": ["b", "c"]}', "'ranks' is missing"),
        (Ranking, '{"prompt": "a", "responses": ["b", ""], "ranks": [1, 2]}', r"'responses\[1\]' is empty"),
        (Ranking, '{"prompt": "a", "responses": ["b", "c"], "ranks": [1]}', "1 entries for 2 responses"),
        (Ranking, '{"prompt": "a", "responses": ["b"], "ranks": [1]}', "two or more"),
        (Ranking, '{"prompt": "a", "responses": ["b", "c"], "ranks": [1, NaN]}', r"'ranks\[1\]' is nan"),
        (Ranking, '{"prompt": "a", "responses": ["b", "c"], "ranks": [1, true]}', r"'ranks\[1\]' is True"),
        (Ranking, f'{{"prompt": "a", "responses": ["b", "c"], "ranks": [1, {10**400}]}}', r"'ranks\[1\]' is 10+\.{3}0"),
        (Ranking, '{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 1e999]}', r"'ranks\[1\]' is inf"),
        (Text, '{"text": "a", "meta": {"n": N}}'.replace("N", "9" * 5000), "an integer of too many digits"),
        (Text, '{"a": ' * 3000 + "1" + "}" * 3000, "too deep in each other"),
        (Text, '{"text": "a", "meta": {"a": L}}'.replace("L", "[" * 3000 + "]" * 3000), "too deep in each other"),
        (Text, '{"N": 1}'.replace("N", "b" * 3000), "'text' is missing"),
        (Prompt, '{"prompt": L}'.replace("L", "[" * 400 + "]" * 400), r"'prompt\[0\]' is \[+\.\.\.\]+; expected an"),
        (Ranking, '{"prompt": "a", "chosen": "b"}', "'rejected' is missing"),
        (Ranking, '{"prompt": "a", "chosen": "b", "rejected": "c", "ranks": [1]}', "'ranks' beside 'chosen'"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_field(tmp_path, kind, line, problem):
    good = {Text: RECORDS[4], Prompt: RECORDS[3], Instruction: RECORDS[0], Ranking: RECORDS[1]}[kind]
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(good.to_json())}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"bad\.jsonl, line 3: .*{problem}"):
        read_jsonl(path, kind)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        read_jsonl(tmp_path / "none.jsonl", Text)
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.jsonl, line 1: not UTF-8"):
        read_jsonl(tmp_path / "latin.jsonl", Text)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n')[:-5])
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz: not a whole gzip file"):
        read_jsonl(tmp_path / "cut.jsonl.gz", Text)
    with pytest.raises(UserError, match="uncompressed"):
        write_jsonl(tmp_path / "a.jsonl.gz", [Text("a")])
