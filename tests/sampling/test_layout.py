"""The layout for sampling: where weights lie, how they get there, and that decoding moves none of them."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.lora import LoRAConfig, init_adapter, with_adapter
from icegrt_jax.models.quantize import quantized
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import (
    choose_ways,
    layout_bytes,
    moved_to_rollout,
    rollout_layout,
    rollout_mesh,
    to_rollout,
)
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import leaf_spec, tree_shardings
from tests.sharding.hlo import collectives

# Its smallest matrix (k, 64 x 32) is larger than any activation of eight rows that might be sent.
MODEL = ModelConfig(
    vocab_size=256, d_model=64, num_layers=2, num_heads=8, num_kv_heads=2, head_dim=16, d_ff=256, init_std=0.3
)
WIDE = dataclasses.replace(MODEL, num_kv_heads=8)
SAMPLER = SamplerConfig(max_new_tokens=5, eos_ids=(3,))
SMALLEST = 64 * 32
ROWS, WIDTH = 8, 2
# mesh (data, fsdp, tensor), ways, model
LAYOUTS = [
    ((1, 8, 1), 8, WIDE),  # plain tensor parallelism
    ((1, 8, 1), 4, WIDE),  # two copies
    ((2, 2, 2), 4, MODEL),  # attention over two heads and two halves of the rows
    ((1, 1, 8), 8, MODEL),  # the same within the tensor axis
    ((1, 4, 2), 2, dataclasses.replace(MODEL, scan_layers=True)),
    ((2, 4, 1), 1, MODEL),  # whole on every device
    ((8, 1, 1), 1, MODEL),  # as in training
]
each_layout = pytest.mark.parametrize("shape, ways, model", LAYOUTS, ids=[f"{x[0]}-{x[1]}" for x in LAYOUTS])


def params_of(model: ModelConfig) -> dict:
    return init_params(jax.random.key(0), model)


def inputs():
    tokens = np.arange(ROWS * WIDTH, dtype=np.int32).reshape(ROWS, WIDTH) + 4
    return sequence_keys(jax.random.key(1), 0, ROWS), tokens, np.ones((ROWS, WIDTH), bool)


@pytest.mark.parametrize(
    "shape, ways, kv_heads, parts",
    [
        ((1, 8, 1), 8, 8, (1, 1, 1, 8, 1, 1)),
        ((1, 8, 1), 8, 2, (1, 1, 4, 2, 1, 1)),
        ((1, 8, 1), 2, 2, (1, 4, 1, 2, 1, 1)),
        ((2, 2, 2), 4, 4, (2, 1, 1, 2, 1, 2)),
        ((2, 2, 2), 4, 2, (2, 1, 2, 1, 1, 2)),
        ((1, 1, 8), 8, 4, (1, 1, 1, 1, 2, 4)),
        ((1, 2, 4), 8, 3, (1, 1, 2, 1, 4, 1)),
    ],
)
def test_attention_is_split_over_heads_as_far_as_they_go_and_over_rows_beyond(shape, ways, kv_heads, parts):
    mesh = make_mesh(*shape)
    model = dataclasses.replace(MODEL, num_kv_heads=kv_heads, num_heads=2 * kv_heads)
    rollout = rollout_mesh(mesh, model, ways)
    assert rollout.devices.shape == parts
    assert list(rollout.devices.flat) == list(mesh.devices.flat), "one program serves both layouts"


def test_matrices_are_split_over_heads_and_features_and_never_over_their_width():
    rollout = rollout_mesh(make_mesh(1, 4, 2), MODEL, 8)
    everywhere = ("tensor_rows", "tensor_heads", "fsdp_rows", "fsdp_heads")
    assert leaf_spec("embed/embedding", (256, 64), rollout) == P(everywhere, None)
    assert leaf_spec("layers/attn/q/kernel", (2, 64, 128), rollout) == P(None, None, ("tensor_heads", "fsdp_heads"))
    assert leaf_spec("layers/0/attn/o/kernel", (128, 64), rollout) == P(("tensor_heads", "fsdp_heads"), None)
    assert leaf_spec("layers/0/mlp/up/kernel", (64, 256), rollout) == P(None, everywhere)
    assert leaf_spec("layers/0/mlp/down/kernel", (256, 64), rollout) == P(everywhere, None)
    assert leaf_spec("layers/0/mlp/up/kernel", (64, 6), rollout) == P(None, everywhere[:2]), "6 over the first 2 only"
    assert leaf_spec("layers/0/mlp/down/lora_b", (4, 64), rollout) == P(None, None)
    assert leaf_spec("layers/0/attn_norm/scale", (64,), rollout) == P()


@each_layout
def test_moving_the_weights_changes_none_and_never_holds_a_whole_matrix(shape, ways, model):
    mesh = make_mesh(*shape)
    params = shard_tree(params_of(model), mesh)
    rollout = rollout_mesh(mesh, model, ways)
    moved = to_rollout(params, model, mesh, rollout)
    chex.assert_trees_all_equal(jax.device_get(moved), jax.device_get(params))
    for leaf, sharding in zip(jax.tree.leaves(moved), jax.tree.leaves(tree_shardings(params, rollout)), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    parts = [math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(moved)]
    text = moved_to_rollout.lower(params, dtype=model.dtype, mesh=mesh, rollout=rollout).compile().as_text()
    assert max((c.elements for c in collectives(text)), default=0) <= max(parts)


@each_layout
def test_decoding_sends_activations_and_no_parameters(shape, ways, model):
    mesh = make_mesh(*shape)
    params = shard_tree(params_of(model), mesh)

    def sent(params, mesh, rows):
        with jax.set_mesh(mesh):
            keys, tokens, mask = rows
            compiled = compiled_sampler.lower(keys, params, tokens, mask, model=model, config=SAMPLER).compile()
        return collectives(compiled.as_text())

    rollout = rollout_mesh(mesh, model, ways)
    found = sent(to_rollout(params, model, mesh, rollout), rollout, shard_batch(inputs(), rollout))
    assert any(c.in_loop for c in found) or ways == 1
    # Neither per token nor before the loop, where XLA may put what does not change in it.
    assert max(c.elements for c in found) < SMALLEST
    if shape[1] > 1:
        found = sent(params, mesh, shard_batch(inputs(), mesh))
        assert max(c.elements for c in found) >= SMALLEST, "the training layout would pass, too"


def test_refilling_slots_sends_no_parameters_either():
    mesh = make_mesh(2, 2, 2)
    rollout = rollout_mesh(mesh, MODEL, 4)
    params = to_rollout(shard_tree(params_of(MODEL), mesh), MODEL, mesh, rollout)
    keys, tokens, mask = shard_batch(inputs(), rollout)
    sample = functools.partial(compiled_sampler, model=MODEL, config=SAMPLER)
    with jax.set_mesh(rollout):
        compiled = compiled_sampler.lower(keys, params, tokens, mask, model=MODEL, config=SAMPLER, slots=4).compile()
        got = jax.device_get(sample(keys, params, tokens, mask, slots=4))
    assert max(c.elements for c in collectives(compiled.as_text())) < SMALLEST
    np.testing.assert_array_equal(got.responses, sample(inputs()[0], params_of(MODEL), *inputs()[1:]).responses)


def test_the_cache_of_the_prompts_stays_on_the_devices_that_made_it():
    mesh, long = make_mesh(8, 1, 1), 96  # tokens of a prompt
    rollout = rollout_mesh(mesh, MODEL, 1)
    tokens = np.ones((ROWS, long), np.int32)
    keys, tokens, mask = shard_batch((inputs()[0], tokens, np.ones_like(tokens, bool)), rollout)
    params = shard_tree(params_of(MODEL), mesh)
    with jax.set_mesh(rollout):
        compiled = compiled_sampler.lower(keys, params, tokens, mask, model=MODEL, config=SAMPLER).compile()
    cached = ROWS * MODEL.num_kv_heads * long * MODEL.head_dim  # keys of one layer
    assert max((c.elements for c in collectives(compiled.as_text())), default=0) < cached // 8


@pytest.fixture(scope="module")
def expected():
    return {kv: jax.device_get(sampled(params_of(m), m, *inputs())) for kv, m in ((2, MODEL), (8, WIDE))}


def sampled(params, model, keys, tokens, mask):
    return compiled_sampler(keys, params, tokens, mask, model=model, config=SAMPLER)


@each_layout
def test_samples_do_not_depend_on_the_layout(shape, ways, model, expected):
    mesh = make_mesh(*shape)
    params = params_of(model)
    if model.scan_layers:
        whole = params_of(dataclasses.replace(model, scan_layers=False))
        layers = [whole["layers"][str(i)] for i in range(model.num_layers)]
        params = {**whole, "layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    rollout = rollout_mesh(mesh, model, ways)
    params = to_rollout(shard_tree(params, mesh), model, mesh, rollout)
    with jax.set_mesh(rollout):
        got = sampled(params, model, *shard_batch(inputs(), rollout))
    wanted = expected[model.num_kv_heads]
    np.testing.assert_array_equal(got.responses, wanted.responses)
    np.testing.assert_allclose(got.logprobs, wanted.logprobs, atol=1e-5)


def test_weights_are_moved_in_the_dtype_they_compute_in_and_int8_and_adapters_as_they_are():
    model = dataclasses.replace(WIDE, dtype="bfloat16")
    mesh = make_mesh(1, 4, 2)
    lora = LoRAConfig(rank=2)
    adapter = init_adapter(jax.random.key(3), params_of(model), lora)
    tree = shard_tree(with_adapter(quantized(params_of(model)), adapter, lora), mesh)
    moved = to_rollout(tree, model, mesh, rollout_mesh(mesh, model, 8))
    query = moved["layers"]["0"]["attn"]["q"]
    assert {name: x.dtype for name, x in query.items()} == {
        "kernel": jnp.int8, "kernel_scale": jnp.float32, "lora_a": jnp.bfloat16, "lora_b": jnp.bfloat16
    }  # fmt: skip
    assert moved["final_norm"]["scale"].dtype == jnp.float32
    assert query["kernel"].sharding.shard_shape((64, 128)) == (64, 16)
    plain = to_rollout(shard_tree(params_of(model), mesh), model, mesh, rollout_mesh(mesh, model, 8))
    assert plain["embed"]["embedding"].dtype == jnp.bfloat16


def test_without_fsdp_and_tensor_the_policy_is_sampled_from_where_it_lies():
    mesh = make_mesh(8, 1, 1)
    params = shard_tree(params_of(MODEL), mesh)
    assert to_rollout(params, MODEL, mesh, rollout_layout(mesh, MODEL, params)) is params


def test_the_smallest_split_is_chosen_that_needs_no_more_memory_than_a_gradient():
    params = params_of(WIDE)
    mesh = make_mesh(1, 8, 1)
    assert choose_ways(mesh, WIDE, params) == 8
    assert choose_ways(mesh, dataclasses.replace(WIDE, dtype="bfloat16"), params) == 4
    assert choose_ways(make_mesh(2, 2, 2), WIDE, params) == 4
    assert choose_ways(make_mesh(8, 1, 1), WIDE, params) == 1
    assert rollout_layout(mesh, WIDE, params, 2).shape["fsdp_copies"] == 4


def test_bytes_of_both_layouts_are_those_on_a_device():
    mesh, model = make_mesh(1, 4, 2), dataclasses.replace(MODEL, dtype="bfloat16")
    params = shard_tree(params_of(model), mesh)
    held = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    rollout = rollout_mesh(mesh, model, 8)
    got = layout_bytes(params, model, mesh, rollout, rows=ROWS, length=7)
    moved = to_rollout(params, model, mesh, rollout)
    # Two layers of keys and values, 8 rows of 7 slots of 2 heads of 16, over 4 parts of the rows and 2 of the heads.
    assert got == {"training": held(params), "rollout": held(moved), "cache": 2 * 2 * 8 * 7 * 2 * 16 * 2 // 8}
