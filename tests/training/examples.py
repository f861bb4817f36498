"""A tiny run: the four roles, and batches whose rows differ much in how many valid tokens they have."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.data.packing import Example, left_pad, one_per_row, pack
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.rl import AdaptiveKL, ScoreStats
from icegrt_jax.sampling import Rollout, SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.training.forward import rows_scalars
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.packing import Packing
from icegrt_jax.training.state import Experience, PPOConfig, TrainState, create_state
from tests.models.examples import make_params

# Every matrix divides over eight devices along at least one axis, some along one only.
POLICY = ModelConfig(
    vocab_size=24, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, d_ff=32, max_length=32,
    scan_layers=True,
)  # fmt: skip
# The critic and the reward model have a size of their own.
SCALAR = dataclasses.replace(POLICY, d_model=8, num_heads=2)
# With a small eps, Adam makes of a gradient's rounding error a whole step of lr; this one is smooth.
OPTIMIZER = OptimizerConfig(lr=0.1, total_steps=100, eps=1e-2, weight_decay=0.01)
PLAIN_SCORES = {"score_scale": "none", "score_clip": 0.0, "eos_penalty": 0.0}
EOS_ID = 3
B, P, T = 16, 6, 8


def response_values(params, config, prompts, prompt_mask, responses, mask, rows=None):
    """The critic's values f32[B, T] of responses packed into `rows`."""
    packing = Packing(prompt_mask, mask, rows)
    return packing.before_responses(rows_scalars(params, config, packing.tokens(prompts, responses)))


def make_policy(seed: int) -> dict:
    """Parameters of a policy, the same for the same seed, in arrays of their own."""
    return jax.tree.map(jnp.array, _on_host(POLICY, seed, False))


def make_scalar(seed: int) -> dict:
    """Parameters of a critic or reward model."""
    return jax.tree.map(jnp.array, _on_host(SCALAR, seed, True))


@functools.cache
def _on_host(config: ModelConfig, seed: int, scalar_head: bool) -> dict:
    unrolled = dataclasses.replace(config, scan_layers=False)
    params = jax.device_get(make_params(unrolled, seed=seed, scalar_head=scalar_head))
    layers = [params["layers"][str(i)] for i in range(config.num_layers)]
    return {**params, "layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)}


def make_state(*, optimizer: OptimizerConfig = OPTIMIZER, reference_seed: int = 0, kl_coef=0.3, **ppo) -> TrainState:
    """All four roles, the reference equal to the policy unless it gets another seed."""
    return create_state(
        jax.random.key(11),
        {
            "policy": make_policy(0),
            "value": make_scalar(1),
            "reward": make_scalar(2),
            "reference": make_policy(reference_seed),
        },
        {"policy": POLICY, "value": SCALAR, "reward": SCALAR},
        {"policy": optimizer, "value": optimizer, "reward": optimizer},
        ppo=PPOConfig(**{**PLAIN_SCORES, **ppo}),
        kl=AdaptiveKL.create(kl_coef, target=2.0, horizon=100.0),
        score_stats=ScoreStats.create(0.4, 1.7),
    )


def make_prompts(rows: int = B) -> tuple[jax.Array, jax.Array]:
    """Prompts of 1 to P tokens, left-padded."""
    rng = np.random.default_rng(5)
    tokens, mask = left_pad([rng.integers(4, 24, size=1 + i % P).tolist() for i in range(rows)], P, 0)
    return jnp.asarray(tokens), jnp.asarray(mask)


def make_rollout(state: TrainState, *, temperature: float = 1.0, place=lambda x: x) -> Rollout:
    """What the state's policy samples; some responses end with EOS, some are cut off."""
    config = SamplerConfig(max_new_tokens=T, temperature=temperature, eos_ids=(EOS_ID, 7))
    keys = sequence_keys(jax.random.key(1), 0, B)
    prompts, mask = place(make_prompts())
    return compiled_sampler(keys, state.params["policy"], prompts, mask, model=POLICY, config=config, num_samples=1)


def uneven_mask(rows: int = B, length: int = T) -> jax.Array:
    """bool[rows, length]: the first rows are long, the last ones short, one is empty of nearly everything."""
    lengths = np.maximum(length - np.arange(rows) // 2, 1)
    return jnp.asarray(np.arange(length)[None, :] < lengths[:, None])


def make_experience(seed: int = 0, *, ptx: bool = False) -> Experience:
    """Made-up numbers in the place of a scored rollout, with garbage in no padding."""
    rng = np.random.default_rng(seed)
    prompts, prompt_mask = make_prompts()
    mask = uneven_mask()
    draw = lambda scale: jnp.where(mask, jnp.asarray(rng.normal(0, scale, (B, T)), jnp.float32), 0.0)
    old = jnp.where(mask, draw(0.3) - 3.0, 0.0)
    return Experience(
        prompts=prompts,
        prompt_mask=prompt_mask,
        responses=jnp.asarray(rng.integers(0, 24, (B, T)), jnp.int32),
        mask=mask,
        old_logprobs=old,
        ref_logprobs=jnp.where(mask, old + draw(0.2), 0.0),
        values=draw(0.5),
        advantages=draw(1.0),
        returns=draw(1.0),
        ptx=make_sft_batch() if ptx else None,
    )


def make_examples(count: int = 40) -> list[Example]:
    """Conversations of 2 to 9 tokens; the earlier, the longer their answers."""
    rng = np.random.default_rng(8)
    examples = []
    for i in range(count):
        size, answer = 2 + i % 8, 1 + (i % 8) * (count - i) // count
        ids = rng.integers(4, 24, size).tolist()
        examples.append(Example(ids, [j >= size - answer for j in range(size)]))
    return examples


def rows_of(examples: list[Example], *, length: int, packed: bool) -> dict[str, jax.Array]:
    """An SFT batch of the given examples."""
    rows = (pack if packed else one_per_row)(examples, length, 0)
    return {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}


def make_sft_batch() -> dict[str, jax.Array]:
    """Sixteen packed rows of which the first have many more targets than the last."""
    batch = jax.tree.map(lambda x: x[:B], rows_of(make_examples(64), length=18, packed=True))
    assert batch["tokens"].shape[0] == B
    few = (jnp.arange(B)[:, None] < 5) | (jnp.arange(18)[None, :] < 6)
    return {**batch, "loss_mask": batch["loss_mask"] & few}


def make_ranking_batch(rows: int = B, k: int = 4, length: int = 9) -> dict[str, jax.Array]:
    """Rankings with ties, missing answers, and rows without any pair, unevenly spread."""
    rng = np.random.default_rng(9)
    lengths = rng.integers(2, length + 1, (rows, k))
    ranks = rng.integers(1, 4, (rows, k)).astype(np.float32)
    ranks[rows // 2 : rows // 2 + 5] = 1.0  # nothing to learn from
    valid = np.arange(k)[None, :] < np.where(np.arange(rows) % 3 == 0, 2, k)[:, None]
    return {
        "tokens": jnp.asarray(rng.integers(4, 24, (rows, k, length)), jnp.int32),
        "mask": jnp.asarray(np.arange(length) < lengths[..., None]),
        "ranks": jnp.asarray(ranks),
        "valid": jnp.asarray(valid),
    }
