"""Random rollouts for properties: rows of any length, of no token too, holes between turns where they may be."""

import numpy as np
import pytest

pytest.importorskip("hypothesis")  # of the extra `test`
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Few and the same examples at every run: a shape is compiled once, so all have one.
RANDOM = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
ROWS, LENGTH, GROUP = 6, 5, 3

numbers = st.floats(-4.0, 4.0, width=32, allow_subnormal=False)


def arrays(*shape: int, elements=numbers):
    """f32[shape] of numbers between -4 and 4."""
    size = int(np.prod(shape))
    return st.lists(elements, min_size=size, max_size=size).map(lambda x: np.array(x, np.float32).reshape(shape))


def lengths_mask(rows: int = ROWS, length: int = LENGTH):
    """bool[rows, length], right-padded rows of 0 to `length` tokens."""
    lengths = st.lists(st.integers(0, length), min_size=rows, max_size=rows)
    return lengths.map(lambda n: np.arange(length)[None, :] < np.array(n)[:, None])


def any_mask(rows: int = ROWS, length: int = LENGTH):
    """bool[rows, length], any of them."""
    return arrays(rows, length, elements=st.booleans()).map(lambda x: x > 0)


def flags(rows: int = ROWS):
    """bool[rows]."""
    return st.lists(st.booleans(), min_size=rows, max_size=rows).map(np.array)
