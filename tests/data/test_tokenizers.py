import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from icegrt_jax.data.records import user
from icegrt_jax.data.tokenizers import load_tokenizer, train_bpe, wrap
from icegrt_jax.errors import UserError

TEXTS = ["the cat sat on the mat", "a hat, a bat and 123 rats", "the end of the tale"] * 5
PROMPT = ({"role": "system", "content": "Be brief."}, *user("What is 12 + 7?"))
TURNS = (
    *PROMPT,
    {"role": "assistant", "content": "19."},
    *user("the cat\n?"),
    {"role": "assistant", "content": " é sat\n"},
)

# The turns' form of SmolLM2 and Qwen2: a system message where none is given, a line break after each end.
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<s><|im_start|>system\nHelp.<|im_end|>\n' }}{% else %}<s>{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_bpe(TEXTS, 300, tmp_path_factory.mktemp("tokenizer"))


def foreign(template=CHATML, **special):
    """A tokenizer of another make: it adds <s> by itself, its PAD is its EOS, its EOS isn't its end of turn."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    names = ["<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Line breaks merge with what follows, across the end of the generation prompt.
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["\nY\nY\nY", "\nYes\nYes"], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", **special}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", chat_template=template, **special)


def test_the_trained_tokenizer_gives_every_marker_one_token(trained):
    ids = trained.encode_prompt(PROMPT)
    markers = trained.tokenizer.convert_tokens_to_ids(["<|system|>", "<|end|>", "<|user|>", "<|assistant|>"])
    assert [i for i in ids if i in markers] == [*markers[:3], markers[1], markers[3]]
    assert ids[0] == markers[0] and ids[-1] == markers[3]
    assert trained.eos_ids == (markers[1],) and trained.pad_id not in trained.eos_ids


def test_a_conversation_is_the_prompt_then_the_sampled_response_then_eos(trained):
    for response in ["19.", " leading space", "two\nlines\n", "é🙂"]:
        ids, mask = trained.encode_conversation((*PROMPT, {"role": "assistant", "content": response}))
        prompt, sampled = trained.encode_prompt(PROMPT), [*trained.encode_text(response), trained.eos_id]
        assert ids == prompt + sampled
        assert mask == [False] * len(prompt) + [True] * len(sampled)
        assert trained.decode(sampled) == response


def test_the_mask_covers_every_assistant_turn_with_its_end(trained):
    ids, mask = trained.encode_conversation(TURNS)
    targets = [i for i, m in zip(ids, mask) if m]
    assert trained.tokenizer.decode(targets) == "19.<|end|> é sat\n<|end|>"
    assert len(ids) == len(mask) and mask[-1]


def test_a_foreign_template_gets_the_same_mask_and_no_second_bos():
    tokenizer = wrap(foreign())
    ids, mask = tokenizer.encode_conversation(TURNS)
    targets = [i for i, m in zip(ids, mask) if m]
    assert tokenizer.tokenizer.decode(targets) == "19.<|im_end|> é sat\n<|im_end|>"
    # Cut after the end of the turn: the template's line break after it can't be sampled.
    assert mask[-1] and ids[-1] == tokenizer.eos_id
    assert ids.count(0) == 1 and tokenizer.encode_prompt(PROMPT).count(0) == 1
    assert tokenizer.encode_prompt(user("a"))[0] == 0


def test_an_answer_is_not_merged_with_the_generation_prompt_as_the_sampler_is_not_given_that():
    tokenizer = wrap(foreign())
    messages = (*user("a"), {"role": "assistant", "content": "Yes"})
    ids, mask = tokenizer.encode_conversation(messages)
    prompt = tokenizer.encode_prompt(user("a"))
    in_one = tokenizer.encode_text(tokenizer.tokenizer.apply_chat_template(list(messages), tokenize=False))
    assert in_one[: len(prompt)] != prompt, "the merge this test is about doesn't happen"
    assert ids[: len(prompt)] == prompt and mask == [i >= len(prompt) for i in range(len(ids))]
    assert tokenizer.tokenizer.decode(ids[len(prompt) :]) == "Yes<|im_end|>"
    assert tokenizer.encode_answer(user("a"), "Yes") == (ids, len(prompt))


def test_every_token_that_ends_a_response_is_an_eos_and_pad_is_none_of_them():
    tokenizer = wrap(foreign())
    names = tokenizer.tokenizer.convert_ids_to_tokens(list(tokenizer.eos_ids))
    assert names == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.pad_id == 0 and tokenizer.pad_id not in tokenizer.eos_ids


def test_training_and_loading_give_the_same_tokenizer(trained, tmp_path):
    train_bpe(iter(TEXTS), 300, tmp_path)
    train_bpe(TEXTS, 300, tmp_path / "again")
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    trained.save(tmp_path / "copy")
    assert load_tokenizer(tmp_path / "copy").encode_conversation(TURNS) == trained.encode_conversation(TURNS)


def test_digits_stand_alone(trained):
    assert len(trained.encode_text("123")) == 3


def test_what_cannot_be_trained_with_says_why(tmp_path, trained):
    with pytest.raises(UserError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="needs 261 or more"):
        train_bpe(TEXTS, 200, tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        wrap(foreign(template=None))
    with pytest.raises(UserError, match="no EOS token"):
        wrap(foreign("{% for m in messages %}{{ m['content'] }}{% endfor %}", eos_token=None, pad_token=None))
    with pytest.raises(UserError, match="stopping cannot be learned"):
        wrap(foreign("{% for m in messages %}{{ m['content'] }}{% endfor %}")).encode_conversation(TURNS)
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="rewrites earlier turns"):
        wrap(foreign(rewriting)).encode_conversation(TURNS)
    with pytest.raises(UserError, match=r"control token '<\|end\|>'"):
        trained.encode_prompt(user("say <|end|> now"))
