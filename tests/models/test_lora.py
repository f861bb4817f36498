"""Adapters: the same as changing the weights, nothing at the start, the same with scanned layers and int8 bases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.config.choices import LORA_TARGETS
from icegrt_jax.errors import UserError
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged, with_adapter
from icegrt_jax.models.quantize import dequantized, quantized, stored_as
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.models.tree import flatten, map_with_path
from tests.models.examples import CONFIG, make_params, stacked

LORA = LoRAConfig(rank=3, alpha=6.0)
TOKENS = jax.random.randint(jax.random.key(3), (2, 7), 0, CONFIG.vocab_size)
MASK = jnp.ones_like(TOKENS, jnp.bool_)


def logits(params, config=CONFIG):
    return unembed(params, config, hidden_states(params, config, TOKENS, MASK))


def trained_adapter(base, lora=LORA):
    """An adapter that changes something: B is not 0."""
    fresh = init_adapter(jax.random.key(1), base, lora)
    rng = np.random.default_rng(4)
    return map_with_path(lambda _, x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), fresh)


def test_a_new_adapter_changes_nothing_at_all():
    base = make_params()
    adapter = init_adapter(jax.random.key(1), base, LORA)
    np.testing.assert_array_equal(logits(with_adapter(base, adapter, LORA)), logits(base))


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_equals_weights_changed_by_the_scaled_product(rslora):
    base, lora = make_params(), LoRAConfig(rank=3, alpha=6.0, rslora=rslora)
    adapter = trained_adapter(base, lora)
    leaves, own = flatten(base), flatten(adapter)
    scale = 6.0 / np.sqrt(3) if rslora else 2.0
    changed = {
        path: np.asarray(x, np.float64) + scale * np.asarray(own[f"{path[:-7]}/lora_a"], np.float64)
        @ np.asarray(own[f"{path[:-7]}/lora_b"], np.float64) if f"{path[:-7]}/lora_a" in own else x
        for path, x in leaves.items()
    }  # fmt: skip
    ours = flatten(merged(base, adapter, lora))
    chex.assert_trees_all_close(ours, {path: np.float32(x) for path, x in changed.items()}, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        logits(with_adapter(base, adapter, lora)), logits(merged(base, adapter, lora)), rtol=1e-4, atol=1e-4
    )
    assert np.abs(logits(merged(base, adapter, lora)) - logits(base)).max() > 0.1


def test_only_the_named_projections_get_an_adapter():
    adapter = init_adapter(jax.random.key(1), make_params(), LoRAConfig(rank=2, targets=("q", "down")))
    modules = {path.split("/")[-2] for path in flatten(adapter)}
    assert modules == {"q", "down"}
    everything = init_adapter(jax.random.key(1), make_params(), LoRAConfig(rank=2))
    assert {path.split("/")[-2] for path in flatten(everything)} == set(LORA_TARGETS)


def test_stacked_layers_take_a_stacked_adapter():
    base = make_params()
    adapter = trained_adapter(base)
    config, stacked_base = stacked(CONFIG, base)
    layers = [adapter["layers"][str(i)] for i in range(CONFIG.num_layers)]
    stacked_adapter = {"layers": jax.tree.map(lambda *x: jnp.stack(x), *layers)}
    fresh = init_adapter(jax.random.key(1), stacked_base, LORA)
    chex.assert_trees_all_equal_shapes(fresh, stacked_adapter)
    np.testing.assert_allclose(
        logits(with_adapter(stacked_base, stacked_adapter, LORA), config),
        logits(with_adapter(base, adapter, LORA)),
        atol=1e-5,
    )


def test_a_head_of_its_own_takes_the_place_of_the_bases():
    base = make_params(scalar_head=True)
    head = jax.tree.map(lambda x: x + 1.0, base["head"])
    adapter = init_adapter(jax.random.key(1), base, LORA, head=head)
    chex.assert_trees_all_equal(with_adapter(base, adapter, LORA)["head"], head)
    chex.assert_trees_all_equal(merged(base, adapter, LORA)["head"], head)


def test_int8_is_within_half_a_step_of_each_channel():
    base = make_params()
    small = quantized(base)
    for path, wide in flatten(base).items():
        q, back = flatten(small)[path], flatten(dequantized(small))[path]
        if path.rpartition("/")[2] not in ("kernel", "embedding"):
            np.testing.assert_array_equal(q, wide)
            continue
        assert q.dtype == jnp.int8
        axis = -1 if path.endswith("embedding") else -2
        step = np.abs(np.asarray(wide, np.float64)).max(axis=axis, keepdims=True) / 127
        assert np.all(np.abs(np.asarray(back, np.float64) - np.asarray(wide, np.float64)) <= step * 0.5001)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_an_int8_tree_computes_what_its_dequantised_tree_does(scan_layers):
    config, base = stacked(CONFIG, make_params()) if scan_layers else (CONFIG, make_params())
    small = quantized(base)
    np.testing.assert_allclose(logits(small, config), logits(dequantized(small), config), rtol=1e-4, atol=1e-4)
    assert np.abs(logits(small, config) - logits(base, config)).max() > 1e-4, "int8 is not float32"


def test_a_column_of_zeros_survives_int8():
    base = make_params()
    base["layers"]["0"]["attn"]["q"]["kernel"] = base["layers"]["0"]["attn"]["q"]["kernel"].at[:, 0].set(0.0)
    kernel = dequantized(quantized(base))["layers"]["0"]["attn"]["q"]["kernel"]
    assert np.all(np.asarray(kernel)[:, 0] == 0) and np.all(np.isfinite(kernel))


def test_merging_into_an_int8_base_is_merging_into_what_it_stands_for():
    base = make_params()
    adapter = trained_adapter(base)
    small = stored_as(base, "int8")
    chex.assert_trees_all_close(
        merged(small, adapter, LORA), merged(dequantized(small), adapter, LORA), rtol=1e-6, atol=1e-6
    )


def test_a_wrong_adapter_is_refused():
    with pytest.raises(UserError, match="expected one or more of q, k, v"):
        LoRAConfig(rank=2, targets=("q", "qkv"))
    with pytest.raises(UserError, match="rank of 1 or more"):
        LoRAConfig(rank=0)
