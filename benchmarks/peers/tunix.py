"""google-tunix 0.1.7: its sampler and its PPO learner, with random weights of the same shapes.

Three things have to be worked around. Its PPO scoring passes `segment_ids`, which its own Llama does not take. A
critic can be made only of a model with an untied `lm_head`. Its attention reads no `rope_theta`, so the published
weights would give other logits; times do not depend on weights.
"""

import time

import jax
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as generate
from tunix.models.llama3 import model as llama
from tunix.rl import rl_cluster, utils
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout

from benchmarks.cases import random_tokens

_forward = llama.Llama3.__call__


def _without_segments(self, input_tokens, positions, cache, attention_mask, segment_ids=None):
    return _forward(self, input_tokens, positions, cache, attention_mask)


llama.Llama3.__call__ = _without_segments


class Ids:
    """A tokenizer whose text is ids; EOS lies outside of the vocabulary, so that every response has full length."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text, **_):
        return [int(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(map(str, ids))

    def bos_id(self):
        return 1

    def eos_id(self):
        return self.vocab_size + 7

    def pad_id(self):
        return 0


def network(model: dict, *, tied: bool, seed: int) -> llama.Llama3:
    shape = model["shape"]
    config = llama.ModelConfig(
        num_layers=shape["num_layers"], vocab_size=shape["vocab_size"], embed_dim=shape["d_model"],
        hidden_dim=shape["d_ff"], num_heads=shape["num_heads"], head_dim=shape["head_dim"],
        num_kv_heads=shape["num_kv_heads"], rope_theta=int(model["rope_theta"]), norm_eps=1e-5, weight_tying=tied,
    )  # fmt: skip
    return llama.Llama3(config, rngs=nnx.Rngs(seed))


def texts(model: dict, batch: int, prompt: int) -> list[str]:
    """Prompts that become `prompt` tokens with the BOS that is put before them."""
    rows = random_tokens(model["shape"]["vocab_size"], batch, prompt - 1)
    return [" ".join(map(str, row)) for row in rows]


def sample(turns, *, model: dict, batch: int, prompt: int, new: int) -> None:
    policy = network(model, tied=True, seed=0)
    shape = model["shape"]
    cache = generate.CacheConfig(
        cache_size=prompt + new, num_layers=shape["num_layers"], num_kv_heads=shape["num_kv_heads"],
        head_dim=shape["head_dim"],
    )  # fmt: skip
    sampler, prompts = generate.Sampler(policy, Ids(shape["vocab_size"]), cache), texts(model, batch, prompt)
    while turns.wait():
        began = time.perf_counter()
        out = sampler(
            input_strings=prompts, max_generation_steps=new, max_prompt_length=prompt, temperature=1.0, top_p=1.0,
            seed=turns.count,
        )  # fmt: skip
        assert all(len(tokens) == new for tokens in out.tokens)
        turns.done({"generate": time.perf_counter() - began})


def ppo(turns, *, model: dict, batch: int, prompt: int, new: int, epochs: int) -> None:
    """PPO iterations of its learner with four models, one minibatch."""
    actor, reference = (network(model, tied=True, seed=0) for _ in range(2))
    untied = network(model, tied=False, seed=1)
    critic, reward = (utils.create_critic_model(untied, seed) for seed in (2, 3))
    del untied
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    role = rl_cluster.Role
    places = dict.fromkeys((role.ACTOR, role.CRITIC, role.REFERENCE, role.REWARD, role.ROLLOUT), mesh)
    training = rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(1e-6), critic_optimizer=optax.adamw(1e-6), eval_every_n_steps=10**9,
        max_steps=10**6, mini_batch_size=batch, train_micro_batch_size=batch, rollout_micro_batch_size=batch,
        compute_logps_micro_batch_size=batch,
    )  # fmt: skip
    rollout = base_rollout.RolloutConfig(
        max_tokens_to_generate=new, max_prompt_length=prompt, kv_cache_size=prompt + new, temperature=1.0, top_p=1.0
    )
    cluster = rl_cluster.RLCluster(
        actor=actor, critic=critic, reference=reference, reward=reward, tokenizer=Ids(model["shape"]["vocab_size"]),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=places, rollout_engine="vanilla", offload_to_cpu=False, training_config=training,
            rollout_config=rollout,
        ),
    )  # fmt: skip
    learner = ppo_learner.PPOLearner(
        rl_cluster=cluster, ppo_config=ppo_learner.PPOConfig(num_iterations=epochs, beta=0.05)
    )
    seconds = {}

    def time_call(owner, name: str, phase: str) -> None:
        method = getattr(owner, name)

        def timed(*args, **kwargs):
            began = time.perf_counter()
            out = jax.block_until_ready(method(*args, **kwargs))
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began
            return out

        setattr(owner, name, timed)

    time_call(cluster, "generate", "rollout")
    for name in ("get_ref_per_token_logps", "get_old_per_token_logps", "get_values", "get_rewards"):
        time_call(cluster, name, "score")
    prompts = texts(model, batch, prompt)

    def batches():
        """Asked for the next batch when an iteration is over."""
        while turns.wait():
            yield {"prompts": np.array(prompts)}
            jax.block_until_ready((nnx.state(cluster.actor_trainer.model), nnx.state(cluster.critic_trainer.model)))
            total = turns.watch.read()[0]
            phases = {"rollout": seconds["rollout"], "score": seconds["score"]}
            turns.done({**phases, "learn": total - sum(phases.values())})
            seconds.clear()

    learner.train(batches())
