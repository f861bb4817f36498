"""Abstract states: those that the stages make, of any size, with nothing allocated."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.config import read
from icegrt_jax.config.file import load_config
from icegrt_jax.errors import UserError
from icegrt_jax.plan import shapes
from icegrt_jax.runs import stage_models
from icegrt_jax.sharding.mesh import make_mesh
from tests.plan.examples import ADAPTERS, models_of, ppo_state, tiny

ROOT = pathlib.Path(__file__).parent.parent.parent


# The critic's learning rate and start are left as they are: nothing reads them.
GRPO = {"ppo.estimator": "grpo", "ppo.samples_per_prompt": 4, "ppo.kl.into": "loss", "ppo.kl.kind": "k3"}
ALONE = {"ppo.rewards.right": "own.py:right", "ppo.reward_weights.model": 0.0}


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_four_roles_of_13_billion_parameters_are_described_in_no_memory(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("configs/llama2_13b_v5p.py")
    state = ppo_state(config)
    sizes = {role: count(tree) for role, tree in state.params.items()}
    assert sizes["policy"] == sizes["reference"] == 13_015_864_320  # as published, embedding and head untied
    assert sizes["value"] == sizes["reward"] == 13_015_864_320 - 32000 * 5120 + 5121
    assert {role: count(tree) for role, tree in state.opt_state.items()}["policy"] == 2 * sizes["policy"] + 2
    dtypes = {role: state.params[role]["layers"]["mlp"]["up"]["kernel"].dtype for role in sizes}
    frozen = jnp.dtype("bfloat16")
    assert dtypes == {"policy": "float32", "value": "float32", "reference": frozen, "reward": frozen}


@pytest.mark.parametrize(
    "values, roles, trained",
    [
        ({}, {"policy", "value", "reward", "reference"}, {"policy", "value"}),
        ({"ppo.lora.rank": 2}, {"policy", "value", "reward", "reference"}, {"policy", "value"}),
        (ADAPTERS, {"base", "policy", "value", "reward", "reference"}, {"policy", "value"}),
        ({"value.trunk": "policy"}, {"policy", "value", "reward", "reference"}, {"policy", "value"}),
        ({**ALONE, "value.init": "sft"}, {"policy", "value", "reference"}, {"policy", "value"}),
        ({**ALONE, **ADAPTERS, "value.init": "sft"}, {"base", "policy", "value", "reference"}, {"policy", "value"}),
        ({**ALONE, "value.trunk": "policy"}, {"policy", "value", "reference"}, {"policy", "value"}),
        (GRPO, {"policy", "reward", "reference"}, {"policy"}),
        ({**GRPO, **ADAPTERS}, {"base", "policy", "reward", "reference"}, {"policy"}),
        ({**ALONE, "ppo.estimator": "reinforce_pp"}, {"policy", "reference"}, {"policy"}),
    ],
    ids=[
        "full", "lora", "shared_base", "head_on_policy", "no_reward", "no_reward_shared_base", "no_reward_head",
        "no_critic", "no_critic_shared_base", "no_critic_nor_reward",
    ],
)  # fmt: skip
def test_the_roles_are_put_together_as_the_config_says(values, roles, trained):
    config = tiny(**values)
    state = ppo_state(config)
    assert set(state.params) == roles and set(state.opt_state) == trained
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    if "base" in roles:
        assert state.params["base"]["layers"]["mlp"]["up"]["kernel"].dtype == jnp.int8
        assert state.params["reference"] == {}
    if "value.trunk" in values:
        assert set(state.params["value"]) == {"head"}


def test_a_language_loss_beside_the_ranking_loss_holds_the_output_matrix_frozen(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("configs/llama2_13b_v5p.py")
    for coef, roles in ((0.0, {"reward"}), (0.1, {"reward", "unembedding"})):
        config.reward.lm_coef = coef
        options = read(config)
        state = shapes.reward_state(options.reward, models_of(config), options.model.param_dtype)
        assert set(state.params) == roles and set(state.opt_state) == {"reward"}
    assert count(state.params["unembedding"]) == 32000 * 5120


def test_a_chip_holds_its_part_of_a_placed_state():
    config = tiny()
    state = shapes.supervised_state(read(config).sft, models_of(config), "float32")
    whole = shapes.bytes_per_chip(shapes.placed(state, make_mesh(-1, 1, 1)))
    assert whole == sum(leaf.size * shapes.itemsize(leaf) for leaf in jax.tree.leaves(state))
    part = shapes.bytes_per_chip(shapes.placed(state, make_mesh(1, 4, 2)))
    assert whole / 8 < part < whole / 7  # norms are whole everywhere


def test_a_model_that_is_not_here_is_planned_by_its_config_json_or_refused(tmp_path):
    config = tiny(**{"model.path": "somebody/their-model"})
    with pytest.raises(UserError, match="'somebody/their-model' is not a folder here; a plan downloads no model: set"):
        models_of(config)
    config.model.hf_config = str(ROOT / "configs" / "shapes" / "llama2_13b")
    assert models_of(config).policy.num_params == 13_015_864_320


def test_the_reward_model_has_the_shape_that_its_start_says():
    config = tiny(**{"reward.init": "scratch", "value.init": "sft", "reward.model.d_model": 64})
    models = models_of(config)
    assert (models.policy.d_model, models.reward.d_model) == (32, 64)
    state = ppo_state(config, models)
    assert state.model("value").d_model == 32 and state.model("reward").d_model == 64


@pytest.mark.parametrize("attention", ["plain", "auto"])
def test_a_plan_computes_a_model_as_the_run_does(attention):
    folder = str(ROOT / "configs" / "shapes" / "llama2_13b")
    config = tiny(**{
        "model.path": folder, "model.attention": attention, "model.remat": "full", "model.dtype": "bfloat16",
        "reward.init": folder, "reward.model.attention": attention, "reward.model.scan_layers": True,
    })  # fmt: skip
    models, options = models_of(config), read(config)
    assert models.policy == stage_models.config_in(folder, options.model) and models.policy.attention == attention
    assert models.reward == stage_models.config_in(folder, options.reward.model)
    scratch = tiny(**{"model.attention": attention})
    assert models_of(scratch).policy == stage_models.scratch_config(read(scratch).model, 96, 16)


@pytest.mark.parametrize(
    "values, held",
    [
        ({}, 3), ({"reward.ensemble_as": "weights"}, 1), ({"reward.lora.rank": 2}, 1),
        (ADAPTERS, 0), ({**ADAPTERS, "reward.ensemble_as": "weights"}, 0), ({"ppo.lora.rank": 2}, 4),
    ],
    ids=["scores", "weights", "adapters", "shared_base", "weights_of_adapters", "critic_adapter"],
)  # fmt: skip
def test_several_reward_models_are_counted_as_they_are_held(values, held):
    """In whole reward models; adapters are small."""
    config = tiny(**{**values, "reward.ensemble": 3})
    one, several = (ppo_state(tiny(**values)), ppo_state(config))
    whole = count(ppo_state(tiny()).params["reward"])
    frozen = lambda state: sum(count(state.params.get(role, {})) for role in ("reward", "base"))
    shared = count(one.params["base"]) if "base" in one.params else 0
    assert round((frozen(several) - shared) / whole) == held
    assert (several.members == {}) == (values.get("reward.ensemble_as") == "weights")
    assert count(several.params["value"]) >= count(one.params["value"])
    options = read(config)
    reward = [
        shapes.reward_state(section, models_of(config), options.model.param_dtype)
        for section in (options.reward, read(tiny(**values)).reward)
    ]
    assert count(reward[0].params["reward"]) == 3 * count(reward[1].params["reward"]), "side by side"
    assert count(reward[0].opt_state) == 3 * count(reward[1].opt_state)
