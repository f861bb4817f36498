"""SmolLM2-135M-Instruct becomes an expert for commonsense questions that explains itself; adapters on one base.

    ICEGRT_DATA=DIR python experiments/smollm2_ecqa/run.py --model=models/smollm2-135m-instruct --size=laptop

does all of the study with this file and evaluator.py; DIR has the public sets of docs/data.md. :laptop is for two
cores, :short for one and an hour, :gpu for one large GPU, :smoke for a look. README.md says what each costs.
"""

import pathlib

from icegrt_jax.config import default_config

SWITCHES = ("laptop", "short", "gpu", "smoke")
HALVES = pathlib.Path(__file__).with_name("halves.py")
# By size, what is learned and what is measured.
SIZES = {
    "gpu": {
        "sft": (300, 32), "reward": (300, 16), "ppo": (100, 128), "ptx": 16, "value_warmup": 5, "normalize": 256,
        "evaluate": (500, 2, 8), "temperatures": (0.0, 0.5, 1.0), "dev": 128, "at_once": 256,
    },
    "laptop": {
        "sft": (120, 8), "reward": (80, 8), "ppo": (40, 32), "ptx": 4, "value_warmup": 3, "normalize": 64,
        "evaluate": (200, 1, 4), "temperatures": (0.0, 0.5, 1.0), "dev": 48, "at_once": 32,
    },
    "short": {
        "sft": (40, 4), "reward": (24, 4), "ppo": (12, 16), "ptx": 2, "value_warmup": 1, "normalize": 32,
        "evaluate": (50, 1, 4), "temperatures": (), "dev": 0, "at_once": 25,
    },
    "smoke": {
        "sft": (2, 2), "reward": (2, 2), "ppo": (2, 4), "ptx": 2, "value_warmup": 0, "normalize": 4,
        "evaluate": (4, 1, 2), "temperatures": (), "dev": 0, "at_once": 4,
    },
}  # fmt: skip


def base(size):
    """What the chain and the evaluation's reward model have in common; {key: value} of a size, and the config."""
    c, sizes = default_config(), SIZES[size]
    c.model.path = "models/smollm2-135m-instruct"
    c.model.scan_layers, c.model.remat = True, "dots"
    c.model.dtype = "bfloat16" if size == "gpu" else "float32"
    c.max_prompt_length, c.max_response_length = 96, 64
    for lora in (c.sft.lora, c.reward.lora, c.ppo.lora):
        lora.rank, lora.alpha = 16, 32.0
    for stage in (c.sft, c.reward):
        # Adapters take larger steps than whole models, and few steps larger ones than many.
        stage.optimizer.lr, stage.optimizer.schedule, stage.optimizer.final_lr_fraction = 5e-4, "cosine", 0.1

    c.domain_sizes.update({"ecqa": 10_000, "cos_e": 10_000, "ecqa_prompts": 10_000, "cos_e_prompts": 10_000})
    c.domain_sizes.update({"rated": 10_000, "choices": 10_000})  # all that there are
    c.sft.steps, c.sft.batch_size = sizes["sft"]
    c.sft.length, c.sft.overlong = 256, "cut"
    c.sft.sources.ecqa, c.sft.weights.ecqa = "jsonl:{workdir}/data/ecqa.jsonl", 0.4
    c.sft.sources.cos_e, c.sft.weights.cos_e = "jsonl:{workdir}/data/cos_e.jsonl", 0.4
    c.sft.sources.dolly, c.sft.weights.dolly = "alpaca:instruct/dolly_hhrlhf/train.jsonl", 0.2
    c.sft.optimizer.warmup_steps = c.sft.steps // 10

    c.reward.steps, c.reward.batch_size = sizes["reward"]
    c.reward.length, c.reward.overlong = 160, "cut"
    c.reward.sources.rated, c.reward.weights.rated = "jsonl:{workdir}/data/rated.jsonl", 0.6
    c.reward.sources.choices, c.reward.weights.choices = "jsonl:{workdir}/data/choices.jsonl", 0.4
    c.reward.optimizer.warmup_steps = c.reward.steps // 10
    c.reward.on_policy_k = 0  # people rated these explanations; nobody can rate the policy's own here
    c.reward.normalize_on = sizes["normalize"]

    for name, weight in (("ecqa", 0.5), ("cos_e", 0.5)):
        c.ppo.sources[name], c.ppo.weights[name] = f"jsonl:{{workdir}}/data/{name}_prompts.jsonl", weight
    c.evaluate.batch_size = sizes["at_once"]
    c.log.every, c.log.checkpoint_every, c.log.ppo_checkpoint_every = 1, max(2, c.sft.steps // 10), 2
    return c, sizes


def get_config(switch="laptop"):
    c, sizes = base(switch)
    c.domain = f"{HALVES}:Chain"
    c.roles.shared_base = True

    c.ppo.iterations, c.ppo.batch_size = sizes["ppo"]
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 1, 2
    c.ppo.value_warmup = sizes["value_warmup"]
    c.ppo.rewards.right = f"{HALVES}:right_choice"
    c.ppo.judge = "domain"
    # Not as in the quickstart, whose sharper reference is a price of every token; see README.md for what came of it.
    c.ppo.kl.coef, c.ppo.kl.adaptive = 0.05, False
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 0.2, sizes["ptx"], 256
    c.ppo.ptx.sources.dolly, c.ppo.ptx.weights.dolly = "alpaca:instruct/dolly_hhrlhf/train.jsonl", 1.0
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 2e-4, 5e-4
    c.ppo.policy_optimizer.schedule, c.ppo.policy_optimizer.final_lr_fraction = "cosine", 0.1

    limit, c.evaluate.samples, c.evaluate.best_of = sizes["evaluate"]
    c.evaluate.domain.ecqa = "ecqa:domain/ecqa/official_val.jsonl.gz"
    c.evaluate.judge, c.evaluate.limit, c.evaluate.examples = "domain", limit, min(20, limit)
    if sizes["temperatures"]:
        c.evaluate.temperatures, c.evaluate.temperature_limit = sizes["temperatures"], sizes["dev"]
        c.evaluate.temperature_prompts.dev = "cos_e:domain/cos_e/test.jsonl"
    c.log.browsed = min(20, limit)
    return c
