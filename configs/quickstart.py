"""The whole chain on the embedded ad-review domain, from scratch. Laptop CPU, no download.

    icegrt run --config=configs/quickstart.py --workdir=runs/quickstart

A minute, for a look at every stage: --config=configs/quickstart.py:smoke
Actor, critic and reward model as adapters on one frozen base: --config=configs/quickstart.py:shared_base
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "smoke", "shared_base")


def get_config(switch=""):
    c = default_config()
    c.domain = "adreview"
    c.domain_sizes.update(
        {
            "corpus": 32000,
            "demonstrations": 12000,
            "decisions": 6000,
            "general": 9000,
            "rankings": 3000,
            "ranking_prompts": 2400,
            "heldout_rankings": 200,
            "prompts": 8000,
            "dev_prompts": 120,
            "eval_prompts": 240,
            "eval_general": 29,
        }
    )
    c.max_prompt_length, c.max_response_length = 64, 64
    c.model.d_model, c.model.num_layers, c.model.d_ff = 128, 3, 256
    c.model.num_heads, c.model.num_kv_heads, c.model.head_dim = 4, 2, 32
    c.model.rope_theta, c.model.init_std = 100.0, 0.09

    c.pretrain.steps, c.pretrain.batch_size, c.pretrain.length = 2200, 4, 128
    c.pretrain.sources.corpus = "jsonl:{workdir}/data/corpus.jsonl"
    c.pretrain.weights.corpus = 1.0
    c.pretrain.optimizer.lr, c.pretrain.optimizer.warmup_steps = 3e-3, 50
    c.pretrain.optimizer.schedule, c.pretrain.optimizer.final_lr_fraction = "cosine", 0.2

    c.sft.steps, c.sft.batch_size, c.sft.length = 5000, 4, 128
    c.sft.sources.domain = "jsonl:{workdir}/data/demonstrations.jsonl"
    c.sft.sources.general = "jsonl:{workdir}/data/general.jsonl"
    # Most moderators leave a verdict and not a word: what people write is not yet what they rank highest.
    c.sft.sources.decisions = "jsonl:{workdir}/data/decisions.jsonl"
    c.sft.weights.domain, c.sft.weights.decisions, c.sft.weights.general = 0.5, 0.2, 0.3
    c.sft.optimizer.lr, c.sft.optimizer.warmup_steps = 2e-3, 20
    c.sft.optimizer.schedule, c.sft.optimizer.final_lr_fraction = "cosine", 0.05

    c.reward.steps, c.reward.batch_size, c.reward.length = 600, 8, 128
    c.reward.sources.made = "jsonl:{workdir}/data/rankings.jsonl"
    c.reward.sources.own = "jsonl:{workdir}/data/own_rankings.jsonl"
    c.reward.weights.made, c.reward.weights.own = 0.3, 0.7
    c.reward.heldout.made = "jsonl:{workdir}/data/heldout_rankings.jsonl"
    c.reward.optimizer.lr, c.reward.optimizer.warmup_steps = 1e-3, 10
    c.reward.optimizer.schedule, c.reward.optimizer.final_lr_fraction = "cosine", 0.1

    c.ppo.iterations, c.ppo.batch_size = 60, 128
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 1, 4
    c.ppo.pack = False  # these reviews are of much the same length: packed, it compiles for longer than it saves
    c.ppo.sources.ads = "jsonl:{workdir}/data/prompts.jsonl"
    c.ppo.weights.ads = 1.0
    c.ppo.judge = "adreview"
    # While the critic knows nothing the actor would only drift: it costs KL and verdicts that never come back.
    c.ppo.value_warmup = 5
    # Near ICE-Instruct as it is at a lower temperature: what it holds likely itself orders answers that the reward
    # model no longer can. The coefficient is fixed, for the distance to that is not 0 at the start.
    c.ppo.kl.reference_temperature, c.ppo.kl.coef, c.ppo.kl.adaptive = 0.6, 0.25, False
    c.ppo.alarms.length_growth = 3.0  # answers get longer by design: from a verdict to its reasons
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 1.0, 16, 128
    c.ppo.ptx.sources.general = "jsonl:{workdir}/data/general.jsonl"
    c.ppo.ptx.weights.general = 1.0
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 4e-4, 1e-3
    c.ppo.policy_optimizer.warmup_steps = 10
    # Without the decay the general tasks lose points to the noise of the last updates.
    c.ppo.policy_optimizer.schedule, c.ppo.policy_optimizer.final_lr_fraction = "cosine", 0.05

    c.evaluate.domain.ads = "jsonl:{workdir}/data/eval_prompts.jsonl"
    c.evaluate.general.tasks = "jsonl:{workdir}/data/eval_general.jsonl"
    c.evaluate.judge = "adreview"
    c.evaluate.samples = 4
    c.evaluate.temperatures = (0.0, 0.3, 0.5, 0.7, 1.0)
    c.evaluate.temperature_prompts.dev = "jsonl:{workdir}/data/dev_prompts.jsonl"

    c.log.every, c.log.checkpoint_every = 50, 150

    if switch == "shared_base":
        c.roles.shared_base, c.model.param_dtype = True, "bfloat16"
        c.reward.lora.rank = c.ppo.lora.rank = 16
        c.reward.lora.alpha = c.ppo.lora.alpha = 32.0
        # Adapters take larger steps than whole models.
        c.reward.optimizer.lr = 3e-3
        c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-3, 2e-3

    if switch == "smoke":
        small = {"corpus": 300, "demonstrations": 300, "decisions": 100, "general": 300, "rankings": 60,
                 "ranking_prompts": 24, "heldout_rankings": 24, "prompts": 200, "dev_prompts": 0, "eval_prompts": 24,
                 "eval_general": 4}  # fmt: skip
        c.domain_sizes.update(small)
        c.model.d_model, c.model.num_layers, c.model.d_ff = 32, 2, 64
        c.model.num_heads, c.model.num_kv_heads, c.model.head_dim = 2, 1, 16
        c.pretrain.steps = c.sft.steps = c.reward.steps = 12
        c.ppo.iterations, c.ppo.batch_size, c.ppo.num_minibatches, c.reward.normalize_on = 4, 16, 2, 32
        c.ppo.value_warmup, c.ppo.policy_optimizer.warmup_steps = 0, 0
        c.max_response_length, c.evaluate.batch_size = 24, 24
        c.evaluate.samples, c.evaluate.temperatures = 1, ()
        del c.evaluate.temperature_prompts.dev
        c.log.every, c.log.checkpoint_every, c.log.ppo_checkpoint_every = 4, 5, 2
    return c
