import numpy as np

from icegrt_jax.data.packing import Example, left_pad, pack, right_pad


def test_packing_by_hand():
    examples = [Example([1, 2, 3], [False, True, True]), Example([4, 5, 6, 7], [True] * 4), Example([8], [False])]
    first, second = pack(examples, length=5, pad_id=9)
    assert first["tokens"].tolist() == [1, 2, 3, 8, 9]
    assert first["segment_ids"].tolist() == [1, 1, 1, 2, 0]
    assert first["positions"].tolist() == [0, 1, 2, 0, 0]
    assert first["loss_mask"].tolist() == [False, True, True, False, False]
    assert second["tokens"].tolist() == [4, 5, 6, 7, 9]
    # 4 is the first token of its example: nothing predicts it.
    assert second["loss_mask"].tolist() == [False, True, True, True, False]


def test_packing_keeps_every_token_once_within_its_example():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 500)
    examples = [Example(list(range(100 * i, 100 * i + n)), [True] * n) for i, n in enumerate(sizes)]
    rows = pack(examples, length=32, pad_id=-1, window=8)
    segments = [
        row["tokens"][row["segment_ids"] == s].tolist() for row in rows for s in range(1, row["segment_ids"].max() + 1)
    ]
    assert sorted(segments) == [example.ids for example in examples]
    assert np.mean([row["segment_ids"] > 0 for row in rows]) > 0.85
    assert all((row["tokens"] == -1).tolist() == (row["segment_ids"] == 0).tolist() for row in rows)


def plain_rows(sizes, order, length, window):
    """Which examples share a row: first fit over lists; the fullest of the open rows makes room."""
    done, rows = [], []
    for place in order:
        fits = [row for row in rows if sum(sizes[i] for i in row) + sizes[place] <= length]
        if not fits and len(rows) == window:
            fullest = max(rows, key=lambda row: sum(sizes[i] for i in row))  # the earliest opened of several
            rows = [row for row in rows if row is not fullest]
            done.append(fullest)
        if not fits:
            rows.append([])
        (fits or rows[-1:])[0].append(place)
    return done + rows


def test_rows_are_those_of_first_fit_over_plain_lists_in_the_order_given():
    rng = np.random.default_rng(3)
    for window in [1, 2, 5, 64] * 25:
        length, count = int(rng.integers(2, 40)), int(rng.integers(0, 50))
        sizes, order = rng.integers(1, length + 1, count).tolist(), rng.permutation(count).tolist()
        examples = [Example([100 * i + j for j in range(n)], [True] * n) for i, n in enumerate(sizes)]
        rows = pack(examples, length, -1, window, sizes=sizes, order=order)
        expected = plain_rows(sizes, order, length, window)
        assert [row["tokens"][row["tokens"] >= 0].tolist() for row in rows] == [
            [token for i in places for token in examples[i].ids] for places in expected
        ]
        ends = [row["segment_ids"].max() for row in rows]
        assert ends == [len(places) for places in expected]


def test_a_window_of_one_keeps_the_order():
    examples = [Example([i] * 3, [True] * 3) for i in range(6)]
    rows = pack(examples, length=7, pad_id=9, window=1)
    assert [row["tokens"].tolist() for row in rows] == [[i, i, i, i + 1, i + 1, i + 1, 9] for i in (0, 2, 4)]


def test_padding_goes_left_or_right():
    tokens, mask = left_pad([[1, 2], [3, 4, 5]], 4, pad_id=9)
    assert tokens.tolist() == [[9, 9, 1, 2], [9, 3, 4, 5]]
    assert mask.tolist() == [[False, False, True, True], [False, True, True, True]]
    tokens, mask = right_pad([[1, 2], [3, 4, 5]], 4, pad_id=9)
    assert tokens.tolist() == [[1, 2, 9, 9], [3, 4, 5, 9]]
    assert mask.tolist() == [[True, True, False, False], [True, True, True, False]]
