"""What a KL penalty holds the policy to, on a problem whose optimum is known: one prompt, one token, a fixed reward.

With the KL to the reference in the objective, E[r] - beta * KL(policy || ref), the optimum is
ref(v) * exp(r(v) / beta) / Z. With k3 in the loss it is that of E[r] - beta * KL(ref || policy).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import PPOConfig
from tests.training.toys import MODEL, PROMPT, toy_state, train

REWARDS = np.array([0.9, -0.4, 0.3, -1.0, 0.6, 0.0, -0.7, 0.4])
BETA = 0.8
ROWS, ITERATIONS = 256, 120


@jax.jit
def distribution(params):
    """The probabilities f32[V] of the one token."""
    hidden = hidden_states(params, MODEL, PROMPT, jnp.ones((1, 1), jnp.bool_))
    return jax.nn.softmax(unembed(params, MODEL, hidden)[0, 0])


def kl(p, q) -> float:
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    return float(np.sum(p * (np.log(p) - np.log(q))))


def optimum(reference, kind: str):
    """The best policy f64[V] under the penalty, in float64."""
    reference = np.asarray(reference, np.float64)
    if kind != "k3":
        best = reference * np.exp(REWARDS / BETA)
        return best / best.sum()
    # Stationary where r(v) + beta * ref(v) / policy(v) is one number for all v: bisect for it.
    low, high = REWARDS.max() + 1e-9, REWARDS.max() + BETA + 1.0
    for _ in range(200):
        level = (low + high) / 2
        best = BETA * reference / (level - REWARDS)
        low, high = (level, high) if best.sum() > 1 else (low, level)
    return best / best.sum()


@functools.cache
def trained(kl_coef: float = BETA, **options):
    """The probabilities after training, and those of the reference."""
    optimizer = OptimizerConfig(
        lr=0.03, total_steps=ITERATIONS * options.get("num_ppo_epochs", 1) * options.get("num_minibatches", 1),
        schedule="cosine", b2=0.99,
    )  # fmt: skip
    state, table = toy_state(optimizer, kl_coef=kl_coef, **options), jnp.asarray(REWARDS, jnp.float32)
    scores_of = lambda rollout: table[rollout.responses[:, 0]]
    reference = distribution(state.params["reference"])
    state, _ = train(state, SamplerConfig(max_new_tokens=1), scores_of, rows=ROWS, iterations=ITERATIONS)
    return np.asarray(distribution(state.params["policy"])), np.asarray(reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, place, options",
    [
        ("k1", "reward", {}),
        ("k2", "loss", {}),
        ("k2", "loss", {"advantages": "none", "num_ppo_epochs": 2, "num_minibatches": 2}),
        ("exact", "loss", {}),
        ("exact", "loss", {"whiten_rewards": True}),
        ("k3", "loss", {}),
    ],
    ids=str,
)
def test_a_penalty_holds_the_policy_at_the_known_optimum(kind, place, options):
    """With the coefficient in another unit than whitened advantages it would be 1.35 nats off."""
    policy, reference = trained(kl_kind=kind, kl_in=place, **options)
    best, other = (optimum(reference, name) for name in (("k3", "k1") if kind == "k3" else ("k1", "k3")))
    assert kl(best, reference) > 0.2 and kl(best, other) > 0.05, "the three should be far apart"
    assert kl(policy, best) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("kind, place", [("k1", "reward"), ("exact", "loss")])
def test_a_reference_at_a_lower_temperature_is_what_the_policy_is_held_to(kind, place):
    policy, reference = trained(kl_kind=kind, kl_in=place, reference_temperature=0.5)
    sharper = np.asarray(reference, np.float64) ** 2
    best = optimum(sharper / sharper.sum(), "k1")
    assert kl(best, optimum(reference, "k1")) > 0.2, "the two should be far apart"
    assert kl(policy, best) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator, options",
    [
        ("rloo", {"kl_kind": "k1", "kl_in": "reward"}),
        ("dr_grpo", {"kl_kind": "exact", "kl_in": "loss"}),
        ("reinforce_pp", {"kl_kind": "k1", "kl_in": "reward"}),
    ],
)
def test_an_estimator_without_a_critic_reaches_the_known_optimum(estimator, options):
    policy, reference = trained(estimator=estimator, group_size=8, **options)
    best = optimum(reference, "k1")
    assert kl(best, reference) > 0.2 and kl(policy, best) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "gspo"])
def test_an_estimator_that_divides_by_the_group_s_deviation_finds_the_best_token(estimator):
    """Its advantages are in no unit of the reward, so it has no optimum under a penalty that could be known."""
    options = {"kl_kind": "k3", "kl_in": "loss", "filter_groups": True, "num_minibatches": 2, "num_ppo_epochs": 2}
    policy, reference = trained(estimator=estimator, group_size=8, kl_coef=0.02, **options)
    assert policy[0] > 0.9 > 0.3 > reference[0], "the token of the largest reward"


def test_the_known_optimum_is_the_best_of_many_policies():
    reference = np.random.default_rng(0).dirichlet(np.ones(8))
    for kind, distance in [("k1", lambda p: kl(p, reference)), ("k3", lambda p: kl(reference, p))]:
        objective = lambda p, distance=distance: float(p @ REWARDS) - BETA * distance(p)
        best = optimum(reference, kind)
        near = [best * np.exp(np.random.default_rng(i).normal(0, 0.05, 8)) for i in range(200)]
        assert max(objective(p / p.sum()) for p in near) < objective(best)


@pytest.mark.parametrize(
    "kind, place, use",
    [
        ("k1", "loss", "kl_kind='exact' or 'k2'"),
        ("k2", "reward", "kl_kind='k1', or k2 with kl_in='loss'"),
        ("k3", "reward", "kl_kind='k1', or k3 with kl_in='loss'"),
        ("exact", "reward", "kl_in='loss', where it is differentiated"),
        ("k4", "loss", "expected one of 'k1', 'k2', 'k3', 'exact'"),
        ("k2", "both", "kl_in='both'; expected one of 'reward', 'loss'"),
    ],
)
def test_a_penalty_that_holds_nothing_is_refused_with_what_to_use(kind, place, use):
    with pytest.raises(UserError, match=use):
        PPOConfig(kl_kind=kind, kl_in=place)
