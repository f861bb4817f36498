"""Options as the functions of the API take them: a typed section, single keys or both, checked as those of a config."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from icegrt_jax.config.choices import OverlongPrompts
from icegrt_jax.config.convert import checked, with_values
from icegrt_jax.config.options import LengthOptions, MeshOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.runs.session import Session
from icegrt_jax.sharding.mesh import make_mesh

Section = TypeVar("Section")

REPLACED = {"sources": "with the data", "rewards": "reward"}  # keys, and what stands for them


def section(default: Section, given: Section | None, keys: Mapping[str, Any], group: str) -> Section:
    """The section that was given, or the default one, with some keys changed.

    Args:
      keys: as in the section; of a group in it a section or a dict.
      group: of the config, for errors.
    """
    for name, argument in REPLACED.items():
        if name in keys and hasattr(default, name):
            raise UserError(f"{name} is for configs; here it is the argument {argument}.")
    if given is not None and type(given) is not type(default):
        raise UserError(f"options={given!r:.80}; expected ice.options.{type(default).__name__}.")
    return with_values(checked(default if given is None else given, group), keys, group)


def given(default: Section, value: Section | Mapping[str, Any], group: str) -> Section:
    """A section that a caller gives whole, or as a dict of what differs from the default."""
    whole, changes = (None, value) if isinstance(value, Mapping) else (value, {})
    return section(default, whole, changes, group)


def named_weights(sources: Mapping[str, Sequence], weights: Mapping[str, float]) -> dict[str, float]:
    """The shares of the sources: as given, or all the same."""
    return dict(weights) if set(weights) & set(sources) else dict.fromkeys(sources, 1.0)


def lengths(max_prompt_length: int, max_response_length: int, overlong_prompts: OverlongPrompts) -> LengthOptions:
    """How long prompts and responses may be."""
    given = {"max_prompt_length": max_prompt_length, "max_response_length": max_response_length}
    return section(LengthOptions(), None, {**given, "overlong_prompts": overlong_prompts}, "")


def session(model: Model, seed: int, mesh: MeshOptions | Mapping, within: LengthOptions | None = None) -> Session:
    """Devices, keys and tokenizer of a training that starts from `model`."""
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"seed={seed!r}; expected a whole number.")
    options = given(MeshOptions(), mesh, "mesh")
    return Session(
        mesh=make_mesh(**dataclasses.asdict(options)),
        tokenizer=model.tokenizer,
        seed=seed,
        data_dir="",
        lengths=within or LengthOptions(),
        rollout_tensor=options.rollout_tensor,
    )


class Parameters:
    """A caller's parameters: every reader gets a copy of its own, for a training takes the arrays it is given.

    Args:
      donate: the first reader gets the arrays themselves, which the caller can then use no more.
    """

    def __init__(self, model: Model, donate: bool):
        self._params, self._donate = model.params, donate

    def take(self) -> dict:
        if self._donate:
            self._donate = False
            return jax.tree.map(jnp.asarray, self._params)
        return jax.tree.map(lambda x: jnp.array(x, copy=True), self._params)
