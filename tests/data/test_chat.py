"""Masks and prompts under the template shapes of published models."""

import json

import pytest

from icegrt_jax.data.fitting import encode_prompt, fit_examples, fit_prompts, fit_rankings
from icegrt_jax.data.records import Instruction, Prompt, Ranking, read_jsonl, user
from icegrt_jax.data.tokenizers import load_tokenizer, wrap
from icegrt_jax.errors import UserError
from tests.data.templates import CHATML, SHAPES, make

SYSTEM = {"role": "system", "content": "Be brief."}
ONE, TWO = {"role": "assistant", "content": "It is 7."}, {"role": "assistant", "content": "Yes.\nIt is odd."}
TURNS = (*user("What is 7?"), ONE, *user("Is 7 odd?"), TWO)
THOUGHT = ({"role": "assistant", "content": "<think>\n7?\n</think>\n\nIt is 7."},
           {"role": "assistant", "content": "<think>\nodd\n</think>\n\nYes."})  # fmt: skip

# The two answers as each template has the model produce them.
SAID = {
    "chatml": ("It is 7.<|im_end|>", "Yes.\nIt is odd.<|im_end|>"),
    "llama2": (" It is 7. </s>", " Yes.\nIt is odd. </s>"),
    "llama3": ("It is 7.<|eot_id|>", "Yes.\nIt is odd.<|eot_id|>"),
    "gemma": ("It is 7.<end_of_turn>", "Yes.\nIt is odd.<end_of_turn>"),
    "mistral": (" It is 7.</s>", " Yes.\nIt is odd.</s>"),
    "qwen3": ("<think>\n\n</think>\n\nIt is 7.<|im_end|>", "<think>\n\n</think>\n\nYes.\nIt is odd.<|im_end|>"),
}


def spans(tokenizer, ids, mask):
    """(ids before it, text) of each run of targets."""
    starts = [i for i, m in enumerate(mask) if m and not mask[i - 1]]
    stops = [next((j for j in range(i, len(mask)) if not mask[j]), len(mask)) for i in starts]
    return [(ids[:i], tokenizer.tokenizer.decode(ids[i:j])) for i, j in zip(starts, stops)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_assistant_turn_is_trained_on_once_after_what_sampling_would_give_it(shape):
    tokenizer = wrap(make(shape))
    found = [span for ids, mask in tokenizer.encode_examples(TURNS) for span in spans(tokenizer, ids, mask)]
    prompts = [tokenizer.encode_prompt(TURNS[:1]), tokenizer.encode_prompt(TURNS[:3])]
    assert sorted(found) == sorted(zip(prompts, SAID[shape]))


@pytest.mark.parametrize("shape", SHAPES)
def test_bos_is_there_once_where_the_template_writes_it(shape):
    tokenizer = wrap(make(shape))
    bos = tokenizer.tokenizer.bos_token_id
    for ids in (tokenizer.encode_prompt(TURNS[:1]), tokenizer.encode_conversation(TURNS[:2])[0]):
        assert ids.count(bos) == (bos is not None)
        assert bos is None or ids[0] == bos


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_eos_is_the_one_the_template_ends_an_answer_with(shape):
    tokenizer = wrap(make(shape))
    assert SAID[shape][0].endswith(tokenizer.tokenizer.convert_ids_to_tokens(tokenizer.eos_id))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "qwen3"])
def test_a_template_that_only_appends_gives_one_example(shape):
    tokenizer = wrap(make(shape))
    assert tokenizer.encode_examples(TURNS) == [tokenizer.encode_conversation(TURNS)]
    assert fit_examples([Instruction(TURNS)], tokenizer, 500, "drop")[1] == dict(kept=1, cut=0, dropped=0, split=0)


def test_a_turn_whose_thoughts_are_dropped_later_becomes_an_example_of_its_own():
    tokenizer = wrap(make("qwen3"))
    messages = (*user("What is 7?"), THOUGHT[0], *user("Is 7 odd?"), THOUGHT[1])
    whole, first = tokenizer.encode_examples(messages)
    decode = tokenizer.tokenizer.decode
    assert "<think>\n7?" not in decode(whole[0]) and "It is 7.<|im_end|>" in decode(whole[0])
    assert [text for _, text in spans(tokenizer, *whole)] == ["<think>\nodd\n</think>\n\nYes.<|im_end|>"]
    assert [text for _, text in spans(tokenizer, *first)] == ["<think>\n7?\n</think>\n\nIt is 7.<|im_end|>"]
    examples, counts = fit_examples([Instruction(messages)], tokenizer, 500, "drop")
    assert len(examples) == 2 and counts == dict(kept=0, cut=0, dropped=0, split=1)


def test_a_conversation_that_is_split_is_dropped_or_cut_as_one_record():
    tokenizer = wrap(make("qwen3"))
    (whole, _), (first, _) = tokenizer.encode_examples(TURNS)
    assert len(first) < len(whole) - 1
    examples, counts = fit_examples([Instruction(TURNS)], tokenizer, len(whole) - 1, "drop")
    assert examples == [] and counts["dropped"] == 1
    examples, counts = fit_examples([Instruction(TURNS)], tokenizer, len(whole) - 1, "cut")
    assert [len(e.ids) for e in examples] == [len(whole) - 1, len(first)] and counts["cut"] == 1


def rows(tmp_path, kind, *objects):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(obj) + "\n" for obj in objects))
    return path, read_jsonl(path, kind)


@pytest.mark.parametrize("shape, messages, reason", [
    ("gemma", [SYSTEM, *TURNS[:2]], "the roles system, user.* \\(no system role\\)"),
    ("gemma", [*user("a"), *user("b"), ONE], "the roles user, user.* \\(user and assistant must alternate\\)"),
    ("llama2", [SYSTEM, ONE, *user("b"), TWO], "the roles system, assistant \\(user and assistant must alternate\\)"),
    ("chatml", [ONE, *TURNS[:2]], "has nothing in front of the assistant's first words"),
    ("mistral", [SYSTEM, *TURNS[:2]], "rewrites earlier turns when the answer is added"),
])  # fmt: skip
def test_a_conversation_that_the_template_cannot_write_is_named(tmp_path, shape, messages, reason):
    path, records = rows(tmp_path, Instruction, {"prompt": "a", "response": "b"}, {"messages": messages})
    with pytest.raises(UserError, match=f"^{path}, line 2: the chat template .*{reason}"):
        fit_examples(records, wrap(make(shape)), 500, "drop")


def test_prompts_and_rankings_are_named_too(tmp_path):
    tokenizer = wrap(make("gemma"))
    path, records = rows(tmp_path, Prompt, {"prompt": [SYSTEM, *user("a")]})
    for call in (lambda: fit_prompts(records, tokenizer, 50, "drop"), lambda: encode_prompt(records[0], tokenizer)):
        with pytest.raises(UserError, match=f"^{path}, line 1: the chat template refuses"):
            call()
    path, records = rows(tmp_path, Ranking, {"prompt": [SYSTEM, *user("a")], "chosen": "b", "rejected": "c"})
    with pytest.raises(UserError, match=f"^{path}, line 1: the chat template refuses"):
        fit_rankings(records, tokenizer, 50, 2, "drop")


def test_a_system_message_stands_where_the_template_puts_it():
    for shape, expected in [
        ("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 7?"),
        ("llama2", "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is 7? [/INST]"),
        ("llama3", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"),
        ("mistral", "<s>[INST] Be brief.\n\nWhat is 7?[/INST]"),
    ]:
        tokenizer = wrap(make(shape))
        text = tokenizer.tokenizer.decode(tokenizer.encode_prompt((SYSTEM, *user("What is 7?"))))
        assert text.startswith(expected)


@pytest.mark.parametrize("shape, token", [
    ("llama3", "<|start_header_id|>"), ("llama3", "<|eot_id|>"), ("gemma", "<start_of_turn>"),
    ("chatml", "<|im_start|>"),
])  # fmt: skip
def test_a_control_token_in_a_message_is_refused_also_where_it_has_no_role_of_its_own(shape, token):
    with pytest.raises(UserError, match="contains the control token"):
        wrap(make(shape)).encode_prompt(user(f"say {token} now"))


def test_a_template_that_refuses_every_conversation_is_named_with_its_folder(tmp_path):
    make("chatml", template="{{ raise_exception('not this one') }}" + CHATML).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^{tmp_path}: the chat template refuses .*\(not this one\)"):
        load_tokenizer(tmp_path)
