"""The smallest run that has every format a stage leaves: of whole models, or with adapters on one shared base."""

from icegrt_jax.config import default_config

SWITCHES = ("", "shared_base")


def get_config(switch=""):
    c = default_config()
    c.domain = "adreview"
    sizes = {"corpus": 32, "demonstrations": 32, "general": 24, "rankings": 8, "ranking_prompts": 8,
             "heldout_rankings": 6, "prompts": 16, "eval_prompts": 2, "eval_general": 1}  # fmt: skip
    c.domain_sizes.update(sizes)
    c.tokenizer.vocab_size = 400
    c.max_prompt_length, c.max_response_length = 120, 8
    c.model.d_model, c.model.num_layers, c.model.d_ff = 8, 2, 16
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim = 2, 1, 4
    c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 4, 4, 64
    c.pretrain.sources.corpus, c.pretrain.weights.corpus = "jsonl:{workdir}/data/corpus.jsonl", 1.0
    c.sft.steps, c.sft.batch_size, c.sft.length, c.sft.overlong = 4, 4, 192, "cut"
    c.sft.sources.domain, c.sft.weights.domain = "jsonl:{workdir}/data/demonstrations.jsonl", 1.0
    c.reward.steps, c.reward.batch_size, c.reward.length, c.reward.overlong = 4, 4, 192, "cut"
    c.reward.sources.made, c.reward.weights.made = "jsonl:{workdir}/data/rankings.jsonl", 1.0
    c.reward.heldout.made = "jsonl:{workdir}/data/heldout_rankings.jsonl"
    c.reward.on_policy_k, c.reward.normalize_on = 0, 8
    c.ppo.iterations, c.ppo.batch_size, c.ppo.num_minibatches = 4, 8, 2
    c.ppo.sources.ads, c.ppo.weights.ads = "jsonl:{workdir}/data/prompts.jsonl", 1.0
    c.ppo.judge = "adreview"
    c.evaluate.domain.ads, c.evaluate.general.tasks = (
        f"jsonl:{{workdir}}/data/{name}.jsonl" for name in ("eval_prompts", "eval_general")
    )
    c.evaluate.judge = "adreview"
    # Steps so large that a tree that was not read, or moments that begin anew, are seen in the numbers.
    for stage in (c.pretrain, c.sft, c.reward):
        stage.optimizer.lr = 1e-2
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-2, 1e-2
    c.log.compile_cache, c.log.every, c.log.checkpoint_every, c.log.ppo_checkpoint_every = False, 1, 100, 2
    if switch == "shared_base":
        c.roles.shared_base, c.model.param_dtype = True, "int8"
        c.sft.lora.rank = c.reward.lora.rank = c.ppo.lora.rank = 2
    return c
