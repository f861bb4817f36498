"""One program of a run: what it is, and how it is lowered on abstract arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.plan.costs import Decoding
from icegrt_jax.sharding.steps import step_program
from icegrt_jax.training.state import TrainState

MASK = jnp.bool_
IDS = jnp.int32


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program of a run.

    Attributes:
      name: such as "ppo update".
      stage: whose it is.
      batch_key: the config key of its number of rows, "" where its memory does not depend on them; `rows`: what it is.
      lower: traces it.
      resident: abstract arrays that are on the devices while it runs, its arguments among them.
      params: the abstract parameters and optimizer states among them, for the checks.
      model: whose vocabulary its logits have; None without logits.
      block: rows whose logits are wanted at a time, all chips.
      length: tokens of a row that have logits.
      repeats: runs per PPO iteration, or per step of the stage; 0 for a program that runs once.
      weights: what a decode step computes with, abstract.
      decoding: how often the loops of a sampler run when every response has its full length; None for others.
    """

    name: str
    stage: str
    batch_key: str
    rows: int
    lower: Callable[[], jax.stages.Lowered]
    resident: Any
    params: Any
    model: ModelConfig | None
    block: int
    length: int
    repeats: int = 1
    weights: Any = None
    decoding: Decoding | None = None


def within(mesh: Mesh, jitted, *arguments, **static) -> Callable[[], jax.stages.Lowered]:
    """What lowers a jitted function under a mesh."""

    def lower():
        with jax.set_mesh(mesh):
            return jitted.lower(*arguments, **static)

    return lower


def lower_step(step, mesh: Mesh, state: TrainState, *arguments) -> Callable[[], jax.stages.Lowered]:
    """The same of an update step, compiled as the stages do."""
    return within(mesh, step_program(step, mesh, state), state, *arguments)


def held(state: TrainState) -> dict:
    """Parameters and optimizer states, named as in the table of shardings."""
    return {"params": state.params, "opt_state": state.opt_state}
