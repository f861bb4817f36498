"""The coefficient of the KL penalty, fixed or steered towards a target KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import struct

from icegrt_jax.rl.checks import Given

if TYPE_CHECKING:
    from jaxtyping import Float, Num


class AdaptiveKL(struct.PyTreeNode):
    """KL coefficient as state: checkpointed with the run, updated once per rollout.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2:
    e = clip(kl / target - 1, -0.2, 0.2), kl_coef <- kl_coef * (1 + e * n / horizon),
    with n / horizon for the paper's constant, as in its code (openai/lm-human-preferences,
    `lm_human_preferences/train_policy.py`, `AdaptiveKLController`).
    """

    kl_coef: Float[jax.Array, ""]
    target: float = struct.field(pytree_node=False)  # KL of a whole response, in nats
    horizon: float = struct.field(pytree_node=False)  # responses over which the coefficient may move by 20 %
    adaptive: bool = struct.field(pytree_node=False)  # False: kl_coef never changes

    @classmethod
    def create(
        cls, kl_coef: float, *, target: float = 6.0, horizon: float = 2_000.0, adaptive: bool = True
    ) -> AdaptiveKL:
        """The controller at the start of a run."""
        if adaptive and not (kl_coef > 0 and target > 0 and horizon > 0):
            raise ValueError(
                f"kl_coef={kl_coef}, target={target}, horizon={horizon}: an adaptive coefficient needs all "
                "three above 0; use adaptive=False for a fixed one."
            )
        return cls(jnp.array(kl_coef, jnp.float32), target=target, horizon=horizon, adaptive=adaptive)

    def update(self, kl: float | Float[Given, ""], n: int | Num[Given, ""]) -> AdaptiveKL:
        """The controller after `n` responses whose KL, summed over tokens, averaged `kl`, f32[].

        `n` counts the responses of all devices.
        """
        if not self.adaptive:
            return self
        if isinstance(n, int) and n >= 5 * self.horizon:
            raise ValueError(
                f"{n} responses per update over a horizon of {self.horizon} can turn kl_coef negative; "
                f"use a horizon above {n // 5}."
            )
        error = jnp.clip(jnp.asarray(kl, jnp.float32) / self.target - 1.0, -0.2, 0.2)
        return self.replace(kl_coef=self.kl_coef * (1.0 + error * jnp.asarray(n, jnp.float32) / self.horizon))
