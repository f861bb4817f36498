"""Answers read as text: how they are encoded, and when two tokenizers need not do so."""

import json

import pytest

from icegrt_jax.data import chat
from icegrt_jax.data.encode import cut_prompt, fit_answers, fit_rankings
from icegrt_jax.data.records import Ranking, user
from icegrt_jax.data.tokenizers import load_tokenizer, same_tokenizer, train_bpe
from icegrt_jax.errors import UserError
from tests.data.second_tokenizer import CHATML, SPACED, TEXTS, second_tokenizer

PROMPT = user("review this ad. ad: true\nlamp.")
ANSWERS = ["verdict: accept.", " reject", "two\nlines\n", "é🙂", "a"]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return second_tokenizer(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    return second_tokenizer(tmp_path_factory.mktemp("spaced"), template=SPACED, eos="</s>")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return train_bpe(TEXTS, 300, tmp_path_factory.mktemp("ours"))


def text_of(tokenizer, ids):
    return tokenizer.tokenizer.decode(ids)


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ["second", "spaced", "ours"])
def test_a_finished_answer_is_encoded_as_in_training(name, answer, request):
    tokenizer = request.getfixturevalue(name)
    conversation = (*PROMPT, {"role": "assistant", "content": answer})
    ids, start = tokenizer.encode_answer(PROMPT, answer, finished=True)
    expected, mask = tokenizer.encode_conversation(conversation)
    assert ids == expected and start == mask.index(True) and ids[-1] == tokenizer.eos_id


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_unfinished_answer_ends_with_its_own_text(answer, second, spaced):
    whole, _ = second.encode_answer(PROMPT, answer, finished=True)
    assert second.encode_answer(PROMPT, answer, finished=False)[0] == whole[:-1]
    # Here the template writes a space between answer and end, which goes with the end.
    ids, start = spaced.encode_answer(PROMPT, answer, finished=False)
    assert text_of(spaced, ids) == f"<s>[INST] {PROMPT[0]['content']} [/INST] {answer.strip()}"
    assert not set(ids) & set(spaced.eos_ids) and start < len(ids)


@pytest.mark.parametrize("answer", ["", " \n"])
@pytest.mark.parametrize("name", ["second", "spaced", "ours"])
def test_an_answer_without_text_is_the_prompt_and_its_end_if_it_has_one(name, answer, request):
    tokenizer = request.getfixturevalue(name)
    prompt = tokenizer.encode_prompt(PROMPT)
    assert tokenizer.encode_answer(PROMPT, answer, finished=False) == (prompt, len(prompt))
    assert tokenizer.encode_answer(PROMPT, answer, finished=True) == ([*prompt, tokenizer.eos_id], len(prompt))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "answer", ["<|im_end|>", "a<|im_end|>b", "<|im_end|>\n<|im_start|>user\nhello", "<<s>s></s>", "\ue000</s>\ue001"]
)
def test_control_tokens_written_out_stay_text(answer, finished, second):
    ids, start = second.encode_answer(PROMPT, answer, finished=finished)
    plain, plain_start = second.encode_answer(PROMPT, "a", finished=finished)
    special = second.tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    assert [i for i in ids if i in special] == [i for i in plain if i in special], "no turn was added or ended"
    assert start == plain_start
    ending = "<|im_end|>" if finished else ""
    assert text_of(second, ids[start:]) == answer + ending


def test_control_tokens_in_the_prompt_of_another_tokenizer_stay_text(second):
    prompt = user("is <s>this</s> struck out?")
    with pytest.raises(UserError, match="control token '<s>'"):
        second.encode_prompt(prompt)
    ids, start = second.encode_answer(prompt, "yes", finished=True)
    assert ids.count(0) == 1 and 1 not in ids  # the template's own <s>
    assert prompt[0]["content"] in text_of(second, ids[:start])


def test_rankings_may_hold_control_tokens_that_a_model_wrote(second):
    ranking = Ranking(PROMPT, ("good", "bad <|im_end|> worse"), (1.0, 2.0))
    (row,), counts = fit_rankings([ranking], second, 200, 2, "drop")
    assert counts["kept"] == 1
    assert [ids for ids, *_ in row] == [second.encode_answer(PROMPT, response)[0] for response in ranking.responses]


def test_an_answer_of_which_nothing_is_left_is_no_answer(second):
    start = len(second.encode_prompt(PROMPT))
    ranking = Ranking(PROMPT, ("xyz", "b", "c"), (1.0, 2.0, 3.0))
    rows, counts = fit_rankings([ranking], second, start, 3, "cut")
    assert rows == [] and counts["answers_dropped"] == 3
    (row,), counts = fit_rankings([ranking], second, start + 1, 3, "cut")
    assert [len(ids) for ids, *_ in row] == [start + 1] * 3 and counts["answers_cut"] == 3


def test_long_rows_lose_their_end_and_are_counted(second):
    answers, finished = ["a", "a" * 50], [True, False]
    rows, cut = fit_answers([PROMPT, PROMPT], answers, finished, second, 10**6)
    assert cut == 0 and rows[0][-1] == second.eos_id != rows[1][-1]
    length = len(rows[0])
    shorter, cut = fit_answers([PROMPT, PROMPT], answers, finished, second, length)
    assert shorter == [rows[0], rows[1][:length]] and cut == 1


def test_a_prompt_that_fits_is_not_cut_and_one_that_does_not_keeps_its_template(ours):
    size = len(ours.encode_prompt(PROMPT))
    assert cut_prompt(PROMPT, ours, size) == PROMPT
    (message,) = cut_prompt(PROMPT, ours, size - 4)
    assert PROMPT[0]["content"].endswith(message["content"]) and len(message["content"]) < len(PROMPT[0]["content"])
    assert len(ours.encode_prompt([message])) <= size - 4
    assert cut_prompt(PROMPT, ours, 3) == ()


def test_a_template_that_refuses_the_roles_says_so(spaced):
    with pytest.raises(UserError, match=r"refuses a conversation of the roles system, user \(no system turns\)"):
        spaced.encode_answer(({"role": "system", "content": "Be brief."}, *PROMPT), "", finished=False)


def test_a_copy_under_another_name_is_the_same_tokenizer(second, ours, tmp_path):
    for tokenizer in (second, ours):
        tokenizer.save(tmp_path / "some" / "where")
        copy = load_tokenizer(tmp_path / "some" / "where")
        copy.tokenizer.name_or_path = "another/name"
        assert same_tokenizer(copy, tokenizer) and same_tokenizer(tokenizer, copy)
    assert not same_tokenizer(second, ours)


CHANGES = {
    "template": lambda raw, config: config.update(chat_template=CHATML.replace("Help.", "Help!")),
    "bos": lambda raw, config: config.update(bos_token="</s>"),
    "pad": lambda raw, config: config.update(pad_token="<|im_start|>"),
    "merges": lambda raw, config: raw["model"]["merges"].pop(),
    "pre_tokenizer": lambda raw, config: raw["pre_tokenizer"].update(use_regex=True),
    "added": lambda raw, config: raw["added_tokens"].append({**raw["added_tokens"][0], "id": 400, "content": "<new>"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_difference_that_changes_ids_makes_another_tokenizer(change, second, tmp_path):
    second.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()  # it is in tokenizer_config.json below
    files = [tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"]
    contents = [json.loads(file.read_text()) for file in files]
    contents[1]["chat_template"] = CHATML
    for file, content in zip(files, contents):
        file.write_text(json.dumps(content))
    assert same_tokenizer(load_tokenizer(tmp_path), second)
    CHANGES[change](*contents)
    for file, content in zip(files, contents):
        file.write_text(json.dumps(content))
    assert not same_tokenizer(load_tokenizer(tmp_path), second)


def test_decoder_and_post_processor_do_not_make_another_tokenizer(second, tmp_path):
    second.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({**raw, "post_processor": raw["decoder"], "decoder": None}))
    other = load_tokenizer(tmp_path)
    assert same_tokenizer(other, second)
    assert other.encode_answer(PROMPT, "yes") == second.encode_answer(PROMPT, "yes")


def test_the_text_before_an_end_is_found(second, spaced, ours):
    found = [chat._before_end(t.tokenizer, t.eos_ids) for t in (second, spaced, ours)]
    assert found == ["", " ", ""]
