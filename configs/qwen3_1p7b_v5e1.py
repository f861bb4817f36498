"""Qwen3-1.7B on one TPU v5e chip (16 GB), such as Colab's: commonsense questions with reasons, one shared base.

Model and data are public: the model comes from the Hugging Face hub, the data are the sets of
configs/smollm2_ecqa.py (docs/data.md says where each comes from), under `data_dir` or the environment's ICEGRT_DATA.

    icegrt run --config=configs/qwen3_1p7b_v5e1.py --workdir=runs/qwen3_1p7b

The base is frozen in bfloat16; ICE-Instruct, reward model, actor and critic are adapters. A few steps of every
stage: --config=configs/qwen3_1p7b_v5e1.py:smoke
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "smoke")


def get_config(switch=""):
    c = default_config()
    c.model.path, c.model.hf_config = "Qwen/Qwen3-1.7B", "configs/shapes/qwen3_1p7b"
    c.model.scan_layers, c.model.remat = True, "full"
    c.model.dtype = c.model.param_dtype = "bfloat16"
    c.max_prompt_length, c.max_response_length = 192, 128

    c.roles.shared_base = True
    for lora in (c.sft.lora, c.reward.lora, c.ppo.lora):
        lora.rank, lora.alpha = 16, 32.0

    c.sft.steps, c.sft.batch_size, c.sft.length = 600, 16, 512
    c.sft.sources.ecqa, c.sft.weights.ecqa = "ecqa:domain/ecqa/official_test.jsonl.gz", 0.35
    c.sft.sources.cos_e, c.sft.weights.cos_e = "cos_e:domain/cos_e/train.jsonl.gz", 0.25
    c.sft.sources.dolly, c.sft.weights.dolly = "alpaca:instruct/dolly_hhrlhf/train.jsonl", 0.1
    c.sft.sources.alpaca, c.sft.weights.alpaca = "alpaca:instruct/alpaca/train.jsonl.gz", 0.3
    c.sft.overlong = "cut"
    c.sft.optimizer.lr, c.sft.optimizer.warmup_steps = 2e-4, 30
    c.sft.optimizer.schedule, c.sft.optimizer.final_lr_fraction = "cosine", 0.1

    c.reward.steps, c.reward.batch_size, c.reward.length = 400, 8, 320
    c.reward.sources.explanations = "kway:preference/explanations_kway/train.jsonl.gz"
    c.reward.sources.choices = "ecqa_choices:domain/ecqa/official_test.jsonl.gz"
    c.reward.weights.explanations, c.reward.weights.choices = 0.6, 0.4
    c.reward.heldout.explanations = "kway:preference/explanations_kway/test.jsonl"
    c.reward.heldout.choices = "ecqa_choices:domain/ecqa/official_val.jsonl.gz"
    c.reward.optimizer.lr, c.reward.optimizer.warmup_steps = 1e-4, 20
    c.reward.on_policy_k = 0  # people ranked these answers; nobody can rank the model's own here

    c.ppo.iterations, c.ppo.batch_size = 200, 64
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 1, 4
    c.ppo.sources.ecqa, c.ppo.weights.ecqa = "ecqa:domain/ecqa/official_test.jsonl.gz", 0.5
    c.ppo.sources.cos_e, c.ppo.weights.cos_e = "cos_e:domain/cos_e/train.jsonl.gz", 0.5
    c.ppo.judge = "choice"
    c.ppo.value_warmup = 5
    c.ppo.kl.target, c.ppo.kl.coef, c.ppo.kl.horizon = 6.0, 0.05, 4000.0
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 0.1, 16, 256
    c.ppo.ptx.sources.alpaca, c.ppo.ptx.weights.alpaca = "alpaca:instruct/alpaca/train.jsonl.gz", 1.0
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 2e-5, 1e-4
    c.ppo.policy_optimizer.warmup_steps = 8

    c.evaluate.domain.ecqa = "ecqa:domain/ecqa/official_val.jsonl.gz"
    c.evaluate.judge = "choice"
    c.evaluate.general.dolly = "alpaca:instruct/dolly_hhrlhf/heldout.jsonl"
    c.evaluate.general_judge = "overlap"
    c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of = 256, 16, 4  # 64 answers at a time beside the model

    if switch == "smoke":
        c.max_response_length = 24
        c.sft.steps = c.reward.steps = c.ppo.iterations = 2
        c.sft.batch_size = c.reward.batch_size = 2
        c.sft.length = c.reward.length = c.ppo.ptx.length = 224
        c.reward.heldout_limit = c.reward.normalize_on = 8
        c.ppo.batch_size, c.ppo.ptx.batch_size, c.ppo.num_minibatches = 4, 2, 2
        c.ppo.value_warmup, c.ppo.policy_optimizer.warmup_steps = 0, 0
        c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of, c.evaluate.examples = 4, 4, 2, 2
        c.log.every = 1
    return c
