"""PPO-max (Secrets of RLHF in Large Language Models Part I, arXiv 2307.04964): PPO held by constraints.

    icegrt run --config=configs/recipes/ppo_max.py --workdir=runs/ppo_max

Read were the authors' program, OpenLMLab/MOSS-RLHF (config_ppo.py, run_en.sh, ppo/ppo_trainer.py,
accelerate_config.yaml), and of the paper a summary section by section, not its own pages: where a comment names a
section, the value is as that summary has it. Not built: the program's repetition penalty of 1.1 while sampling, and
its learning rate that falls with the inverse square root of the step. The data are yours; the embedded domain:
:quickstart, or :smoke for a look. docs/recipes.md has all recipes in one table.
"""

from icegrt_jax.config import default_config
from icegrt_jax.config.recipes import on_quickstart

SWITCHES = ("", "quickstart", "smoke")


def recipe(c):
    """The method."""
    c.ppo.estimator = "gae"  # section 5.4
    c.ppo.loss_aggregation = "own"  # ppo_trainer.py, criterion: the sum over all tokens by their number
    c.ppo.samples_per_prompt = 1  # ppo_trainer.py
    c.ppo.num_ppo_epochs = 1  # ppo_trainer.py, train: one pass, then the buffer is emptied
    c.ppo.temperature, c.ppo.top_p = 0.8, 0.9  # config_ppo.py, "Sample from env"
    c.ppo.gamma, c.ppo.lam = 1.0, 0.95  # run_en.sh
    c.ppo.lam_alpha, c.ppo.value_lam = 0.0, -1.0  # ppo_trainer.py: one λ for actor and critic
    c.ppo.cliprange, c.ppo.cliprange_high = 0.2, 0.0  # run_en.sh, --pg_clip; the same upwards
    c.ppo.cliprange_value = 0.2  # section 5.4; run_en.sh, --value_clip
    c.ppo.advantages, c.ppo.whiten_rewards = "none", False  # run_en.sh: no --use_advantage_norm
    c.ppo.entropy_coef = 0.0  # run_en.sh, --entropy_loss_weight
    c.ppo.filter_groups, c.ppo.redraw, c.ppo.filter_overlong = False, 0, False  # ppo_trainer.py: every response counts
    c.ppo.kl.into, c.ppo.kl.kind = "reward", "k1"  # section 5.3.2: a penalty of every token
    c.ppo.kl.coef, c.ppo.kl.adaptive = 0.05, False  # section 5.3.2; run_en.sh has 0.01, train_ppo_zh.sh 0.1
    c.ppo.kl.reference_temperature = 0.0  # not named: the temperature of the rollout
    c.ppo.score.scale = "running_mean_std"  # section 5.4: by mean and variance so far; run_en.sh divides only
    c.ppo.score.clip = 10.0  # config_ppo.py, --reward_clip; the δ of the paper's equation 18 could not be read
    c.ppo.score.baseline, c.ppo.score.shape = "none", "none"  # section 5.4: none
    c.ppo.score.eos_penalty = 0.0  # ppo_trainer.py: a warning, no penalty
    c.ppo.score.length_penalty, c.ppo.score.length_target = 0.0, 0  # section 5.4: none
    # Section 5.4 adds pre-training data to the loss, its weight could not be read; run_en.sh has 0. With general data
    # in ppo.ptx.sources set it, the equation is PPO-ptx's (arXiv 2203.02155).
    c.ppo.ptx.coef = 0.0
    c.value.init, c.value.trunk = "reward", "own"  # section 5.4; run_en.sh, --critic_model_path
    # ppo_trainer.py, invsqrt_scheduler: falls after the warm-up, which is not built; constant is ours.
    c.ppo.policy_optimizer.schedule = c.ppo.value_optimizer.schedule = "constant"
    c.ppo.policy_optimizer.final_lr_fraction = c.ppo.value_optimizer.final_lr_fraction = 0.0  # of no effect
    c.ppo.policy_optimizer.b2 = c.ppo.value_optimizer.b2 = 0.95  # config_ppo.py, --beta2
    c.ppo.policy_optimizer.eps, c.ppo.value_optimizer.eps = 1e-6, 1e-8  # config_ppo.py, --eps; build_optimizer
    c.ppo.policy_optimizer.weight_decay = c.ppo.value_optimizer.weight_decay = 0.0  # ppo_trainer.py, get_parms
    c.ppo.policy_optimizer.max_grad_norm = c.ppo.value_optimizer.max_grad_norm = 1.0  # accelerate_config.yaml


def scale(c):
    """Sizes, and what goes with them."""
    c.ppo.batch_size, c.ppo.num_minibatches = 128, 4  # section 5.1: 128 sampled, 32 in an update
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 5e-7, 1.65e-6  # section 5.1; run_en.sh: the critic 1.5e-6
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 100  # run_en.sh: 100 of 1000 updates
    # Section 5.3.3: the critic is trained before PPO; for how long could not be read, it is ours.
    c.ppo.value_warmup, c.ppo.value_flat = 20, 0


def get_config(switch=""):
    if switch:
        return on_quickstart(__file__, switch)
    c = default_config()
    # Yours.
    c.model.path = "models/base"  # a Hugging Face folder, or a name on the hub
    c.sft.sources.mine = "jsonl:instructions.jsonl"
    c.reward.sources.mine = "jsonl:rankings.jsonl"
    c.ppo.sources.mine = "jsonl:prompts.jsonl"
    c.evaluate.domain.mine, c.evaluate.judge = "jsonl:eval_prompts.jsonl", "overlap"
    c.max_prompt_length, c.max_response_length = 1536, 512  # run_en.sh: --maxlen_prompt is of both together
    c.sft.steps, c.sft.batch_size, c.sft.length = 1000, 128, 2048
    c.reward.steps, c.reward.batch_size, c.reward.length = 1000, 128, 2048  # section 4.2
    c.reward.on_policy_k = 0  # the annotators that rank own answers are the embedded domain's
    c.sft.optimizer.lr, c.reward.optimizer.lr = 9.5e-6, 5e-6  # sections 5.1 and 4.2
    c.ppo.iterations = 270  # run_en.sh: 1000 updates, after the critic's 20 iterations
    recipe(c)
    scale(c)
    return c
