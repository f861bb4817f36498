import json
import os

import pytest

from icegrt_jax.data.converters import question_prompt
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user, write_jsonl
from icegrt_jax.data.sources import load_source
from icegrt_jax.errors import UserError

ECQA = {
    "id": "q1",
    "question": "Where do bees live?",
    "choices": ["hive", "sea", "hive"],
    "answer": "hive",
    "explanation": "Bees build hives.\nThe sea is wet.",
}
KWAY = {
    "id": "k1",
    "task": "commonsenseqa",
    "prompt": "unused",
    "input_1": "What do you pack?",
    "input_2": "tent, pack or bag, food, map, or light",
    "gold_label": "pack or bag",
    "responses": ["b", "a", "c"],
    "scores": [1, 3, 1],
}
PROMPT = "Question: Where do bees live?\nChoices: hive; sea; hive\nAnswer with one of the choices and explain why."
ANSWER = "Answer: hive\nExplanation: Bees build hives. The sea is wet."


def write(tmp_path, *rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"data_dir": str(tmp_path)}


def test_questions_become_instructions_and_prompts_of_the_same_wording(tmp_path):
    where = write(tmp_path, ECQA)
    (instruction,) = load_source("ecqa:rows.jsonl", kind=Instruction, **where)
    (prompt,) = load_source("ecqa:rows.jsonl", kind=Prompt, **where)
    assert instruction.messages == (*user(PROMPT), {"role": "assistant", "content": ANSWER})
    assert prompt.prompt == user(PROMPT) and prompt.reference == ANSWER
    assert prompt.meta == {"task": "ecqa", "id": "q1", "choices": ["hive", "sea", "hive"], "answer": "hive"}
    assert load_source("cos_e:rows.jsonl", kind=Prompt, **where)[0].meta["task"] == "cos_e"


def test_the_right_answer_ranks_above_a_wrong_one_with_the_same_explanation(tmp_path):
    (ranking,) = load_source("ecqa_choices:rows.jsonl", kind=Ranking, **write(tmp_path, ECQA))
    assert ranking.prompt == user(PROMPT)
    assert ranking.responses == (ANSWER, ANSWER.replace("Answer: hive", "Answer: sea"))
    assert ranking.ranks == (1, 2)


def test_kway_rows_take_the_wording_of_the_policy_and_rank_by_score(tmp_path):
    snli = {**KWAY, "task": "snli", "input_1": "A dog runs.", "input_2": "A cat sits.", "gold_label": "neither"}
    plain = {"prompt": "Say it.", "responses": ["x", "y"], "scores": [0, 1]}
    first, second, third = load_source("kway:rows.jsonl", kind=Ranking, **write(tmp_path, KWAY, snli, plain))
    choices = ["tent", "pack or bag", "food", "map", "light"]
    assert first.prompt == user(question_prompt("What do you pack?", choices))
    assert first.responses[0] == "Answer: pack or bag\nExplanation: b"
    assert first.ranks == (2, 1, 2)
    assert second.prompt[0]["content"].startswith("Statement: A dog runs.\nClaim: A cat sits.\nQuestion: ")
    assert second.responses[1] == "Answer: neither\nExplanation: a"
    assert (third.prompt, third.responses, third.ranks) == (user("Say it."), ("x", "y"), (2, 1))


def test_alpaca_rows_put_the_input_under_the_instruction(tmp_path):
    where = write(tmp_path, {"instruction": "Add.", "input": "1 2", "output": "3"})
    (instruction,) = load_source("alpaca:rows.jsonl", kind=Instruction, **where)
    (prompt,) = load_source("alpaca:rows.jsonl", kind=Prompt, **where)
    assert [m["content"] for m in instruction.messages] == ["Add.\n\n1 2", "3"]
    assert (prompt.prompt, prompt.reference, prompt.meta) == (user("Add.\n\n1 2"), "3", {"task": "alpaca"})


def test_workdir_and_data_dir_are_filled_in(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "data" / "a.jsonl", [Text("a")])
    for spec, where in [
        ("jsonl:{workdir}/data/a.jsonl", {"workdir": str(tmp_path)}),
        ("jsonl:data/a.jsonl", {"data_dir": str(tmp_path)}),
        (f"jsonl:{tmp_path}/data/a.jsonl", {}),
    ]:
        assert load_source(spec, kind=Text, **where) == [Text("a")]
    monkeypatch.setenv("ICEGRT_DATA", str(tmp_path))
    assert load_source("jsonl:data/a.jsonl", kind=Text) == [Text("a")]
    monkeypatch.delenv("ICEGRT_DATA")
    monkeypatch.chdir(tmp_path / "data")
    assert load_source("jsonl:a.jsonl", kind=Text) == [Text("a")]


def test_a_bad_source_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("ICEGRT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for spec, kind, problem in [
        ("a.jsonl", Text, "expected FORMAT:PATH"),
        ("mine/a.jsonl.gz", Text, "did you mean 'jsonl:mine/a.jsonl.gz'"),
        ("a.csv?text=words", Text, r"did you mean 'csv:a.csv\?text=words'"),
        ("a.txt", Text, r"rm_bench\.$"),
        ("xml:a", Text, r"rm_bench\.$"),
        ("jsonl:a.jsonl", Text, rf"{tmp_path}/a\.jsonl: no such file; check the source's path and data_dir"),
        ("jsonl:{workdir}/a.jsonl", Text, "pass --workdir"),
        (f"jsonl:{tmp_path}/a.jsonl", Text, r"a\.jsonl: no such file"),
        (f"ecqa:{tmp_path}/a.jsonl", Ranking, "for Ranking use jsonl, json, csv, parquet, hf, tfds, cos_e_choices"),
        (f"tfds:nothing_here@{tmp_path}#train", Text, "tfds:nothing_here"),
    ]:
        with pytest.raises(UserError, match=problem):
            load_source(spec, kind=kind)
    write_jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match="no records"):
        load_source("jsonl:empty.jsonl", kind=Text, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "kind", "row", "problem"),
    [
        ("ecqa", Prompt, {**ECQA, "question": None}, "'question' is None"),
        ("ecqa", Prompt, {**ECQA, "choices": "hive, sea"}, "'choices' is 'hive, sea'"),
        ("ecqa", Prompt, {**ECQA, "answer": "sky"}, "'answer' is 'sky'"),
        ("ecqa_choices", Ranking, {**ECQA, "choices": ["hive"]}, "'choices' has only the right answer"),
        ("alpaca", Instruction, {"instruction": "a", "input": ""}, "'output' is missing"),
        ("kway", Ranking, {**KWAY, "scores": [1]}, "'scores' is"),
        ("kway", Ranking, {**KWAY, "scores": [1, "2", 3]}, r"'scores\[1\]' is '2'; expected a finite number"),
        ("kway", Ranking, {**KWAY, "scores": [1, float("nan"), 3]}, r"'scores\[1\]' is nan; expected a finite number"),
        ("kway", Ranking, {**KWAY, "scores": [1, 3, float("inf")]}, r"'scores\[2\]' is inf; expected a finite number"),
        ("kway", Ranking, {**KWAY, "scores": [float("-inf"), 3, 1]}, r"'scores\[0\]' is -inf; expected a finite"),
        ("kway", Ranking, {**KWAY, "scores": [1, 3, 10**400]}, r"'scores\[2\]' is 1000\d*\.\.\.0*; expected a finite"),
        ("kway", Ranking, {**KWAY, "scores": [1, 3, True]}, r"'scores\[2\]' is True; expected a finite number"),
        ("kway", Ranking, {**KWAY, "gold_label": "sea"}, "'gold_label' is 'sea'"),
        ("kway", Ranking, [1], "type list"),
    ],
)
def test_a_bad_row_of_a_public_set_is_named_with_line_and_field(tmp_path, spec, kind, row, problem):
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 1: .*{problem}"):
        load_source(f"{spec}:rows.jsonl", kind=kind, **write(tmp_path, row))


@pytest.mark.skipif("ICEGRT_DATA" not in os.environ, reason="needs the public data sets: set ICEGRT_DATA")
@pytest.mark.parametrize(
    ("spec", "kind", "count"),
    [
        ("ecqa:domain/ecqa/official_val.jsonl.gz", Instruction, 1090),
        ("ecqa:domain/ecqa/official_test.jsonl.gz", Prompt, 2194),
        ("ecqa_choices:domain/ecqa/official_test.jsonl.gz", Ranking, 2194),
        ("cos_e:domain/cos_e/test.jsonl", Prompt, 566),
        ("kway:preference/explanations_kway/test.jsonl", Ranking, 500),
        ("kway:preference/comve_reasons_kway/test.jsonl", Ranking, 1000),
        ("alpaca:instruct/dolly_hhrlhf/heldout.jsonl", Instruction, 0),
    ],
)
def test_the_public_sets_convert_whole(spec, kind, count):
    records = load_source(spec, kind=kind)
    assert len(records) == count or not count
    assert all(isinstance(record, kind) and record.meta["task"] for record in records)
