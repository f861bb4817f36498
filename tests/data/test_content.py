"""Contents as parts, and half characters: what every reader makes of them."""

import json

import pytest
import tensorflow_datasets as tfds

from icegrt_jax.commands import data
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, read_jsonl, user
from icegrt_jax.data.sources import load_source
from icegrt_jax.data.tfds_builder import build_dataset
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from icegrt_jax.sampling.generate import prompt_ids
from tests.data.templates import make

HALF, OTHER_HALF = "\ud83d", "\ude42"
TURN, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def write(tmp_path, row):
    """The file's first line is blank, its second the row."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + json.dumps(row) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "row", "field"), [
    (Text, {"text": f"odd {HALF}"}, "text"),
    (Text, {"text": OTHER_HALF}, "text"),
    (Text, {"text": OTHER_HALF + HALF}, "text"),  # the halves in the wrong order are no pair
    (Text, {"text": "a", "meta": {"tags": ["b", {"c": HALF}]}}, r"meta.tags\[1\].c"),
    (Text, {"text": "a", "meta": {HALF: "b"}}, "meta."),
    (Prompt, {"prompt": HALF}, "prompt"),
    (Prompt, {"prompt": [TURN, ANSWER, {"role": "user", "content": HALF}]}, r"prompt\[2\].content"),
    (Prompt, {"prompt": "a", "reference": HALF}, "reference"),
    (Instruction, {"prompt": "a", "response": HALF}, "response"),
    (Instruction, {"messages": [TURN, {"role": "assistant", "content": parts("b", HALF)}]},
     r"messages\[1\].content\[1\].text"),
    (Ranking, {"prompt": "a", "chosen": "b", "rejected": HALF}, "rejected"),
    (Ranking, {"prompt": "a", "responses": ["b", HALF], "ranks": [1, 2]}, r"responses\[1\]"),
])  # fmt: skip
def test_half_a_character_is_refused_at_the_record(tmp_path, kind, row, field):
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: field '{field}.*' holds '\\ud.*half a character"):
        read_jsonl(write(tmp_path, row), kind)


def test_a_whole_emoji_written_as_two_escapes_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"text": "\ud83d\ude42"}', encoding="utf-8")
    assert read_jsonl(path, Text) == [Text("🙂")]


def test_data_check_refuses_half_a_character(tmp_path):
    source = f"jsonl:{write(tmp_path, {'prompt': 'a', 'response': HALF})}"
    with pytest.raises(UserError, match=r"line 2: field 'response' holds"):
        data.main("check", source=source, kind="instruction", data_dir="")


@pytest.mark.parametrize(("spec", "kind", "row", "field"), [
    ("alpaca", Instruction, {"instruction": "a", "input": "", "output": HALF}, "output"),
    ("ecqa", Prompt, {"question": HALF, "choices": ["a"], "answer": "a", "explanation": "b"}, "question"),
    ("kway", Ranking, {"prompt": "a", "responses": ["b", HALF], "scores": [1, 2]}, r"responses\[1\]"),
])  # fmt: skip
def test_half_a_character_in_a_public_set_is_named_with_the_set_s_own_field(tmp_path, spec, kind, row, field):
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: field '{field}' holds"):
        load_source(f"{spec}:{write(tmp_path, row)}", kind=kind)


def tfds_of(tmp_path, name, **row):
    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = "elsewhere"

        def _info(self):
            features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in row})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": iter([("a", row)])}

        def _generate_examples(self):
            raise NotImplementedError

    Foreign.name = name
    Foreign(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    return f"tfds:{name}@{tmp_path}"


def test_half_a_character_in_a_tfds_set_is_named_with_its_example(tmp_path):
    for name, row, problem in [
        ("escaped", {"record": json.dumps({"text": HALF})}, "example 0: field 'text' holds"),
        ("bytes", {"text": b"odd \xed\xa0\xbd"}, "example 0: not UTF-8"),
        ("broken", {"record": "{"}, "example 0: field 'record': not JSON"),
    ]:
        with pytest.raises(UserError, match=problem):
            load_source(tfds_of(tmp_path, name, **row), kind=Text)


def test_a_program_s_half_characters_are_refused_before_anything_is_made_of_them(tmp_path):
    tokenizer = wrap(make("chatml"))
    for call in (
        lambda: Text(HALF),
        lambda: Prompt(user("a"), HALF),
        lambda: Ranking(user("a"), ("b", HALF), (1.0, 2.0)),
        lambda: build_dataset({"train": [Text(HALF)]}, "half", str(tmp_path)),
        lambda: prompt_ids(HALF, tokenizer),
        lambda: tokenizer.encode_prompt(user(HALF)),
        lambda: tokenizer.encode_examples([TURN, {"role": "assistant", "content": HALF}]),
        lambda: tokenizer.encode_answer(user("a"), HALF),
        lambda: tokenizer.encode_text(HALF),
    ):
        with pytest.raises(UserError, match="half a character"):
            call()
    assert not list(tmp_path.iterdir())


def test_contents_in_parts_of_type_text_are_their_texts_joined(tmp_path):
    row = {"messages": [{"role": "user", "content": parts("What ", "is 7?")}, ANSWER]}
    (record,) = read_jsonl(write(tmp_path, row), Instruction)
    assert record.messages == (*user("What is 7?"), ANSWER)
    tokenizer = wrap(make("chatml"))
    whole = tokenizer.encode_prompt(user("What is 7?"))
    assert tokenizer.encode_prompt(row["messages"][:1]) == prompt_ids(row["messages"][:1], tokenizer) == whole
    assert tokenizer.encode_examples(row["messages"]) == tokenizer.encode_examples(record.messages)
    assert tokenizer.encode_answer(row["messages"][:1], "b") == tokenizer.encode_answer(user("What is 7?"), "b")


@pytest.mark.parametrize(("content", "problem"), [
    ([{"type": "image", "url": "a.png"}], r"content\[0\]' is a part of type 'image'; expected .*'text'"),
    ([*parts("a"), {"type": "text", "text": None}], r"content\[1\]' is a part of type 'text'"),
    ([*parts("a"), "b"], r"content\[1\]' is a part of type 'b'"),
    (parts(" "), "content' is empty"),
    ([], "content' is empty"),
    (None, "content' is missing"),
    ({"text": "a"}, "content' is of type dict"),
])  # fmt: skip
def test_other_contents_are_refused_with_line_and_field(tmp_path, content, problem):
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 2: field 'prompt\[0\]\.{problem}"):
        read_jsonl(write(tmp_path, {"prompt": [{"role": "user", "content": content}]}), Prompt)
