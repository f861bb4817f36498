"""What the compiled programs of training send between devices and hold on each of them."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.models import chunks
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.sharding import constrain
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.rules import batch_sharding, tree_shardings
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import Experience, create_state
from icegrt_jax.training.updates import policy_update
from tests.sharding.hlo import collectives

# The embedding is larger than any matrix of a layer, and the number of rows stands for nothing else.
MODEL = ModelConfig(
    vocab_size=1024, d_model=64, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=16, d_ff=256, scan_layers=True
)
ROWS, P, T = 56, 6, 16


def compiled_update(shape, model: ModelConfig = MODEL):
    """The actor's update on abstract arguments, compiled for a mesh."""
    mesh = make_mesh(*shape)
    optimizer = OptimizerConfig(lr=1e-3, total_steps=10)

    def create():
        return create_state(
            jax.random.key(0), {"policy": init_params(jax.random.key(0), model)}, {"policy": model},
            {"policy": optimizer},
        )  # fmt: skip

    state = jax.eval_shape(create)
    shardings = tree_shardings(state, mesh)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    array = lambda dtype, *size: jax.ShapeDtypeStruct(size, dtype, sharding=batch_sharding(mesh))
    tokens, masks = (lambda n: array(jnp.int32, ROWS, n)), (lambda n: array(jnp.bool_, ROWS, n))
    batch = Experience(tokens(P), masks(P), tokens(T), masks(T), *[array(jnp.float32, ROWS, T)] * 5)

    def step(state, batch):
        new, metrics = policy_update(state, batch)
        return jax.lax.with_sharding_constraint(new, shardings), metrics

    with jax.set_mesh(mesh):
        return jax.jit(step, donate_argnums=0).lower(state, batch).compile()


@pytest.fixture
def many_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(chunks, "MIN_CHUNK", 4)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_no_device_gathers_the_vocabulary_nor_its_gradient(shape, tied, many_chunks):
    """Neither embedding nor unembedding is put together from its parts: hidden states of a chunk travel instead."""
    text = compiled_update(shape, dataclasses.replace(MODEL, tie_embeddings=tied)).as_text()
    table = MODEL.vocab_size * MODEL.d_model
    assert not {table, table // shape[2]} & {c.elements for c in collectives(text)}
    assert not re.findall(r"f32\[1024,64\]|f32\[64,1024\]", text)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_vocabulary_that_does_not_divide_is_gathered_once_and_its_gradient_summed_once(tied, many_chunks):
    """Both happen in front of and behind the loop over chunks of positions, not within it."""
    model = dataclasses.replace(MODEL, vocab_size=1022, tie_embeddings=tied)
    found = collectives(compiled_update((1, 8, 1), model).as_text())
    table = model.vocab_size * model.d_model
    assert max(c.elements for c in found if c.in_loop) < table
    assert sum(c.elements == table and c.kind == "all-gather" for c in found) == 1


def test_without_that_care_it_would_be_gathered_for_every_chunk(many_chunks, monkeypatch):
    monkeypatch.setattr(constrain, "by_rows", lambda fn, weights, *arrays, **_: fn(weights, *arrays))
    found = collectives(compiled_update((1, 8, 1), dataclasses.replace(MODEL, vocab_size=1022)).as_text())
    assert max(c.elements for c in found if c.in_loop) == 1022 * MODEL.d_model


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_no_device_holds_the_activations_of_all_rows(shape):
    text = compiled_update((1, 1, 1) if shape is None else shape).as_text()
    assert re.search(rf"f32\[{ROWS // (shape[0] * shape[1])},\d+,64\]", text), "where the rows are split they are seen"
    # While the embedding is read a device has its part of the width of all rows that share it.
    widths = {int(width) for width in re.findall(rf"f32\[{ROWS},\d+,(\d+)", text)}
    assert widths <= ({MODEL.d_model // shape[1]} if shape[1] > 1 and shape[0] == 1 else set())


def test_bytes_on_each_device_fall_as_fsdp_grows():
    """With all eight devices at work and the same rows on each, more of the state is elsewhere."""
    wide = dataclasses.replace(MODEL, d_model=256, d_ff=1024, vocab_size=2048, remat="full")
    held, peak = [], []
    for fsdp in (1, 2, 4, 8):
        memory = compiled_update((8 // fsdp, fsdp, 1), wide).memory_analysis()
        held.append(memory.argument_size_in_bytes)
        peak.append(memory.argument_size_in_bytes + memory.temp_size_in_bytes)  # the outputs are the arguments
        assert memory.alias_size_in_bytes >= 0.9 * memory.argument_size_in_bytes
    halves = [a / b for a, b in zip(held, held[1:])]
    assert all(1.9 < ratio <= 2.0 for ratio in halves), "parameters and both moments"
    assert all(a > 1.15 * b for a, b in zip(peak, peak[1:])), peak
    assert math.isclose(held[0] / held[3], 8, rel_tol=0.1)
