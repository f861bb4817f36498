"""Tiny configs to plan."""

from icegrt_jax.config import default_config


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


ADAPTERS = {"roles.shared_base": True, "reward.lora.rank": 2, "ppo.lora.rank": 2, "model.param_dtype": "int8"}
MEMORY = {"arguments": 100, "outputs": 90, "aliased": 80, "temporaries": 1000, "code": 5}  # as of a compiled program
