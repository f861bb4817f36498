"""Rows as other tools write them, and what is said where they cannot be read in one way."""

import json
import re

import pytest

from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user
from icegrt_jax.data.sources import load_source, understood
from icegrt_jax.errors import UserError


def assistant(content):
    return {"role": "assistant", "content": content}


def gpt(content):
    return {"from": "gpt", "value": content}


def human(content):
    return {"from": "human", "value": content}


SYSTEM = {"role": "system", "content": "Be brief."}
TALK = Instruction((*user("Is 7 odd?"), assistant("Yes."), *user("And 8?"), assistant("No.")))
ONE = Instruction((*user("Is 7 odd?"), assistant("Yes.")))
WITH_SYSTEM = Instruction((SYSTEM, *ONE.messages))
PAIR = Ranking(user("Is 7 odd?"), ("Yes.", "No."), (1.0, 2.0))
LONG_PAIR = Ranking(TALK.messages[:3], ("No.", "Yes."), (1.0, 2.0))
WRITTEN = "\n\nHuman: Is 7 odd?\n\nAssistant: Yes.\n\nHuman: And 8?\n\nAssistant:"


def load(tmp_path, kind, *rows, mapping=""):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_source(f"jsonl:rows.jsonl{mapping}", kind=kind, data_dir=str(tmp_path))


@pytest.mark.parametrize(("row", "record"), [
    ({"messages": list(TALK.messages)}, TALK),
    ({"messages": [{"role": "developer", "content": "Be brief."}, *ONE.messages]}, WITH_SYSTEM),
    ({"messages": [{**m, "name": "x", "tool_calls": None, "weight": 1} for m in TALK.messages], "tools": [{}]}, TALK),
    ({"conversations": [human("Is 7 odd?"), gpt("Yes."), human("And 8?"), gpt("No.")], "id": 3}, TALK),
    ({"conversations": [{"from": "system", "value": "Be brief."}, human("Is 7 odd?"), gpt("Yes.")]}, WITH_SYSTEM),
    ({"conversations": [human("Is 7 odd?"), gpt("Yes.")], "system": "Be brief."}, WITH_SYSTEM),
    ({"conversations": list(ONE.messages)}, ONE),
    ({"prompt": "Is 7 odd?", "completion": "Yes."}, ONE),
    ({"prompt": list(user("Is 7 odd?")), "completion": [assistant("Yes.")]}, ONE),
    ({"prompt": "Is 7 odd?", "response": "Yes.", "system": "Be brief."}, WITH_SYSTEM),
    ({"instruction": "Is 7 odd?", "input": "", "output": "Yes."}, ONE),
    ({"instruction": "Is 7 odd?", "output": "Yes.", "system": ""}, ONE),
    ({"messages": WRITTEN + " No."}, TALK),
])  # fmt: skip
def test_conversations_of_other_tools_are_instructions(tmp_path, row, record):
    assert load(tmp_path, Instruction, row, row) == [record, record]


@pytest.mark.parametrize(("row", "record"), [
    ({"prompt": "Is 7 odd?", "chosen": "Yes.", "rejected": "No.", "score_chosen": 9}, PAIR),
    ({"prompt": "Is 7 odd?", "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]}, PAIR),
    ({"prompt": "Is 7 odd?", "prompt_id": "x", "chosen": [*user("Is 7 odd?"), assistant("Yes.")],
      "rejected": [*user("Is 7 odd?"), assistant("No.")]}, PAIR),
    ({"chosen": [*user("Is 7 odd?"), assistant("Yes.")], "rejected": [*user("Is 7 odd?"), assistant("No.")]}, PAIR),
    ({"chosen": WRITTEN + " No.", "rejected": WRITTEN + " Yes."}, LONG_PAIR),
    ({"conversations": [human("Is 7 odd?"), gpt("Yes."), human("And 8?")], "chosen": gpt("No."),
      "rejected": gpt("Yes.")}, LONG_PAIR),
    ({"prompt": "Is 7 odd?", "responses": ["Yes.", "No."], "scores": [0.9, 0.1]},
     Ranking(user("Is 7 odd?"), ("Yes.", "No."), (1.0, 2.0), {"scores": [0.9, 0.1]})),
    ({"prompt": "Is 7 odd?", "chosen": "Yes.", "rejected": "No.", "system": "Be brief."},
     Ranking((SYSTEM, *user("Is 7 odd?")), ("Yes.", "No."), (1.0, 2.0))),
])  # fmt: skip
def test_pairs_and_scores_of_other_tools_are_rankings(tmp_path, row, record):
    assert load(tmp_path, Ranking, row) == [record]


@pytest.mark.parametrize(("row", "record"), [
    ({"messages": list(TALK.messages)}, Prompt(TALK.messages[:3], "No.")),
    ({"messages": list(TALK.messages[:3])}, Prompt(TALK.messages[:3])),
    ({"conversations": [human("Is 7 odd?"), gpt("Yes.")]}, Prompt(user("Is 7 odd?"), "Yes.")),
    ({"instruction": "Is 7", "input": "odd?"}, Prompt(user("Is 7\n\nodd?"))),
    ({"prompt": "Is 7 odd?", "response": "Yes.", "source": "a book"}, Prompt(user("Is 7 odd?"))),
])  # fmt: skip
def test_what_precedes_the_last_answer_is_a_prompt(tmp_path, row, record):
    assert load(tmp_path, Prompt, row) == [record]


def test_a_mapping_names_the_column_of_each_field_and_may_reach_inside(tmp_path):
    row = {"question": "Is 7 odd?", "answer": {"value": "Yes.", "aliases": ["yes"]}, "label": "y", "prompt": "unused"}
    read = lambda kind, mapping: load(tmp_path, kind, row, mapping=mapping)
    assert read(Instruction, "?prompt=question&response=answer.value") == [ONE]
    assert read(Prompt, "?prompt=question&reference=answer.aliases.0&meta.answer=label") == [
        Prompt(user("Is 7 odd?"), "yes", {"answer": "y"})
    ]
    assert read(Text, "?text=question") == [Text("Is 7 odd?")]
    odd = {"a & b": "Is 7 odd?", "c=d": "Yes."}
    assert load(tmp_path, Instruction, odd, mapping="?prompt=a %26 b&response=c=d") == [ONE]


def test_a_mapping_decides_between_two_readings(tmp_path):
    row = {"prompt": "Is 8 odd?", "prompt_id": "x", "messages": list(ONE.messages)}
    assert load(tmp_path, Instruction, row, mapping="?messages=messages") == [ONE]
    both = {**row, "response": "No."}
    with pytest.raises(UserError) as error:
        load(tmp_path, Instruction, both)
    message = str(error.value)
    assert "can be read as response (prompt, response) and as messages (messages); say which is meant" in message
    specs = re.findall(r"jsonl:rows\.jsonl(\?\S+)", message)
    assert [load(tmp_path, Instruction, both, mapping=spec)[0].messages[-1]["content"] for spec in specs] == [
        "No.", "Yes.",
    ]  # fmt: skip


def test_an_optional_column_is_left_out_by_an_empty_mapping(tmp_path):
    row = {"prompt": "Is 7 odd?", "response": "Yes.", "system": "Be brief."}
    assert load(tmp_path, Instruction, row) == [WITH_SYSTEM]
    assert load(tmp_path, Instruction, row, mapping="?system=") == [ONE]


def test_what_cannot_be_read_gets_a_mapping_to_paste(tmp_path):
    row = {"id": 1, "Question": "Is 7 odd?", "answer": "Yes."}
    with pytest.raises(UserError) as error:
        load(tmp_path, Instruction, row)
    message = str(error.value)
    assert "rows.jsonl, line 1: field 'prompt' is missing; its columns are id, Question, answer" in message
    assert message.endswith("name them: jsonl:rows.jsonl?prompt=Question&response=answer")
    assert load(tmp_path, Instruction, row, mapping="?prompt=Question&response=answer") == [ONE]
    with pytest.raises(UserError, match=r"jsonl:rows\.jsonl\?prompt=Question&responses=COLUMN&ranks=COLUMN$"):
        load(tmp_path, Ranking, row)


def test_a_misspelt_field_is_an_error_and_an_extra_column_is_not(tmp_path):
    good = {"prompt": "Is 7 odd?", "response": "Yes.", "promptt": 1, "url": "a", "meta": {"a": 1}}
    assert load(tmp_path, Instruction, good) == [ONE.__class__(ONE.messages, {"a": 1})]
    with pytest.raises(UserError, match="line 1: unknown field 'respons'; expected .*Did you mean 'response'"):
        load(tmp_path, Instruction, {"prompt": "a", "respons": "b"})
    # A column of another sense is not taken for a slip alone.
    with pytest.raises(UserError, match=r"Did you mean 'messages'\? Where .*\?prompt=message&response=COLUMN$"):
        load(tmp_path, Instruction, {"id": "1", "message": "a", "kind": "b"})
    with pytest.raises(UserError, match="line 2: unknown field 'referense'; expected .*Did you mean 'reference'"):
        load(tmp_path, Prompt, {"prompt": "a"}, {"prompt": "a", "referense": "b"})


TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(("kind", "row", "mapping", "problem"), [
    (Instruction, {"messages": [*user("a"), {"role": "assistant", "content": None, "tool_calls": [TOOL]}]}, "",
     r"field 'messages\[1\]\.tool_calls' is .* only text is learned here"),
    (Instruction, {"messages": [*user("a"), {"role": "tool", "content": "b"}, assistant("c")]}, "",
     r"'messages\[1\]\.role' is 'tool'; expected one of system, user, assistant"),
    (Instruction, {"messages": [*user("a"), {**assistant("b"), "weight": 0}, *user("c"), assistant("d")]}, "",
     r"'messages\[1\]\.weight' is 0"),
    (Instruction, {"conversations": [human("a"), {"from": "observation", "value": "b"}]}, "",
     r"'conversations\[1\]\.from' is 'observation'; expected one of human"),
    (Instruction, {"conversations": [human("a"), {"from": "gpt"}]}, "", r"expected an object with 'from' and 'value'"),
    (Instruction, {"conversations": [gpt("a"), human("b")]}, "", "the last message has role 'user'"),
    (Instruction, {"conversations": [human("a"), gpt("")]}, "", r"'conversations\[1\]\.value' is empty"),
    (Instruction, {"prompt": "a", "messages": [*user("b"), assistant("c")]}, "",
     r"'prompt' beside 'messages'; .*\?messages=messages"),
    (Instruction, {"messages": "Yes."}, "", "'messages' is of type str; expected a list"),
    (Instruction, {"prompt": "a", "response": "b"}, "?promt=a", "no field 'promt' in Instruction records; map"),
    (Instruction, {"prompt": "a", "response": "b"}, "?prompt=q", r"no column 'q' \(for 'prompt'\); its columns are"),
    (Instruction, {"prompt": "a", "response": "b"}, "?shape=odd", "shape=odd; of Instruction it is response, messages"),
    (Instruction, {"prompt": "a", "response": "b"}, "?prompt=prompt&messages=response", "are not of one shape"),
    (Instruction, {"prompt": "a", "response": "b"}, "?prompt=a&prompt=b", "field 'prompt' is given two columns"),
    (Instruction, {"prompt": "a", "response": "b"}, "?prompt=a&b", "'b' is no FIELD=COLUMN"),
    (Instruction, {"prompt": "a", "response": 3}, "?response=response", "'response' is of type int; expected a string"),
    (Instruction, {"prompt": [SYSTEM, *user("a")], "response": "b", "system": "c"}, "", "'system' beside a conv"),
    (Ranking, {"chosen": "Yes.", "rejected": "No."}, "", "'prompt' is missing, and 'chosen' is 'Yes.', no whole conv"),
    (Ranking, {"chosen": [assistant("a")], "rejected": [assistant("b")]}, "", "hold the answers alone"),
    (Ranking, {"chosen": WRITTEN + " No.", "rejected": WRITTEN.replace("8", "9") + " No."}, "", "has one prompt"),
    (Ranking, {"prompt": "a", "chosen": [*user("b"), assistant("c")], "rejected": [*user("b"), assistant("d")]}, "",
     "has one prompt"),
    (Ranking, {"chosen": WRITTEN, "rejected": WRITTEN}, "", "'chosen, turn 4' is empty"),
    (Ranking, {"prompt": "a", "responses": ["b", "c"], "scores": [1]}, "", "'scores' is .*expected 2 numbers"),
    (Ranking, {"prompt": "a", "responses": ["b", "c"], "scores": [1, 2], "ranks": [1, 2]}, "",
     "can be read as ranks .* and as scores"),
    (Prompt, {"messages": [assistant("a")]}, "", "a prompt ends with the user's turn"),
    (Prompt, {"prompt": "a", "label": "b"}, "?prompt=prompt&meta.answer=gold", r"'gold' \(for 'meta.answer'\) is miss"),
    (Text, {"body": "a"}, "", r"'text' is missing; .*\?text=body"),
])  # fmt: skip
def test_a_row_that_would_be_misread_is_one_sentence(tmp_path, kind, row, mapping, problem):
    with pytest.raises(UserError, match=problem) as error:
        load(tmp_path, kind, row, mapping=mapping)
    assert "\n" not in str(error.value)


def test_the_first_record_decides_and_a_later_one_of_another_shape_is_named(tmp_path):
    with pytest.raises(UserError, match=r"line 2: field 'completion' is missing; the rows before have it"):
        load(tmp_path, Instruction, {"prompt": "a", "completion": "b"}, {"prompt": "a", "response": "b"})
    with pytest.raises(UserError, match=r"line 2: field 'answer' \(for 'response'\) is missing"):
        load(tmp_path, Instruction, {"q": "a", "answer": "b"}, {"q": "a"}, mapping="?prompt=q&response=answer")
    own = load(tmp_path, Instruction, {"messages": list(ONE.messages)}, {"prompt": "Is 7 odd?", "response": "Yes."})
    assert own == [ONE, ONE], "both of our own forms may stand in one file"


def test_a_prompt_is_a_transcript_only_where_the_source_says_so(tmp_path):
    row = {"prompt": WRITTEN.strip(), "chosen": "No.", "rejected": "Yes.", "response": "No.", "n_turns": 2}
    assert load(tmp_path, Ranking, row)[0].prompt == user(WRITTEN.strip())
    assert load(tmp_path, Ranking, row, mapping="?shape=transcript") == [LONG_PAIR]
    assert load(tmp_path, Instruction, row, mapping="?shape=transcript&response=chosen") == [TALK]
    assert load(tmp_path, Prompt, row, mapping="?shape=transcript") == [Prompt(TALK.messages[:3])]
    lines = understood("jsonl:rows.jsonl", kind=Ranking, data_dir=str(tmp_path))
    assert lines[1].startswith("warning: the prompt reads like a transcript; ")
    assert lines[1].endswith("jsonl:rows.jsonl?shape=transcript")


def test_an_empty_turn_of_a_transcript_is_left_out_unless_it_is_the_last(tmp_path):
    silent = "Human: a\n\nAssistant: \n\nHuman: b\n\nAssistant:"
    row = {"prompt": silent, "response": "c"}
    (record,) = load(tmp_path, Instruction, row, mapping="?shape=transcript")
    assert record.messages == (*user("a\n\nb"), assistant("c"))
    with pytest.raises(UserError, match="field 'prompt, turn 3' is empty"):
        load(tmp_path, Instruction, {**row, "prompt": "Human: a\n\nAssistant: b\n\nHuman: \n\nAssistant:"},
             mapping="?shape=transcript")  # fmt: skip


def test_public_formats_take_no_mapping(tmp_path):
    with pytest.raises(UserError, match="alpaca has fields of its own"):
        load_source("alpaca:rows.jsonl?prompt=a", kind=Instruction, data_dir=str(tmp_path))


def test_what_is_understood_of_the_first_record_is_said(tmp_path):
    load(
        tmp_path,
        Instruction,
        {"question": "Is 7\nodd?", "answer": "Yes.", "id": 1},
        mapping="?prompt=question&response=answer",
    )
    lines = understood("jsonl:rows.jsonl?prompt=question&response=answer", kind=Instruction, data_dir=str(tmp_path))
    assert lines == [
        f"{tmp_path}/rows.jsonl, line 1: read as response: prompt from question, response from answer; not read: id",
        "  user: Is 7 odd?",
        "  assistant: Yes.",
    ]
