import random

import pytest

from icegrt_jax.data import beginnings, chat, template
from icegrt_jax.data.beginnings import Beginnings
from tests.data import templates

WORDS = ["7", " is odd", "\n", "\n\n", "  ", "What?", "é", "<", "|", "a", " b ", "\t", "Yes."]


@pytest.fixture(params=[shape for shape in templates.SHAPES], scope="module")
def tokenizer(request):
    return templates.make(request.param)


def said(rng) -> str:
    return "w" + "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))


def test_beginnings_of_conversations_have_the_ids_that_each_has_by_itself(tokenizer):
    rng = random.Random(0)
    for turns in (2, 4, 8):
        roles = [("user", "assistant")[i % 2] for i in range(turns)]
        messages = [{"role": role, "content": said(rng)} for role in roles]
        known = Beginnings(tokenizer)
        whole = template.render(tokenizer, messages, generate=False)
        for text in (whole, *(whole[: rng.randint(0, len(whole))] for _ in range(40)), whole + "7", "b" + whole):
            ids, places = known.encode(text)
            expected, expected_places = beginnings.encode(tokenizer, text)
            assert (ids, [*map(tuple, places)]) == (expected, [*map(tuple, expected_places)]), text


def test_a_conversation_of_many_turns_is_encoded_about_once(tokenizer, monkeypatch):
    rng = random.Random(1)
    messages = [{"role": ("user", "assistant")[i % 2], "content": said(rng)} for i in range(40)]
    lengths, encode = [], beginnings.encode
    monkeypatch.setattr(
        beginnings, "encode", lambda tokenizer, text: lengths.append(len(text)) or encode(tokenizer, text)
    )
    try:
        whole = template.render(tokenizer, messages, generate=False)
        chat.encode_examples(tokenizer, messages, end_ids=[tokenizer.eos_token_id])
    except ValueError:
        pytest.skip("its end of turn is another token")
    if len(chat.encode_examples(tokenizer, messages, end_ids=[tokenizer.eos_token_id])) == 1:
        assert sum(lengths) < 8 * len(whole)
