"""Sequences laid out as trees: each is read as if it stood alone, and what several begin with is there once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.trees import arrays, sequences_of, tree_of, widths_of

SEQUENCES = st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=7), min_size=1, max_size=6)


@given(st.lists(SEQUENCES, min_size=1, max_size=3))
def test_every_sequence_is_read_off_its_own_path(rows):
    laid_out = [tree_of(sequences) for sequences in rows]
    batch = arrays([tree for tree, _ in laid_out], 48, 0)
    for row, (sequences, (_, last)) in enumerate(zip(rows, laid_out, strict=True)):
        read = sequences_of({**batch, "last": [last] * len(rows)}, row)
        assert [ids.tolist() for ids in read] == sequences
        for ids, place in zip(sequences, last, strict=True):
            path = (np.arange(48) <= place) & (batch["ends"][row] > place)
            assert batch["positions"][row][path].tolist() == list(range(len(ids)))
        # A token for each beginning that there is, none twice; padding sees itself.
        beginnings = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
        assert batch["mask"][row].sum() == len(beginnings)
        assert (batch["ends"][row] == np.arange(1, 49))[~batch["mask"][row]].all()


def test_answers_take_their_prompt_once():
    prompt = list(range(10, 30))
    answers = [[*prompt, 4, 5], [*prompt, 4, 6, 7], [*prompt, 8]]
    tree, last = tree_of(answers)
    assert len(tree.tokens) == 20 + 5 and right_pad(answers, 23, 0)[0].size == 69
    assert last == [21, 23, 24]
    assert arrays([tree], 32, 0)["ends"][0, :25].tolist() == [25] * 20 + [24, 22, 24, 24, 25]


def test_few_widths_up_to_a_limit():
    assert widths_of(286) == [128, 192, 256] and widths_of(384) == [192, 256, 384]
    assert widths_of(64) == [32, 64] and widths_of(31) == []
