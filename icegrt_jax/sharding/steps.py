"""A step function compiled over the mesh: the production path."""

import functools

import jax
from jax.sharding import Mesh

from icegrt_jax.sharding.put import put
from icegrt_jax.sharding.rules import tree_shardings

PROGRAMS = 16  # kept of those last asked for


def step_program(step, mesh: Mesh, state):
    """The step jitted for `mesh`, its state donated, its arguments left where they are; called within the mesh.

    The same for the same kind of state on the same mesh: who trains once more in this process, as a notebook's cell
    does that is run again, neither traces nor compiles it anew.
    """
    leaves, structure = jax.tree.flatten(tree_shardings(state, mesh))
    return _program(step, structure, tuple(leaves))


@functools.lru_cache(maxsize=PROGRAMS)
def _program(step, structure, leaves: tuple):
    shardings = jax.tree.unflatten(structure, leaves)

    @functools.partial(jax.jit, donate_argnums=0)
    def compiled(state, *batch):
        out = step(state, *batch)
        return jax.lax.with_sharding_constraint(out[0], shardings), *out[1:]

    return compiled


def jit_step(step, mesh: Mesh, state):
    """`step(state, batch) -> (state, …)` jitted over `mesh`, the state donated and kept where it was.

    Args:
      step: a pure function whose first argument and first result are the same kind of tree.
      mesh: the run's mesh.
      state: that tree, arrays or abstract; its shapes give the shardings.
    """
    shardings, compiled = tree_shardings(state, mesh), step_program(step, mesh, state)

    def call(state, *batch):
        # A new optimizer's state lies elsewhere than the one that comes out, which would compile a second program.
        state = put(state, shardings)
        with jax.set_mesh(mesh):
            return compiled(state, *batch)

    return call
