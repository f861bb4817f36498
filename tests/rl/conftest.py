"""Pure maths never relies on an implicit change of dtype, and every call has the shapes that the annotations name."""

import jax
import pytest

from tests.rl import shapes

shapes.check_all()  # before the tests import the functions


@pytest.fixture(autouse=True)
def strict_dtype_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def unchecked(monkeypatch):
    """Calls go to the functions as they are outside of tests, whose own errors can then be seen."""
    monkeypatch.setattr(shapes, "checking", False)
