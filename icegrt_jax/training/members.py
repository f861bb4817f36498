"""Several reward models trained side by side: one state, one program, each with batches of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from icegrt_jax.models.members import Members, stacked
from icegrt_jax.sharding.constrain import constrain_batch
from icegrt_jax.training.state import TrainState

ROLE = "reward"
Update = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def together(states: Sequence[TrainState]) -> TrainState:
    """One state of the states of single models, which share all but what is trained."""
    first = states[0]
    own = Members(stacked([state.params[ROLE] for state in states]))
    opt_state = stacked([state.opt_state[ROLE] for state in states])
    return first.replace(params={**first.params, ROLE: own}, opt_state={**first.opt_state, ROLE: opt_state})


def each_member(update: Update) -> Update:
    """`update` of every member, one after another; the batch has their rows by turns (`data.pipeline.ranking_batches`).

    Returns:
      What gives the state and metrics: of each the mean over the members, `accuracy_spread`, between the best and the
      worst of them, and `skipped`, 1 where that of one was.
    """

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        members: Any = state.params[ROLE]
        batches = jax.tree.map(lambda x: _own(x, members.count), batch)

        def one(given: tuple[dict, Any, dict]):
            own, opt_state, batch = given
            params, opt_states = {**state.params, ROLE: own}, {**state.opt_state, ROLE: opt_state}
            new, metrics = update(state.replace(params=params, opt_state=opt_states), constrain_batch(batch))
            return (new.params[ROLE], new.opt_state[ROLE]), metrics

        (own, opt_state), metrics = jax.lax.map(one, (members.own, state.opt_state[ROLE], batches))
        params = {**state.params, ROLE: members.replace(own=own)}
        state = state.replace(step=state.step + 1, params=params, opt_state={**state.opt_state, ROLE: opt_state})
        spread = jnp.max(metrics["accuracy"]) - jnp.min(metrics["accuracy"])
        means = {name: jnp.mean(x) for name, x in metrics.items()}
        return state, {**means, "accuracy_spread": spread, "skipped": jnp.max(metrics["skipped"])}

    return step


def _own(x: jax.Array, count: int) -> jax.Array:
    """[B · M, ...] as [M, B, ...]: rows stay on their devices."""
    return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)
