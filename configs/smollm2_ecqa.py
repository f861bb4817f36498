"""The whole chain on a real model and real data: SmolLM2-135M-Instruct, commonsense questions with reasons.

First `make smollm2`, which writes models/smollm2-135m-instruct. The data are public sets (docs/data.md says
where each comes from); the folder that holds them is `data_dir` or the environment's ICEGRT_DATA.

    icegrt run --config=configs/smollm2_ecqa.py --workdir=runs/smollm2_ecqa

In-domain: ECQA and CoS-E, an answer and why it is right. Rankings: human acceptability of explanations, and
right choices above wrong ones. General: Dolly and Alpaca. The numbers are sized for one accelerator with
16 GB or more (float32 products take several passes there, with --config.model.dtype=bfloat16 one); on a laptop CPU use
:smoke, a few steps of every stage on the same model and data.
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "smoke")


def get_config(switch=""):
    c = default_config()
    c.model.path = "models/smollm2-135m-instruct"
    c.model.scan_layers = True  # 30 layers, compiled once
    c.model.remat = "dots"  # less memory at little cost
    c.max_prompt_length, c.max_response_length = 192, 128
    c.overlong_prompts = "drop"

    c.sft.steps, c.sft.batch_size, c.sft.length = 600, 32, 512
    c.sft.sources.ecqa, c.sft.weights.ecqa = "ecqa:domain/ecqa/official_test.jsonl.gz", 0.35
    c.sft.sources.cos_e, c.sft.weights.cos_e = "cos_e:domain/cos_e/train.jsonl.gz", 0.25
    c.sft.sources.dolly, c.sft.weights.dolly = "alpaca:instruct/dolly_hhrlhf/train.jsonl", 0.1
    c.sft.sources.alpaca, c.sft.weights.alpaca = "alpaca:instruct/alpaca/train.jsonl.gz", 0.3
    c.sft.overlong = "cut"
    c.sft.optimizer.lr, c.sft.optimizer.warmup_steps = 2e-5, 30
    c.sft.optimizer.schedule = "cosine"

    c.reward.steps, c.reward.batch_size, c.reward.length = 300, 16, 320
    c.reward.sources.explanations = "kway:preference/explanations_kway/train.jsonl.gz"
    c.reward.sources.choices = "ecqa_choices:domain/ecqa/official_test.jsonl.gz"
    c.reward.weights.explanations, c.reward.weights.choices = 0.6, 0.4
    c.reward.heldout.explanations = "kway:preference/explanations_kway/test.jsonl"
    c.reward.heldout.choices = "ecqa_choices:domain/ecqa/official_val.jsonl.gz"
    c.reward.optimizer.lr, c.reward.optimizer.warmup_steps = 1e-5, 20
    c.reward.on_policy_k = 0  # people ranked these answers; nobody can rank the model's own here

    c.ppo.iterations, c.ppo.batch_size = 200, 64
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 2, 4
    c.ppo.sources.ecqa, c.ppo.weights.ecqa = "ecqa:domain/ecqa/official_test.jsonl.gz", 0.5
    c.ppo.sources.cos_e, c.ppo.weights.cos_e = "cos_e:domain/cos_e/train.jsonl.gz", 0.5
    c.ppo.judge = "choice"
    c.ppo.temperature = 0.8
    c.ppo.value_warmup = 5
    c.ppo.kl.target, c.ppo.kl.coef, c.ppo.kl.horizon = 6.0, 0.05, 4000.0
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 0.1, 16, 256
    c.ppo.ptx.sources.alpaca, c.ppo.ptx.weights.alpaca = "alpaca:instruct/alpaca/train.jsonl.gz", 1.0
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-6, 5e-6
    c.ppo.policy_optimizer.warmup_steps = 8

    c.evaluate.domain.ecqa = "ecqa:domain/ecqa/official_val.jsonl.gz"
    c.evaluate.judge = "choice"
    c.evaluate.general.dolly = "alpaca:instruct/dolly_hhrlhf/heldout.jsonl"
    c.evaluate.general_judge = "overlap"
    c.evaluate.limit, c.evaluate.temperature, c.evaluate.best_of = 256, 0.8, 4

    if switch == "smoke":
        c.max_prompt_length, c.max_response_length = 128, 24
        c.sft.steps = c.reward.steps = c.ppo.iterations = 2
        c.sft.batch_size, c.sft.length = 2, 192
        c.reward.batch_size, c.reward.length = 2, 192
        c.reward.normalize_on = 4
        c.ppo.batch_size, c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 4, 1, 2
        c.ppo.value_warmup, c.ppo.policy_optimizer.warmup_steps = 0, 0
        c.ppo.ptx.batch_size, c.ppo.ptx.length = 2, 128
        c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of, c.evaluate.examples = 4, 4, 2, 2
        c.reward.heldout_limit = 8
        c.log.every = 1
    return c
