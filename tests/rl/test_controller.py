import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.rl import AdaptiveKL

from . import references


def test_a_hand_worked_update():
    # KL 6.6 is 10 % over the target: 0.1 * (1 + 0.1 * 256 / 1024) = 0.1025.
    controller = AdaptiveKL.create(0.1, target=6.0, horizon=1024.0)
    np.testing.assert_allclose(controller.update(jnp.float32(6.6), 256).kl_coef, 0.1025, rtol=1e-6)


@pytest.mark.parametrize("kl", [-1.0, 0.0, 5.5, 6.0, 6.3, 60.0])
def test_updates_equal_the_reference(kl):
    controller = AdaptiveKL.create(0.15, target=6.0, horizon=1000.0)
    expected = references.adaptive_kl(0.15, kl, 64, 6.0, 1000.0)
    np.testing.assert_allclose(controller.update(jnp.float32(kl), jnp.int32(64)).kl_coef, expected, rtol=1e-5)


def test_the_coefficient_rises_above_the_target_and_falls_below():
    controller = AdaptiveKL.create(0.1, target=6.0, horizon=1000.0)
    assert controller.update(jnp.float32(6.1), 10).kl_coef > controller.kl_coef
    assert controller.update(jnp.float32(5.9), 10).kl_coef < controller.kl_coef
    assert controller.update(jnp.float32(6.0), 10).kl_coef == controller.kl_coef


def test_the_error_is_clipped_to_a_fifth():
    controller = AdaptiveKL.create(0.1, target=6.0, horizon=1000.0)
    far, at_limit = (controller.update(jnp.float32(kl), 100).kl_coef for kl in (1e6, 7.2))
    np.testing.assert_allclose([far, at_limit], 0.1 * 1.02, rtol=1e-6)


def test_a_fixed_coefficient_never_moves():
    controller = AdaptiveKL.create(0.0, adaptive=False)
    assert controller.update(jnp.float32(100.0), 10_000_000) is controller


def test_the_controller_is_state_under_jit():
    controller = AdaptiveKL.create(0.1, target=6.0, horizon=1000.0)
    assert [leaf.dtype for leaf in jax.tree.leaves(controller)] == [jnp.float32]
    updated = jax.jit(lambda controller, kl: controller.update(kl, 10), donate_argnums=0)(controller, jnp.float32(9.0))
    np.testing.assert_allclose(updated.kl_coef, 0.1002, rtol=1e-6)
    assert jax.tree.structure(updated) == jax.tree.structure(controller)


def test_impossible_settings_are_refused():
    for settings in ({"kl_coef": 0.0}, {"kl_coef": 0.1, "target": 0.0}, {"kl_coef": 0.1, "horizon": -1.0}):
        with pytest.raises(ValueError, match="needs all three above 0"):
            AdaptiveKL.create(**settings)
    with pytest.raises(ValueError, match="use a horizon above 100"):
        AdaptiveKL.create(0.1, horizon=100.0).update(jnp.float32(0.0), 500)
