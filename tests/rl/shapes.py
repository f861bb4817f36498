"""The functions of `icegrt_jax.rl` with their annotations checked at every call, dtypes and shapes of jaxtyping.

The package itself never imports jaxtyping: its annotations are text, which is read here.
"""

import functools
import importlib
import pkgutil
import types
import typing

from icegrt_jax import rl

try:
    import beartype
    import jaxtyping
except ImportError:  # of the extra `test`; `test_shapes.py` is skipped then
    jaxtyping = None

checking = True
MODULES = [importlib.import_module(f"icegrt_jax.rl.{module.name}") for module in pkgutil.iter_modules(rl.__path__)]


def hints(fn) -> dict:
    """The annotations of a function as objects."""
    return typing.get_type_hints(fn, {**vars(jaxtyping), **fn.__globals__}, include_extras=True)


def checked(fn):
    """`fn`, refusing arguments and results that are not what its annotations say, while `checking`."""
    copy = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__kwdefaults__, copy.__annotations__, copy.__module__ = fn.__kwdefaults__, hints(fn), fn.__module__
    conf = beartype.BeartypeConf(is_pep484_tower=True)  # an int is a float
    strict = jaxtyping.jaxtyped(copy, typechecker=beartype.beartype(conf=conf))

    @functools.wraps(fn)
    def call(*args, **kwargs):
        return (strict if checking else fn)(*args, **kwargs)

    return call


def ours(owner) -> dict[str, types.FunctionType]:
    """The plain functions in a module or class that were written in `icegrt_jax.rl`."""
    return {
        name: value
        for name, value in vars(owner).items()
        if isinstance(value, types.FunctionType) and value.__module__.startswith("icegrt_jax.rl")
    }


def methods() -> dict[str, tuple[type, types.FunctionType]]:
    """Those written out in the classes of `icegrt_jax.rl`; dataclasses make others, which take trees of anything."""
    classes = [value for value in vars(rl).values() if isinstance(value, type)]
    return {
        f"{owner.__name__}.{name}": (owner, fn)
        for owner in classes
        for name, fn in ours(owner).items()
        if name == "update"
    }


def check_all() -> None:
    """Puts the checked functions where the modules, and whoever imports from now on, find them."""
    if jaxtyping is None:
        return
    strict = functools.cache(checked)
    for module in (rl, *MODULES):
        for name, fn in ours(module).items():
            setattr(module, name, strict(fn))
    for owner, fn in methods().values():
        setattr(owner, fn.__name__, strict(fn))
