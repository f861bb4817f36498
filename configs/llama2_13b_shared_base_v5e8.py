"""13B on eight TPU v5e chips (v5e:2x4, 16 GB each): one frozen bfloat16 base, and adapters for every role.

ICE-Instruct is an adapter on the base, too. The data are yours, the files those of configs/llama2_13b_v5p.py; from an
empty project to the run: docs/tpu.md.

    icegrt run --config=configs/llama2_13b_shared_base_v5e8.py --workdir=/mnt/bucket/llama2_13b_shared

Half the memory for the base, which is then int8: --config=configs/llama2_13b_shared_base_v5e8.py:int8
Two steps of every stage at full width and short length: --config=configs/llama2_13b_shared_base_v5e8.py:smoke
"""

from icegrt_jax.config import default_config

SWITCHES = ("", "int8", "smoke")


def get_config(switch=""):
    c = default_config()
    # Gated: accept its licence on the hub and log in, or name a folder. The base model has no chat template.
    c.model.path, c.model.hf_config = "meta-llama/Llama-2-13b-chat-hf", "configs/shapes/llama2_13b"
    c.model.scan_layers, c.model.remat, c.model.dtype = True, "full", "bfloat16"
    c.model.param_dtype = "int8" if switch == "int8" else "bfloat16"
    c.mesh.data, c.mesh.fsdp = 1, -1
    # While sampling, one copy of the weights lies over all chips; for two copies there is no room.
    c.mesh.rollout_tensor = 4 if switch == "int8" else 8
    c.max_prompt_length, c.max_response_length = 512, 512

    c.roles.shared_base = True
    for lora in (c.sft.lora, c.reward.lora, c.ppo.lora):
        lora.rank, lora.alpha = 32, 64.0

    c.sft.steps, c.sft.batch_size, c.sft.length = 2000, 32, 1024
    c.sft.sources.domain, c.sft.weights.domain = "jsonl:instructions_domain.jsonl", 0.6
    c.sft.sources.general, c.sft.weights.general = "jsonl:instructions_general.jsonl", 0.4
    c.sft.overlong = "cut"
    c.sft.optimizer.lr, c.sft.optimizer.warmup_steps = 2e-4, 50
    c.sft.optimizer.schedule, c.sft.optimizer.final_lr_fraction = "cosine", 0.1

    c.reward.steps, c.reward.batch_size, c.reward.length = 1000, 16, 1024
    c.reward.microbatch = 8 if switch == "int8" else 0  # all 16 do not fit four chips
    c.reward.sources.answers, c.reward.weights.answers = "jsonl:rankings.jsonl", 1.0
    c.reward.heldout.answers, c.reward.heldout_limit = "jsonl:rankings_heldout.jsonl", 256
    c.reward.optimizer.lr, c.reward.optimizer.warmup_steps = 1e-4, 40
    c.reward.optimizer.schedule, c.reward.optimizer.final_lr_fraction = "cosine", 0.1
    c.reward.on_policy_k = 0  # the simulated annotators are the embedded domain's

    c.ppo.iterations, c.ppo.batch_size = 400, 64
    c.ppo.num_ppo_epochs, c.ppo.num_minibatches = 1, 4
    c.ppo.rollout_slots = 8 if switch == "int8" else 16  # of 1024 tokens: 7 or 13 GB of keys and values
    c.ppo.sources.domain, c.ppo.weights.domain = "jsonl:prompts.jsonl", 1.0
    c.ppo.value_warmup = 10
    c.ppo.kl.target, c.ppo.kl.coef, c.ppo.kl.horizon = 8.0, 0.03, 5000.0
    c.ppo.ptx.coef, c.ppo.ptx.batch_size, c.ppo.ptx.length = 0.2, 32, 1024
    c.ppo.ptx.sources.general, c.ppo.ptx.weights.general = "jsonl:instructions_general.jsonl", 1.0
    # Adapters take larger steps than whole models.
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 2e-5, 1e-4
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 20

    c.evaluate.domain.questions, c.evaluate.judge = "jsonl:eval_domain.jsonl", "overlap"
    c.evaluate.general.tasks, c.evaluate.general_judge = "jsonl:eval_general.jsonl", "exact"
    c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of = 256, 8, 4

    c.log.checkpoint_every, c.log.ppo_checkpoint_every = 200, 10

    if switch == "smoke":
        c.max_prompt_length, c.max_response_length = 128, 32
        c.sft.steps = c.reward.steps = c.ppo.iterations = 2
        c.sft.batch_size = c.reward.batch_size = 8
        c.sft.length = c.reward.length = c.ppo.ptx.length = 256
        c.reward.overlong = c.overlong_prompts = "cut"
        c.reward.heldout_limit = c.reward.normalize_on = 8
        c.ppo.batch_size, c.ppo.ptx.batch_size, c.ppo.num_minibatches = 16, 16, 2
        c.ppo.rollout_slots, c.ppo.value_warmup = 0, 0
        c.evaluate.limit, c.evaluate.batch_size, c.evaluate.best_of = 8, 8, 2
        c.log.every = 1
    return c
