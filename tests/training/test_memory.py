"""What the compiled steps hold beside their arguments, read off programs that are compiled and never run."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.models import chunks
from icegrt_jax.models.tree import abstract_params
from icegrt_jax.sampling import Rollout
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import Experience, create_state
from icegrt_jax.training.updates import sft_update
from tests.training.examples import OPTIMIZER, POLICY

MIB = 2**20
VOCABULARIES = (49152, 151936)  # SmolLM2's and Qwen's
T = 16


def abstract_state(vocab_size: int):
    """All roles of a tiny trunk under a large vocabulary, nothing allocated."""
    policy = dataclasses.replace(POLICY, vocab_size=vocab_size)
    models = {"policy": policy, "value": policy, "reward": policy, "reference": policy}
    trees = {role: abstract_params(policy, scalar_head=role in ("value", "reward")) for role in models}
    optimizers = {"policy": OPTIMIZER, "value": OPTIMIZER}
    return jax.eval_shape(lambda key, trees: create_state(key, trees, models, optimizers), jax.random.key(0), trees)


def arrays(rows: int, *dtypes):
    return [jax.ShapeDtypeStruct((rows, T), dtype) for dtype in dtypes]


def batch_of(step, rows: int):
    i, b, f = jnp.int32, jnp.bool_, jnp.float32
    if step is sft_update:
        return dict(zip(("tokens", "segment_ids", "positions", "loss_mask"), arrays(rows, i, i, i, b)))
    if step is score:
        return Rollout(*arrays(rows, i, b, i, b, f), finished=jax.ShapeDtypeStruct((rows,), b))
    return Experience(*arrays(rows, i, b, i, b, f, f, f, f, f))


def temporaries(step, vocab_size: int, rows: int) -> int:
    """Bytes that the compiled step holds beside arguments and results."""
    compiled = jax.jit(step, donate_argnums=0).lower(abstract_state(vocab_size), batch_of(step, rows)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("step", [sft_update, score, ppo_update], ids=["sft", "score", "ppo"])
def test_temporaries_do_not_grow_with_vocabulary_times_batch(step):
    """They grow with the tokens' hidden states and attention, and with the table and its gradient, never with both."""
    few, many = 32, 128  # rows: 512 and 2048 tokens
    held = {(v, rows): temporaries(step, v, rows) for v in VOCABULARIES for rows in (few, many)}
    chunk = 4 * chunks.CHUNK_ELEMENTS  # bytes of logits held at a time
    table = 4 * max(VOCABULARIES) * POLICY.d_model
    for v in VOCABULARIES:
        added_logits = 4 * v * (many - few) * T  # 288 and 890 MiB, were they all held
        growth = held[v, many] - held[v, few]
        assert growth < min(64 * MIB, 0.25 * added_logits), (v, growth / MIB)
        # A chunk's logits and their gradient, and one more where a fusion ends; of the tables the gradients and
        # updates of two roles. The rest is the trunk's.
        assert held[v, many] < 3 * chunk + 8 * table + 64 * MIB, (v, held[v, many] / MIB)
    added = held[VOCABULARIES[1], many] - held[VOCABULARIES[0], many]
    assert added < 8 * table, added / MIB


def test_a_chunk_is_bounded_however_many_tokens_there_are():
    for v in VOCABULARIES:
        for tokens in (1, 63, 512, 4096, 10**6 + 7):
            length = chunks.chunk_length(tokens, v)
            assert 1 <= length <= min(tokens, max(chunks.MIN_CHUNK, chunks.CHUNK_ELEMENTS // v))
            count = -(-tokens // length)
            assert count * length - tokens < count, "chunks of nearly one size: at most one empty token in each"
