"""Tiny configs to plan."""

from icegrt_jax.commands.planned import Planned
from icegrt_jax.config import default_config, read
from icegrt_jax.plan import shapes


def tiny(**values):
    """SFT, reward and PPO of a model of two scanned layers."""
    c = default_config()
    c.domain = "adreview"
    c.tokenizer.vocab_size = 96
    c.model.d_model, c.model.num_layers, c.model.d_ff = 32, 2, 64
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim = 4, 4, 8
    c.model.scan_layers, c.model.tie_embeddings = True, False
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.max_prompt_length = c.max_response_length = 8
    c.sft.steps, c.reward.steps, c.ppo.iterations = 100, 50, 10
    for section in (c.sft, c.reward, c.ppo):
        section.batch_size = 16
        section.sources.mine, section.weights.mine = "jsonl:mine.jsonl", 1.0
    c.sft.length = c.reward.length = 16
    for key, value in values.items():
        *groups, name = key.split(".")
        section = c
        for group in groups:
            section = section[group]
        section[name] = value
    return c


def models_of(config):
    return Planned(read(config), None, 4).models


def ppo_state(config, models=None):
    o = read(config)
    return shapes.ppo_state(
        o.ppo, o.value, models or models_of(config), reward_model=o.reward_model, shared_base=o.roles.shared_base,
        frozen=o.model.param_dtype, reward=o.reward,
    )  # fmt: skip


ADAPTERS = {"roles.shared_base": True, "reward.lora.rank": 2, "ppo.lora.rank": 2, "model.param_dtype": "int8"}
MEMORY = {"arguments": 100, "outputs": 90, "aliased": 80, "temporaries": 1000, "code": 5}  # as of a compiled program
