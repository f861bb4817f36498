"""The check before the first PPO update: the sampler and the trainer must agree on what was sampled.

At that moment the policy is the reference, so the ratio is 1 and the KL 0 up to the rounding of the
compute dtype. If not, one of the five usual causes is named; training on would optimise something else.
"""

import jax
import jax.numpy as jnp

from icegrt_jax.errors import UserError
from icegrt_jax.sampling import Rollout
from icegrt_jax.training.forward import response_logprobs
from icegrt_jax.training.microbatch import block_count, summed
from icegrt_jax.training.state import TrainState

# Largest mean |difference| per token of log-probs by two programs that compute the same thing.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
INT8_CACHE_TOLERANCE = 5e-2  # where the sampler keeps keys and values in int8


@jax.jit
def disagreement(state: TrainState, rollout: Rollout) -> dict[str, jax.Array]:
    """Mean |log-prob difference| per response token between sampler, policy and reference, and under suspicion.

    Returns:
      f32[] each: `trainer` (policy forward against sampler), `reference` (reference forward against
      sampler), `repeated` (policy forward against itself run again), `temperature` (policy at temperature 1
      against sampler), `no_mask` (policy reading padding as text against sampler).
    """
    total = jnp.maximum(jnp.sum(rollout.mask), 1)
    blocks = block_count(rollout.mask.shape[0], state.ppo.score_batch)
    return summed(lambda block: _shares(state, block, total), rollout, blocks)


def _shares(state: TrainState, rollout: Rollout, total: jax.Array) -> dict[str, jax.Array]:
    """The share of some rows in `disagreement`, of whose tokens there are `total`."""
    model, mask = state.model("policy"), rollout.mask

    def forward(role="policy", temperature=state.ppo.temperature, prompt_mask=rollout.prompt_mask):
        return response_logprobs(
            state.full(role), model, rollout.prompts, prompt_mask, rollout.responses, mask, temperature=temperature
        )[0]

    def distance(a, b):
        return jnp.sum(jnp.where(mask, jnp.abs(a - b), 0.0)) / total

    policy = forward()
    return {
        "trainer": distance(policy, rollout.logprobs),
        "reference": distance(forward("reference"), rollout.logprobs),
        "repeated": distance(policy, jax.lax.optimization_barrier(forward())),
        "temperature": distance(forward(temperature=1.0), rollout.logprobs),
        "no_mask": distance(forward(prompt_mask=jnp.ones_like(rollout.prompt_mask)), rollout.logprobs),
    }


def likely_cause(found: dict[str, float], tolerance: float) -> str:
    """The one of the five usual causes that fits the numbers of `disagreement` best."""
    if found["repeated"] > tolerance:
        return "dropout or another source of chance: the same forward pass twice gives two results"
    if found["trainer"] <= tolerance:
        return "weights not shared: the policy agrees with the sampler, the reference holds other weights"
    if found["temperature"] <= tolerance:
        return "temperature: the sampler's log-probs are those of temperature 1, the trainer's are not"
    if found["no_mask"] <= tolerance:
        return "mask: the sampler read the padding of the prompts as text"
    return "template or BOS: sampler and trainer read different tokens (or hold different weights)"


def check_first_rollout(
    state: TrainState, rollout: Rollout, *, cache_dtype: str = "compute", moved: bool = False
) -> dict[str, float]:
    """Raises UserError unless ratio = 1 and KL = 0 within tolerance; returns what was measured.

    Args:
      moved: the policy goes on from an earlier PPO, so that its KL is not 0.
    """
    tolerance = TOLERANCE[state.model("policy").dtype]
    if cache_dtype == "int8":
        tolerance = max(tolerance, INT8_CACHE_TOLERANCE)
    found = {name: float(x) for name, x in disagreement(state, rollout).items()}
    if not (found["trainer"] <= tolerance and (moved or found["reference"] <= tolerance)):
        raise UserError(
            "before the first update the ratio must be 1 and the KL to the reference 0, but per-token log-probs "
            f"differ by {found['trainer']:.2g} (policy) and {found['reference']:.2g} (reference), tolerance "
            f"{tolerance:g}. Likely cause: {likely_cause(found, tolerance)}."
        )
    return found
