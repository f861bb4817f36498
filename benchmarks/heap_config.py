"""The run of `benchmarks/heap.py`: an adapter on a shared base where the stage allows one, made-up records.

python -m benchmarks.heap
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "quick")


def get_config(switch=""):
    c = default_config()
    c.max_prompt_length, c.max_response_length, c.overlong_prompts = 128, 64, "cut"
    for stage, kind in (("sft", "instructions"), ("reward", "rankings"), ("ppo", "prompts")):
        c[stage].sources.made_up, c[stage].weights.made_up = f"jsonl:{{workdir}}/{kind}.jsonl", 1.0
    c.sft.steps, c.sft.batch_size, c.sft.length, c.sft.overlong = 5, 8, 256, "cut"
    c.reward.steps, c.reward.batch_size, c.reward.length, c.reward.overlong = 12, 2, 224, "cut"
    c.reward.on_policy_k, c.reward.normalize_on = 0, 8
    c.ppo.iterations, c.ppo.batch_size, c.ppo.microbatch = 6, 16, 4
    c.sft.optimizer.lr = c.reward.optimizer.lr = c.ppo.policy_optimizer.lr = c.ppo.value_optimizer.lr = 1e-6
    c.roles.shared_base = True
    c.reward.lora.rank = c.ppo.lora.rank = 16
    c.log.every = 1
    if switch == "quick":  # a tokenizer of the embedded domain, which the others have in their model's folder
        c.domain, c.domain_sizes.corpus, c.domain_sizes.demonstrations, c.domain_sizes.general = "adreview", 120, 40, 40
        c.model.d_model, c.model.num_layers, c.model.d_ff = 32, 2, 64
        c.sft.steps = c.reward.steps = c.ppo.iterations = 2
    return c
