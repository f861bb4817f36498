"""States whose roles are parts of others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from icegrt_jax.models.heads import new_head
from icegrt_jax.models.lora import LoRAConfig, init_adapter
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.models.tree import map_with_path
from icegrt_jax.training.state import Part, create_state
from tests.training.examples import OPTIMIZER, POLICY, make_policy, make_state

UNCLIPPED = dataclasses.replace(OPTIMIZER, max_grad_norm=0.0)
LORA = LoRAConfig(rank=2, alpha=6.0)


def rebuilt(state, params, models, parts, **ppo):
    """A state with other trees and the settings of `make_state`."""
    trainable = {role: UNCLIPPED for role in ("policy", "value")}
    kept = {"kl": state.kl, "score_stats": state.score_stats, "ppo": dataclasses.replace(state.ppo, **ppo)}
    return create_state(state.key, params, models, trainable, parts=parts, **kept)


def adapted_state(**ppo):
    """The actor is an adapter on the reference."""
    state = make_state(optimizer=UNCLIPPED, **ppo)
    adapter = init_adapter(jax.random.key(5), make_policy(0), LORA)
    params = {**state.params, "policy": adapter}
    return rebuilt(state, params, dict(state.models), {"policy": Part("reference", LORA)})


def shared_state(base_dtype="float32", head_only=False, **ppo):
    """Everything on one base; the critic an adapter, or a head on the actor."""
    state = make_state(optimizer=UNCLIPPED, **ppo)
    whole, key = make_policy(0), jax.random.key(5)
    adapter = lambda i: init_adapter(jax.random.fold_in(key, i), whole, LORA, head=new_head(jax.random.key(i), POLICY))
    own_head = {"head": new_head(jax.random.key(9), POLICY)}
    params = {
        "base": stored_as(whole, base_dtype), "reference": {}, "reward": noisy(adapter(1)),
        "policy": init_adapter(key, whole, LORA), "value": own_head if head_only else adapter(2),
    }  # fmt: skip
    on_base = Part("base", LORA)
    parts = {"policy": on_base, "reward": on_base, "reference": Part("base")}
    parts["value"] = Part("policy") if head_only else on_base
    models = {role: POLICY for role in ("policy", "value", "reward")}
    return rebuilt(state, params, models, parts, vf_coef=0.3 if head_only else 0.0)


def noisy(tree):
    rng = np.random.default_rng(3)
    return map_with_path(lambda _, x: x + jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), tree)
