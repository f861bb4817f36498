import collections
import copy
import functools
import re
import threading

import numpy as np
import pytest

from icegrt_jax.data import chat
from icegrt_jax.data.encode import fit_prompts
from icegrt_jax.data.host_share import Share
from icegrt_jax.data.pipeline import mixture, prompt_batches, ranking_batches, sft_batches
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user
from icegrt_jax.data.tokenizers import ChatTokenizer, train_bpe, wrap
from icegrt_jax.data.trees import sequences_of
from icegrt_jax.errors import UserError
from icegrt_jax.rl import ranked_pairs, same_responses
from tests.hosts.meetings import on_hosts

WORDS = ["cat", "hat", "mat", "rat", "bat"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(WORDS * 9, 280, tmp_path_factory.mktemp("tokenizer"))


def instruction(i, answer=None):
    return Instruction((*user(f"say {i}"), {"role": "assistant", "content": answer or WORDS[i % 5] * (1 + i % 4)}))


INSTRUCTIONS = [instruction(i) for i in range(60)]
OTHERS = [instruction(i) for i in range(100, 140)]
PROMPTS = [Prompt(user(f"say {i} " + "cat " * (i % 3))) for i in range(20)]
RANKINGS = [
    Ranking(user("say a"), ("cat", "hat", "mat"), (1, 2, 2)),
    Ranking(user("say b"), ("rat", "bat"), (2, 1)),
]


def real_tokens(batch, row):
    return batch["tokens"][row][batch["mask"][row]].tolist()


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_a_mixture_gives_each_source_its_share_and_repeats_none_within_an_epoch():
    stream = mixture({"a": list(range(50)), "b": list(range(100, 110))}, {"a": 3, "b": 1}, seed=0)
    drawn = [stream[i] for i in range(2000)]
    assert abs(np.mean([x < 100 for x in drawn]) - 0.75) < 0.01
    first = [x for x in drawn if x < 100]
    assert sorted(first[:50]) == sorted(first[50:100]) == list(range(50))
    assert first[:50] != first[50:100]


def test_another_source_leaves_the_order_of_the_first_alone():
    alone = mixture({"a": list(range(50))}, {"a": 1}, seed=0)
    mixed = mixture({"a": list(range(50)), "b": [99]}, {"a": 1, "b": 1}, seed=0)
    assert [x for x in (mixed[i] for i in range(60)) if x != 99] == [alone[i] for i in range(30)]


def builders(tokenizer):
    sft = lambda **k: sft_batches({"a": INSTRUCTIONS, "b": OTHERS}, {"a": 1, "b": 2}, tokenizer, length=48, **k)
    prompt = lambda **k: prompt_batches({"a": PROMPTS}, {"a": 1}, tokenizer, max_prompt_length=32, **k)
    ranking = lambda **k: ranking_batches({"a": RANKINGS}, {"a": 1}, tokenizer, length=32, **k)
    return {"sft": sft, "prompt": prompt, "ranking": ranking}


@pytest.mark.parametrize("name", ["sft", "prompt", "ranking"])
def test_a_batch_depends_on_the_seed_and_the_step_alone(tokenizer, name):
    build = builders(tokenizer)[name]
    batches, again, other = build(batch_size=4, seed=1), build(batch_size=4, seed=1), build(batch_size=4, seed=2)
    late = again[17]  # asked for first, as after a resume
    assert same(batches[17], late) and same(batches[3], again[3])
    assert any(not same(batches[i], other[i]) for i in range(5))


@pytest.mark.parametrize("name", ["sft", "prompt", "ranking"])
@pytest.mark.parametrize("rows", [
    [[0, 1], [2, 3], [4, 5]],
    [[0, 3], [1, 4], [2, 5]],
    [[0, 1, 2], [0, 1, 2], [3, 4, 5]],
], ids=["in order", "interleaved", "two hosts with the same rows"])  # fmt: skip
def test_the_global_batch_is_the_same_on_any_number_of_hosts(tokenizer, name, rows, tmp_path):
    build = builders(tokenizer)[name]
    whole = build(batch_size=6, seed=0)
    parts = on_hosts(tmp_path, 3, lambda meeting: build(batch_size=6, seed=0, share=Share(
        meeting.index, 3, lambda size, own=rows[meeting.index]: own, meeting.exchange
    )))  # fmt: skip
    for step in (0, 5):
        for part, own in zip(parts, rows, strict=True):
            assert same(part[step], {key: value[own] for key, value in whole[step].items()})
    assert all(part.report == whole.report for part in parts)


@pytest.mark.parametrize("name", ["sft", "prompt", "ranking"])
def test_each_host_tokenises_its_share_of_the_records_only(tokenizer, name, tmp_path, monkeypatch):
    seen = collections.Counter()  # calls by thread, each of which plays a host

    def counted(original):
        def call(*args, **kwargs):
            seen[threading.get_ident()] += 1
            return original(*args, **kwargs)

        return call

    for method in ("encode_examples", "encode_prompt", "encode_answer"):
        monkeypatch.setattr(ChatTokenizer, method, counted(getattr(ChatTokenizer, method)))
    build = builders(tokenizer)[name]
    build(batch_size=2, seed=0)
    alone = seen.pop(threading.get_ident())
    rows = lambda size: range(size // 2)
    on_hosts(tmp_path, 2, lambda m: [build(batch_size=2, seed=0, share=Share(m.index, 2, rows, m.exchange))[3]])
    assert sum(seen.values()) == alone and max(seen.values()) <= 0.6 * alone


def test_packed_rows_hold_every_conversation_once_an_epoch(tokenizer):
    batches = sft_batches({"a": INSTRUCTIONS}, {"a": 1}, tokenizer, batch_size=1, length=64, seed=0)
    seen = []
    for step in range(batches.report["a"]["rows"]):
        row = {key: value[0] for key, value in batches[step].items()}
        for segment in range(1, row["segment_ids"].max() + 1):
            here = row["segment_ids"] == segment
            seen.append((row["tokens"][here].tolist(), row["loss_mask"][here].tolist()))
            assert row["positions"][here].tolist() == list(range(here.sum()))
        assert not row["loss_mask"][row["segment_ids"] == 0].any()
    assert sorted(seen) == sorted(tokenizer.encode_conversation(r.messages) for r in INSTRUCTIONS)
    assert batches.report["a"]["tokens"] == sum(len(ids) for ids, _ in seen)
    assert batches.report["a"]["targets"] == sum(sum(mask) for _, mask in seen)
    assert batches.report["a"]["rows"] < 30, "60 short conversations were hardly packed"


def test_weights_are_shares_of_tokens_when_rows_are_packed(tokenizer):
    long = [instruction(i, "cat hat " * 8) for i in range(60)]
    batches = sft_batches({"a": long, "b": OTHERS}, {"a": 1, "b": 1}, tokenizer, batch_size=20, length=128, seed=0)
    tokens = {"long": 0, "short": 0}
    for step in range(5):
        for row, segments in zip(batches[step]["tokens"], batches[step]["segment_ids"]):
            conversation = (row[segments == 1]).tolist()
            tokens["long" if len(conversation) > 30 else "short"] += (segments > 0).sum()
    assert 0.4 < tokens["long"] / sum(tokens.values()) < 0.6


def test_without_packing_a_row_is_one_conversation(tokenizer):
    batches = sft_batches({"a": INSTRUCTIONS}, {"a": 1}, tokenizer, batch_size=4, length=64, seed=0, packing=False)
    assert batches.report["a"]["rows"] == 60 and batches[0]["segment_ids"].max() == 1


def test_overlong_conversations_are_dropped_or_cut_and_counted(tokenizer):
    records = [instruction(1), instruction(2, "cat " * 40)]
    options = {"batch_size": 2, "length": 24, "seed": 0, "packing": False}
    dropped = sft_batches({"a": records}, {"a": 1}, tokenizer, overlong="drop", **options)
    assert {"records": 2, "kept": 1, "cut": 0, "dropped": 1}.items() <= dropped.report["a"].items()
    cut = sft_batches({"a": records}, {"a": 1}, tokenizer, overlong="cut", **options)
    assert {"records": 2, "kept": 1, "cut": 1, "dropped": 0}.items() <= cut.report["a"].items()
    assert sorted((cut[0]["segment_ids"] > 0).sum(axis=1))[1] == 24
    message = (
        "source 'a' has weight 1 and nothing in it: of its 1 records 1 do not fit 24 tokens or have nothing to learn"
        " within; set its weight to 0, fill it or allow more tokens."
    )
    with pytest.raises(UserError, match=re.escape(message)):
        sft_batches({"a": records[1:]}, {"a": 1}, tokenizer, overlong="drop", **options)


def test_every_token_of_a_long_text_but_the_first_is_a_target_once(tokenizer):
    text = Text("cat hat mat rat bat " * 10)
    ids = [*tokenizer.encode_text(text.text), tokenizer.eos_id]
    batches = sft_batches({"a": [text]}, {"a": 1}, tokenizer, batch_size=1, length=16, seed=0)
    rows = [batches[i] for i in range(batches.report["a"]["rows"])]
    targets = np.concatenate([row["tokens"][row["loss_mask"]] for row in rows])
    assert sorted(targets) == sorted(ids[1:])
    assert batches.report["a"]["split"] == 1


def test_prompts_are_left_padded_and_know_their_record(tokenizer):
    batches = prompt_batches(
        {"a": PROMPTS[:12], "b": PROMPTS[12:]}, {"a": 1, "b": 1}, tokenizer, batch_size=4, max_prompt_length=32, seed=0
    )
    for step in range(6):
        batch = batches[step]
        assert batch["tokens"].shape == (4, 32) and batch["tokens"].dtype == np.int32
        assert (np.diff(batch["mask"].astype(int), axis=1) >= 0).all() and batch["mask"][:, -1].all()
        for row, index in enumerate(batch["index"]):
            assert real_tokens(batch, row) == tokenizer.encode_prompt(PROMPTS[index].prompt)


@pytest.mark.parametrize(
    ("overlong", "counts", "width"),
    [
        ("drop", {"kept": 1, "over": 0, "cut": 0, "dropped": 2}, 24),
        ("cut", {"kept": 1, "over": 0, "cut": 1, "dropped": 1}, 24),
        ("keep", {"kept": 3, "over": 2, "cut": 0, "dropped": 0}, None),
    ],
)
def test_overlong_prompts_are_dropped_cut_or_kept_and_counted(tokenizer, overlong, counts, width):
    system = {"role": "system", "content": "cat hat " * 9}
    records = [Prompt(user("say a")), Prompt(user("é🙂" * 20 + " and say b")), Prompt((system, *user("say c")))]
    batches = prompt_batches(
        {"a": records}, {"a": 1}, tokenizer, batch_size=3, max_prompt_length=24, seed=0, overlong=overlong
    )
    assert counts.items() <= batches.report["a"].items() and batches.report["a"]["records"] == 3
    batch = batches[0]
    assert batch["tokens"].shape[1] == (width or max(len(tokenizer.encode_prompt(r.prompt)) for r in records))
    for row in np.flatnonzero(batch["index"] == 1):
        text = tokenizer.tokenizer.decode(real_tokens(batch, row))
        assert text.startswith("<|user|>") and text.endswith(" and say b<|end|><|assistant|>")
        assert "\ufffd" not in text


def test_rankings_hold_whole_conversations_and_mark_missing_answers(tokenizer):
    batch = ranking_batches({"a": RANKINGS}, {"a": 1}, tokenizer, batch_size=2, length=32, seed=0, starts=True)[0]
    assert batch["tokens"].shape == (2, 3, 32)
    three, two = np.argsort(-batch["valid"].sum(axis=1))
    assert batch["valid"][three].tolist() == [True] * 3 and batch["valid"][two].tolist() == [True, True, False]
    assert batch["ranks"][three].tolist() == [1, 2, 2] and batch["ranks"][two].tolist() == [2, 1, 2]
    for b, record in ((three, RANKINGS[0]), (two, RANKINGS[1])):
        for k, response in enumerate(record.responses):
            ids = [*tokenizer.encode_prompt(record.prompt), *tokenizer.encode_text(response), tokenizer.eos_id]
            last = batch["last"][b, k]
            assert batch["tokens"][b, k, : last + 1].tolist() == ids
            assert batch["start"][b, k] == len(tokenizer.encode_prompt(record.prompt))
            assert batch["mask"][b, k].tolist() == [i <= last for i in range(32)]
    assert batch["mask"].any(axis=-1).all(), "a row without tokens has no softmax"


def test_rankings_as_trees_hold_what_the_padded_rows_hold(tokenizer):
    build = functools.partial(
        ranking_batches, {"a": RANKINGS}, {"a": 1}, tokenizer, batch_size=2, length=32, seed=0, k=4
    )
    padded, trees = build()[0], build(trees=True)[0]
    assert trees["tokens"].shape == (2, 32) and trees["mask"].sum() < padded["mask"].sum() / 2
    for name in ("ranks", "valid"):
        np.testing.assert_array_equal(padded[name], trees[name])
    for b in range(2):
        rows = zip(padded["tokens"][b], padded["mask"][b], sequences_of(trees, b), strict=True)
        assert all(ids[mask].tolist() == read.tolist() for ids, mask, read in rows)


def test_rankings_are_no_trees_where_these_would_be_too_wide_or_more_is_read(tokenizer):
    long = [Ranking(user("say a"), tuple(f"{word} " * 15 for word in WORDS), (1, 2, 3, 4, 5))]
    build = functools.partial(ranking_batches, weights={"a": 1}, tokenizer=tokenizer, batch_size=1, length=32, seed=0)
    assert build({"a": RANKINGS}, trees=True)[0]["tokens"].ndim == 2
    assert build({"a": RANKINGS})[0]["tokens"].ndim == 3
    # 5 answers of 32 tokens have half as many pairs of tokens as one row of 101.
    batch = build({"a": long}, trees=True, overlong="cut")[0]
    assert batch["tokens"].shape == (1, 5, 32)
    assert build({"a": RANKINGS}, trees=True, starts=True)[0]["start"].shape == (1, 3)
    hosts = Share(0, 2, rows=range, exchange=lambda name, value: [value, [*value[:2], {}]])
    assert build({"a": RANKINGS * 2}, trees=True, share=hosts)[0]["tokens"].ndim == 3


def test_answers_that_do_not_fit_or_cannot_be_compared_are_counted(tokenizer):
    long = "cat " * 40
    records = [
        *RANKINGS,
        Ranking(user("say c"), ("cat", long, "mat"), (1, 2, 3)),
        Ranking(user("say d"), ("cat", long), (1, 2)),
        Ranking(user("say e"), ("cat", "hat"), (1, 1)),
    ]
    options = {"batch_size": 2, "length": 24, "seed": 0}
    report = ranking_batches({"a": records}, {"a": 1}, tokenizer, **options).report["a"]
    expected = {"records": 5, "kept": 3, "dropped": 1, "tied": 1, "answers_dropped": 2, "answers_beyond_k": 0}
    assert expected.items() <= report.items()
    report = ranking_batches({"a": records}, {"a": 1}, tokenizer, k=2, overlong="cut", **options).report["a"]
    expected = {"kept": 4, "dropped": 0, "tied": 1, "answers_cut": 2, "answers_beyond_k": 2}
    assert expected.items() <= report.items()


@pytest.fixture(scope="module")
def trimming(tokenizer):
    """The same tokenizer under a template that trims what is said, as Llama's does."""
    trimmed = copy.deepcopy(tokenizer.tokenizer)
    trimmed.chat_template = trimmed.chat_template.replace("message['content']", "message['content'] | trim")
    return wrap(trimmed)


SAME = {
    "equal texts": (("cat", "cat"), {}),
    "trimmed by the template": (("cat", " cat\n"), {}),
    "equal after a cut": (("cat " * 30 + "hat", "cat " * 30 + "mat"), {"overlong": "cut"}),
}


@pytest.mark.parametrize("case", SAME)
def test_answers_that_read_the_same_are_no_pair_and_are_counted(trimming, case):
    responses, options = SAME[case]
    records = [Ranking(user("say a"), responses, (1, 2)), *RANKINGS]
    report = ranking_batches(
        {"a": records}, {"a": 1}, trimming, batch_size=2, length=24, seed=0, **options
    ).report["a"]  # fmt: skip
    expected = {"records": 3, "kept": 2, "dropped": 0, "tied": 0, "identical": 1, "pairs_identical": 1}
    assert expected.items() <= report.items()


def test_of_several_answers_only_the_pair_that_reads_the_same_is_left_out(tokenizer):
    records = [
        Ranking(user("say a"), ("cat", "hat", "cat"), (1, 2, 3)),
        Ranking(user("say b"), ("cat", "cat", "hat"), (1, 1, 2)),  # a tie is no pair anyway
        Ranking(user("say c"), ("cat", "cat", "cat"), (1, 2, 2)),
    ]
    batches = ranking_batches({"a": records}, {"a": 1}, tokenizer, batch_size=2, length=24, seed=0)
    expected = {"kept": 2, "identical": 1, "tied": 0, "pairs_identical": 3}
    assert expected.items() <= batches.report["a"].items()
    batch = batches[0]
    pairs = ranked_pairs(batch["ranks"], batch["valid"], same_responses(batch["tokens"], batch["mask"]))
    first, second = np.argsort(-batch["ranks"].sum(axis=1))
    assert np.argwhere(pairs[first]).tolist() == [[0, 1], [1, 2]]
    assert np.argwhere(pairs[second]).tolist() == [[0, 2], [1, 2]]


def test_ranks_that_float32_cannot_tell_apart_stay_apart(tokenizer):
    records = [
        Ranking(user("say a"), ("cat", "hat"), (1e300, 2e300)),
        Ranking(user("say b"), ("cat", "hat"), (20261128.0, 20261129.0)),
        Ranking(user("say c"), ("cat", "hat", "mat"), (-7.5, 40.0, -7.5)),
    ]
    batches = ranking_batches({"a": records}, {"a": 1}, tokenizer, batch_size=3, length=24, seed=0)
    ranks, valid = batches[0]["ranks"], batches[0]["valid"]
    assert sorted(row[keep].tolist() for row, keep in zip(ranks, valid)) == [[1, 2], [1, 2], [1, 2, 1]]


def test_bad_options_say_what_is_expected(tokenizer):
    build = builders(tokenizer)
    for call, problem in [
        (lambda: mixture({"a": [1]}, {"b": 1}, 0), r"weights are given for \['b'\], sources are \['a'\]"),
        (lambda: mixture({"a": [1]}, {"a": -1}, 0), "weight of source 'a' is -1"),
        (lambda: mixture({"a": [1]}, {"a": 0}, 0), "all weights are 0"),
        (lambda: mixture({"a": []}, {"a": 1}, 0), "nothing in it"),
        (lambda: build["sft"](batch_size=0, seed=0), "batch_size=0; expected 1 or more"),
        (lambda: build["sft"](batch_size=4, seed=0, overlong="keep"), "overlong='keep'; expected one of drop, cut"),
    ]:
        with pytest.raises(UserError, match=problem):
            call()


@pytest.mark.parametrize("overlong", ["drop", "cut"])
def test_a_prompt_of_very_many_words_is_cut_as_one_of_many_and_never_encoded_whole(tokenizer, overlong, monkeypatch):
    many, longest = "say cat hat 7 " * 400, []
    expected = fit_prompts([Prompt(user(many))], tokenizer, 40, overlong)
    encode = chat.tokenize
    monkeypatch.setattr(chat, "tokenize", lambda of, text: longest.append(len(text)) or encode(of, text))
    assert fit_prompts([Prompt(user("hat " * 200_000 + many))], tokenizer, 40, overlong) == expected
    assert max(longest) < len(many)
