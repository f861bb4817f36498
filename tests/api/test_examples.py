"""`dir(ice)` is the API, and the examples in its docstrings give what they say."""

import doctest
import types

import jax
import jax.numpy as jnp
import pytest

import icegrt_jax as ice

NAMES = [name for name in ice.__all__ if name != "__version__"]


def examples(name):
    """The examples of a name, of a class those of its methods too."""
    thing = getattr(ice, name)
    if isinstance(thing, types.ModuleType):
        given = {"ice": ice, "jax": jax, "jnp": jnp}
        found = [doctest.DocTestParser().get_doctest(thing.__doc__, given, name, None, 0)]
    else:
        found = doctest.DocTestFinder().find(thing, name, globs={"ice": ice, "jax": jax, "jnp": jnp})
    return [test for test in found if test.examples]


def test_dir_lists_the_api_and_nothing_else():
    assert dir(ice) == sorted(ice.__all__) and len(set(dir(ice))) == len(ice.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ppoo'"):
        ice.ppoo  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_runs(name, here):
    tests = examples(name)
    assert name in {test.name for test in tests}, f"no example in the docstring of ice.{name}"
    for test in tests:
        result = doctest.DocTestRunner().run(test)
        assert result.failed == 0 and result.attempted
