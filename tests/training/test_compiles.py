"""The counter of compiled programs."""

import jax
import jax.numpy as jnp

from icegrt_jax.training.compiles import Compiles


def test_a_new_shape_is_a_new_program_and_a_known_one_is_not():
    double = jax.jit(lambda x: 2 * x)
    inputs = jnp.ones(3), jnp.ones(4)
    compiles = Compiles()
    double(inputs[0])
    assert compiles.programs == 1 and compiles.seconds > 0
    double(inputs[0])
    assert compiles.programs == 1
    double(inputs[1])
    assert compiles.programs == 2
    assert str(compiles).startswith("2 programs compiled in ")
    compiles.close()
    double(jnp.ones(5))
    assert compiles.summary()["programs"] == 2
