"""The paper's size: ICE-GRT with four 13B models, all parameters trained, on a TPU v5p slice of 16 chips.

The data are yours, JSON lines under `data_dir` (or the environment's ICEGRT_DATA), see docs/data.md:
instructions_domain, instructions_general, rankings, rankings_heldout, prompts, eval_domain and eval_general,
each with .jsonl behind it; eval prompts have a "reference". docs/tpu.md goes from an empty project to the run.

    icegrt run --config=configs/llama2_13b_v5p.py --workdir=/mnt/bucket/llama2_13b

A PPO iteration is 512 prompts of up to 1024 tokens with responses of up to 1024. Two steps of every stage at
full width and short length, to see that model, data and slice go together:
--config=configs/llama2_13b_v5p.py:smoke
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "smoke")


def get_config(switch=""):
    c = default_config()
    # Gated: accept its licence on the hub and log in, or name a folder. The base model has no chat template.
    c.model.path, c.model.hf_config = "meta-llama/Llama-2-13b-chat-hf", "configs/shapes/llama2_13b"
    c.model.scan_layers, c.model.remat = True, "full"
    c.model.dtype = c.model.param_dtype = "bfloat16"  # of the computation, and of reference and reward model
    c.mesh.data, c.mesh.fsdp = 1, -1
    c.max_prompt_length, c.max_response_length = 1024, 1024

    c.sft.steps, c.sft.batch_size, c.sft.length = 1500, 128, 2048
    c.sft.sources.domain, c.sft.weights.domain = "jsonl:instructions_domain.jsonl", 0.6
    c.sft.sources.general, c.sft.weights.general = "jsonl:instructions_general.jsonl", 0.4
    c.sft.overlong = "cut"
    c.sft.optimizer.lr, c.sft.optimizer.warmup_steps = 1e-5, 50
    c.sft.optimizer.schedule, c.sft.optimizer.final_lr_fraction = "cosine", 0.1

    c.reward.steps, c.reward.batch_size, c.reward.length = 800, 64, 2048
    c.reward.sources.answers, c.reward.weights.answers = "jsonl:rankings.jsonl", 1.0
    c.reward.heldout.answers, c.reward.heldout_limit = "jsonl:rankings_heldout.jsonl", 512
    c.reward.optimizer.lr, c.reward.optimizer.warmup_steps = 5e-6, 40
    c.reward.optimizer.schedule, c.reward.optimizer.final_lr_fraction = "cosine", 0.1
    c.reward.on_policy_k = 0  # the simulated annotators are the embedded domain's
    c.reward.normalize_on = 512

    c.ppo.iterations, c.ppo.batch_size = 300, 512
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 1, 4
    c.ppo.rollout_slots = 256  # of 2048 tokens: 430 GB of keys and values over the slice; 64 for one of 8 chips
    c.ppo.sources.domain, c.ppo.weights.domain = "jsonl:prompts.jsonl", 1.0
    c.ppo.value_warmup = 10
    c.ppo.kl.target, c.ppo.kl.coef, c.ppo.kl.horizon = 12.0, 0.02, 20000.0
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 0.2, 128, 1024
    c.ppo.ptx.sources.general, c.ppo.ptx.weights.general = "jsonl:instructions_general.jsonl", 1.0
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-6, 5e-6
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 20

    c.evaluate.domain.questions, c.evaluate.judge = "jsonl:eval_domain.jsonl", "overlap"
    c.evaluate.general.tasks, c.evaluate.general_judge = "jsonl:eval_general.jsonl", "exact"
    c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of = 512, 64, 4

    c.log.checkpoint_every, c.log.ppo_checkpoint_every = 250, 10

    if switch == "smoke":
        c.max_prompt_length, c.max_response_length = 128, 32
        c.sft.steps = c.reward.steps = c.ppo.iterations = 2
        c.sft.batch_size = c.reward.batch_size = 16
        c.sft.length = c.reward.length = c.ppo.ptx.length = 256
        c.reward.overlong = c.overlong_prompts = "cut"
        c.reward.heldout_limit = c.reward.normalize_on = 16
        c.ppo.batch_size, c.ppo.ptx.batch_size, c.ppo.num_minibatches = 32, 32, 2
        c.ppo.rollout_slots, c.ppo.value_warmup = 0, 0
        c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of = 16, 16, 2
        c.log.every = 1
    return c
