"""The table of shardings, and a batch that stays split inside a compiled program."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.hf.families import FAMILIES
from icegrt_jax.models.lora import LoRAConfig, init_adapter
from icegrt_jax.models.quantize import quantized
from icegrt_jax.sampling.layout import rollout_mesh
from icegrt_jax.sharding.constrain import constrain_batch
from icegrt_jax.sharding.mesh import AXES, make_mesh
from icegrt_jax.sharding.pmap import split_batch
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import SMALL, batch_sharding, leaf_spec, tree_shardings
from icegrt_jax.training.state import create_state
from tests.training.examples import OPTIMIZER, make_state


@pytest.mark.parametrize(
    "name, shape, spec",
    [
        ("embed/embedding", (24, 16), P("tensor", "fsdp")),
        ("layers/0/attn/q/kernel", (16, 16), P("fsdp", "tensor")),
        ("layers/attn/k/kernel", (2, 16, 8), P(None, "fsdp", "tensor")),  # scanned: the layer axis stays whole
        ("layers/attn/q/bias", (2, 16), P(None, "tensor")),
        ("layers/0/attn/q_norm/scale", (8,), P()),
        ("layers/0/attn/o/kernel", (16, 16), P("tensor", "fsdp")),
        ("layers/mlp/gate/kernel", (2, 16, 32), P(None, "fsdp", "tensor")),
        ("layers/0/mlp/down/kernel", (32, 16), P("tensor", "fsdp")),
        ("lm_head/kernel", (16, 24), P("fsdp", "tensor")),
        ("lm_head/kernel", (16, 25), P("fsdp", None)),  # 25 does not divide over two
        ("layers/0/attn_norm/scale", (16,), P()),
        ("head/kernel", (16, 1), P()),
        ("layers/attn/v/lora_a", (2, 16, 4), P(None, "fsdp", None)),
        ("layers/0/attn/q/lora_b", (4, 16), P(None, ("tensor", "fsdp"))),
        ("layers/attn/o/lora_a", (2, 16, 4), P(None, ("tensor", "fsdp"), None)),
        ("layers/0/attn/o/lora_b", (4, 16), P(None, "fsdp")),
        ("layers/0/mlp/gate/lora_a", (16, 4), P("fsdp", None)),
        ("layers/mlp/up/lora_b", (2, 4, 32), P(None, None, ("tensor", "fsdp"))),
        ("layers/0/mlp/down/lora_a", (32, 4), P(("tensor", "fsdp"), None)),
        ("layers/0/mlp/down/lora_b", (4, 16), P(None, "fsdp")),
        ("layers/0/mlp/down/kernel_scale", (16,), P()),  # small: whole on every device
        ("opt_state/policy/1/0/mu/layers/0/mlp/up/kernel", (16, 32), P("fsdp", "tensor")),
        ("opt_state/policy/1/0/count", (), P()),
    ],
)
def test_each_array_is_split_as_the_table_says(name, shape, spec):
    assert leaf_spec(name, shape, make_mesh(2, 2, 2)) == spec


def big(*shape):
    """A leaf of a large model: nothing is allocated."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)], ids=str)
def test_a_parameter_without_a_sharding_rule_is_named(shape):
    tree = {"layers": {"moe": {"router": {"kernel": big(40, 5120, 64)}}}}
    said = (
        r"parameter layers/moe/router/kernel \[40, 5120, 64\] matches no sharding rule .* TABLE in icegrt_jax/sharding"
    )
    with pytest.raises(UserError, match=said):
        tree_shardings(tree, Mesh(np.array(jax.devices()[: math.prod(shape)]).reshape(shape), AXES))


def test_moments_of_a_parameter_without_a_rule_are_refused_as_it_is():
    with pytest.raises(UserError, match="opt_state/policy/1/0/mu/layers/0/conv/kernel"):
        leaf_spec("opt_state/policy/1/0/mu/layers/0/conv/kernel", (4096, 4096), make_mesh(1, 4, 2))


def test_what_is_small_or_meant_to_be_whole_needs_no_rule():
    mesh = make_mesh(1, 4, 2)
    for name, shape in {
        "layers/new_norm/scale": (80, 8192),
        "layers/mlp/up/bias": (80, 28672),
        "layers/mlp/up/kernel_scale": (80, 28672),
        "embed/embedding_scale": (2**19,),
        "head/kernel": (2**19, 1),
        "layers/0/router/kernel": (512, 512),
        "key": (),
    }.items():
        assert leaf_spec(name, shape, mesh) == P(), name


def large_model(family):
    """All that a model of the family may have, each matrix above the bound of what needs no rule."""
    shape = dict(vocab_size=32768, d_model=1024, num_layers=2, num_heads=8, num_kv_heads=4, head_dim=128, d_ff=4096)
    optional = {"qkv_bias": True, "qk_norm": True, "tie_embeddings": False}
    return ModelConfig(**shape, family=family, **{**optional, **FAMILIES[family].ours})


@pytest.mark.parametrize("scan_layers", [False, True], ids=["layers", "scanned"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_has_its_rules_with_adapters_int8_heads_and_moments(family, scan_layers):
    """Every matrix is above the bound: what passes here has a line of its own."""
    config = dataclasses.replace(large_model(family), scan_layers=scan_layers)
    lora = LoRAConfig(rank=1024)  # its factors are above the bound too

    def everything(key):
        policy, reward = init_params(key, config), init_params(key, config, scalar_head=True)
        adapter = init_adapter(key, policy, lora, head=reward["head"])
        return create_state(
            key,
            {"policy": policy, "value": reward, "reference": quantized(policy), "reward": adapter},
            dict.fromkeys(("policy", "value", "reference"), config),
            dict.fromkeys(("policy", "value", "reward"), OPTIMIZER),
        )

    state = jax.eval_shape(everything, jax.random.key(0))
    assert sum(math.prod(x.shape) > SMALL for x in jax.tree.leaves(state.params["reward"])) >= 14
    for mesh in (make_mesh(2, 2, 2), rollout_mesh(make_mesh(2, 2, 2), config, 2)):
        assert jax.tree.structure(tree_shardings(state, mesh)) == jax.tree.structure(state)


def test_parameters_and_both_moments_of_every_role_share_one_table():
    shardings = tree_shardings(make_state(), make_mesh(1, 4, 2))
    for role in ("policy", "value", "reward"):
        params = shardings.params[role]
        adam = shardings.opt_state[role][1][0]
        assert params == adam.mu == adam.nu
        assert params["layers"]["attn"]["q"]["kernel"].spec == P(None, "fsdp", "tensor")
    whole = sum(s.spec == P() for s in jax.tree.leaves(shardings.params["policy"]))
    assert whole == 3, "only the norms are whole on every device"


def test_a_matrix_takes_an_eighth_of_its_memory_on_each_of_eight_devices():
    tree = shard_tree({"mlp": {"up": {"kernel": jnp.zeros((16, 32))}}}, make_mesh(1, 4, 2))
    assert tree["mlp"]["up"]["kernel"].addressable_shards[0].data.shape == (4, 16)


@pytest.mark.parametrize("shape, rows", [((8, 1, 1), 2), ((2, 2, 2), 4), ((1, 1, 8), 16)], ids=str)
def test_rows_picked_by_a_permutation_stay_split(shape, rows):
    mesh = make_mesh(*shape)
    batch = shard_batch({"tokens": np.arange(16 * 3).reshape(16, 3), "length": np.arange(16)}, mesh)
    seen = {}

    @jax.jit
    def shuffled(batch):
        picked = constrain_batch(jax.tree.map(lambda x: x[jnp.arange(16)[::-1]], batch))
        for name, x in picked.items():
            jax.debug.inspect_array_sharding(x, callback=lambda s, name=name: seen.update({name: s}))
        return picked

    with jax.set_mesh(mesh):
        out = shuffled(batch)
    np.testing.assert_array_equal(out["length"], np.arange(16)[::-1])
    assert seen["tokens"].shard_shape((16, 3)) == (rows, 3)
    assert seen["length"].shard_shape((16,)) == (rows,)
    assert out["tokens"].sharding.is_equivalent_to(batch_sharding(mesh), 2)


def test_a_batch_that_cannot_be_split_and_a_call_without_a_mesh_are_left_alone():
    x = jnp.ones((6, 2))
    assert constrain_batch(x) is x
    with jax.set_mesh(make_mesh(4, 2, 1)):
        assert jax.jit(constrain_batch)(x).shape == (6, 2)


def test_pmap_refuses_a_batch_that_does_not_divide():
    split = split_batch({"tokens": jnp.zeros((16, 3))})
    assert split["tokens"].shape == (8, 2, 3)
    with pytest.raises(UserError, match="batch of 12 does not divide over 8 devices; use a multiple of 8"):
        split_batch({"tokens": jnp.zeros((12, 3))})
