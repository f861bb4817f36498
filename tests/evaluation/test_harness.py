"""Trees of sequences in rows, and stop strings in tables."""

import random

import numpy as np
import pytest

from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.evaluation.harness import forest, generate, score, stops


def some_requests(seed=0):
    """Contexts with several ends, half of them behind one long beginning; two are equal, one has 20 ends."""
    draw = random.Random(seed)
    ids = lambda count: [draw.randrange(50) for _ in range(count)]
    beginning, pairs = ids(200), []
    for _ in range(30):
        context = (beginning if draw.random() < 0.5 else []) + ids(draw.randrange(1, 60))
        pairs += [(context, ids(draw.randrange(1, 6))) for _ in range(draw.randrange(1, 5))]
    pairs += [pairs[0], *(([1, 2], [token]) for token in range(20))]
    return pairs, [score.request(*pair, 230) for pair in pairs]


def read_as_the_model_does(row):
    """What each token of a row sees, itself included, as the mask of `tree_hidden` says, and its position."""
    for place in range(len(row.tokens)):
        seen = [i for i in range(place + 1) if place < row.ends[i]]
        yield [row.tokens[i] for i in seen], [row.positions[i] for i in seen]


@pytest.mark.parametrize("batch", [256, 4096])
def test_every_token_of_a_row_sees_its_own_sequence_and_nothing_else(batch):
    pairs, requests = some_requests()
    planned = forest.plan(requests, batch=batch, pair_cost=1e-3)
    found = set()
    for width, rows in planned.items():
        for row in rows:
            assert len(row.tokens) <= width
            seen = list(read_as_the_model_does(row))
            assert all(positions == list(range(len(tokens))) for tokens, positions in seen)
            for number, where in row.where:
                found.add(number)
                (context, continuation), expected = pairs[number], requests[number]
                assert [row.targets[slot][which] for slot, which in where] == continuation
                for i, (slot, _) in enumerate(where):
                    read = (context + continuation)[-231:]
                    assert seen[row.slots[slot]][0] == read[: len(read) - len(continuation) + i]
                assert seen[row.slots[where[-1][0]]][0] == list(expected.ids)
    assert found == set(range(len(requests)))


def test_what_sequences_begin_with_alike_is_read_once():
    _, requests = some_requests()
    rows = [row for rows in forest.plan(requests, batch=4096, pair_cost=1e-3).values() for row in rows]
    assert 2 * sum(len(row.tokens) for row in rows) < sum(len(request.ids) for request in requests)


def test_a_long_context_is_cut_on_the_left():
    request = score.request(range(10), [20, 21], 5)
    assert request.ids == (6, 7, 8, 9, 20) and request.targets == (20, 21)


def test_few_widths_hold_prompts_of_any_length():
    assert [generate.width_of(length) for length in (1, 32, 33, 48, 49, 97, 130)] == [32, 32, 48, 48, 64, 128, 192]


STOPS = ["\n\n", "Question:", "</s>", "<|user|>", "s", "é!"]


def test_a_stop_string_is_found_where_the_decoded_text_has_it(tmp_path):
    """However it is cut into tokens, those of other strings and control tokens among them."""
    tokenizer = train_bpe(["Question: a quest\n\nQuest ion: </s> x é! "] * 9, 300, tmp_path).tokenizer
    texts = stops.token_texts(tokenizer, len(tokenizer) + 5)
    draw, pieces = random.Random(0), ["a ", "\n", "Quest", "ion:", "Question", " </", "s>", "<|user|>", "é", "!", "é!"]
    for chosen in (STOPS, STOPS[:2], STOPS[3:4], [""]):
        table, hits = stops.table(texts, chosen), 0
        for _ in range(40):
            ids = [i for _ in range(8) for i in tokenizer(draw.choice(pieces), add_special_tokens=False)["input_ids"]]
            written = [tokenizer.decode(ids[: n + 1], skip_special_tokens=False) for n in range(len(ids))]
            expected = next((n for n, text in enumerate(written) if any(s and s in text for s in chosen)), None)
            states = [0]
            for token in ids:
                states.append(table[states[-1], token])
            found = np.flatnonzero(np.array(states[1:]) == len(table) - 1)
            assert (found[0] if found.size else None) == expected
            hits += expected is not None
        assert (hits > 0) == (chosen != [""])


def test_a_text_ends_before_the_first_of_its_stop_strings():
    assert stops.cut("a. b\n\nc", ["\n", ".", ""]) == "a" and stops.cut("a", ["b"]) == "a"
