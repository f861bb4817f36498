"""The maths of RLHF as pure functions of arrays: it knows no model, config or device.

Arguments are float32 with explicit boolean masks; `masked` says how means are taken when every
device sees a part of the batch.

>>> rewards, values = jnp.array([[0.0, 0.0, 0.7]]), jnp.array([[0.1, 0.2, 0.4]])
>>> advantages, returns = ice.rl.gae(rewards, values, jnp.ones((1, 3), bool), gamma=1.0, lam=1.0)
>>> [f"{x:.2f}" for x in returns[0]]
['0.70', '0.70', '0.70']
"""

from icegrt_jax.rl.advantages import gae, length_adaptive_lam
from icegrt_jax.rl.aggregation import aggregate, loss_count, loss_weights, sequence_means
from icegrt_jax.rl.controller import AdaptiveKL
from icegrt_jax.rl.ensembles import ensemble_scores, ensemble_std, on_one_scale
from icegrt_jax.rl.groups import flat_groups, group_advantages, group_std, leave_one_out
from icegrt_jax.rl.kl import exact_kl, kl_estimate
from icegrt_jax.rl.losses import explained_variance, nll_loss, ppo_policy_loss, ppo_value_loss
from icegrt_jax.rl.masked import (
    last_valid,
    masked_mean,
    masked_sum,
    masked_var,
    normalize_advantages,
    spread,
    whiten,
    whitening_std,
)
from icegrt_jax.rl.ranking import (
    Calibration,
    calibration,
    count_ranked,
    pair_probabilities,
    ranked_pairs,
    ranking_accuracy,
    ranking_loss,
    same_responses,
)
from icegrt_jax.rl.rewards import (
    ScoreStats,
    eos_penalty,
    length_penalty,
    scale_by_source,
    scale_scores,
    token_rewards,
)

__all__ = [
    "AdaptiveKL",
    "Calibration",
    "ScoreStats",
    "aggregate",
    "calibration",
    "count_ranked",
    "ensemble_scores",
    "ensemble_std",
    "eos_penalty",
    "exact_kl",
    "explained_variance",
    "flat_groups",
    "gae",
    "group_advantages",
    "group_std",
    "kl_estimate",
    "last_valid",
    "leave_one_out",
    "length_adaptive_lam",
    "length_penalty",
    "loss_count",
    "loss_weights",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "nll_loss",
    "normalize_advantages",
    "on_one_scale",
    "pair_probabilities",
    "ppo_policy_loss",
    "ppo_value_loss",
    "ranked_pairs",
    "ranking_accuracy",
    "ranking_loss",
    "same_responses",
    "scale_by_source",
    "scale_scores",
    "sequence_means",
    "spread",
    "token_rewards",
    "whiten",
    "whitening_std",
]
