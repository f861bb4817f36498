"""Masks and prompts under the template shapes of published models."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.encode import encode_prompt, fit_examples, fit_prompts, fit_rankings
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
    "r1": ("It is 7.<\uff5cend\uff5c>", "Yes.\nIt is odd.<\uff5cend\uff5c>"),
    "command_r": ("It is 7.<|END_OF_TURN_TOKEN|>", "Yes.\nIt is odd.<|END_OF_TURN_TOKEN|>"),
    "qwen35": ("\n</think>\n\nIt is 7.<|im_end|>", "\n</think>\n\nYes.\nIt is odd.<|im_end|>"),
    "qwen3": ("<think>\n\n</think>\n\nIt is 7.<|im_end|>", "<think>\n\n</think>\n\nYes.\nIt is odd.<|im_end|>"),
}


THINKS = ("qwen3", "qwen35")  # they write earlier turns without thoughts


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


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in THINKS])
def test_a_template_that_only_appends_gives_one_example(shape):
    tokenizer = wrap(make(shape))
    assert tokenizer.encode_examples(TURNS) == [tokenizer.encode_conversation(TURNS)]
    assert fit_examples([Instruction(TURNS)], tokenizer, 500, "drop")[1] == dict(kept=1, cut=0, dropped=0, split=0)


@pytest.mark.parametrize("lead", ["\n", "\n\n", " ", " \n", "\n \n\n"])
@pytest.mark.parametrize("shape", SHAPES)
def test_prompt_and_answer_share_no_token(shape, lead):
    tokenizer = wrap(make(shape))
    said = [{"role": "assistant", "content": lead + text} for text in ("It is 7.", "Yes.")]
    messages = (*user("What is 7?"), said[0], *user("Is 7 odd?"), said[1])
    examples = tokenizer.encode_examples(messages)
    found = [span for ids, mask in examples for span in spans(tokenizer, ids, mask)]
    prompts = [tokenizer.encode_prompt(messages[:1]), tokenizer.encode_prompt(messages[:3])]
    assert sorted(ids for ids, _ in found) == sorted(prompts)
    said_after = {tuple(ids): text for ids, text in found}
    assert "It is 7." in said_after[tuple(prompts[0])] and "Yes." in said_after[tuple(prompts[1])]
    # What is scored is what was trained on, whole and unfinished.
    whole, start = tokenizer.encode_answer(messages[:3], said[1]["content"])
    assert whole == examples[0][0] and whole[:start] == prompts[1]
    part, start = tokenizer.encode_answer(messages[:3], said[1]["content"], finished=False)
    assert part == whole[: len(part)] and part[:start] == prompts[1] and not set(part[start:]) & set(tokenizer.eos_ids)


def test_a_line_break_behind_a_line_break_is_a_token_of_its_own():
    # Both in one token are what the tokenizer makes of the whole text, and what the sampler never gives.
    tokenizer = wrap(make("qwen35"))
    text = tokenizer.tokenizer.apply_chat_template(list(TURNS[:2]), tokenize=False)
    ids, mask = tokenizer.encode_conversation(TURNS[:2])
    at, (double,) = mask.index(True), tokenizer.encode_text("\n\n")
    assert tokenizer.encode_text(text)[at - 1] == double
    assert ids[at - 1 : at + 1] == 2 * tokenizer.encode_text("\n") and tokenizer.tokenizer.decode(ids) in text


def sentencepiece(scheme):
    """A BPE that marks spaces as SentencePiece does, and puts one in front of a text or of each part of it."""
    bpe = Tokenizer(models.BPE())
    if scheme == "normalizer":  # Llama 2
        bpe.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    names = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=names, show_progress=False)
    bpe.train_from_iterator(["assistant\n\nYes\n\n\n", "user What? system Help.", "\nYes"] * 3, trainer)
    return wrap(PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=CHATML))


@pytest.mark.parametrize("answer", ["Yes", "\nYes", "\n\nYes"])
@pytest.mark.parametrize("scheme", ["always", "first", "normalizer"])
def test_no_space_gets_between_prompt_and_answer_where_a_tokenizer_puts_one_in_front_of_a_text(scheme, answer):
    tokenizer = sentencepiece(scheme)
    messages = (*user("What?"), {"role": "assistant", "content": answer})
    prompt, (ids, mask) = tokenizer.encode_prompt(messages[:1]), tokenizer.encode_conversation(messages)
    in_one = tokenizer.encode_text(tokenizer.tokenizer.apply_chat_template(list(messages), tokenize=False))
    assert in_one[: len(prompt)] != prompt, "the merge this test is about doesn't happen"
    assert ids[: len(prompt)] == prompt and mask.index(True) == len(prompt)
    decode = tokenizer.tokenizer.decode
    assert decode(ids) == decode(in_one).rstrip() and decode(ids).endswith(f"assistant\n{answer}<|im_end|>")
    assert tokenizer.encode_answer(messages[:1], answer) == (ids, len(prompt))
    assert tokenizer.encode_answer(messages[:1], answer, finished=False) == (ids[:-1], len(prompt))


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
