"""The N+ implementation details of RLHF with PPO (arXiv 2403.17031): PPO as OpenAI's summaries, reproduced.

    icegrt run --config=configs/recipes/n_plus.py --workdir=runs/n_plus

The values are those of the authors' program, vwxyzjn/summarize_from_feedback_details, ppo.py (classes PpoHParams
and Args), which was read; the paper's tables were not at hand, what a review of them repeats agrees (3e-6, β 0.05,
γ 1, λ 0.95, K 4, clip 0.2, temperature 0.7, the EOS trick with -1). Not the same here: the program takes -1 for the
score of an answer without EOS where ours takes 1 off, and shifts scores by a constant where ours divides by their
spread as well. The data are yours; the embedded domain: :quickstart, or :smoke for a look. docs/recipes.md has all
recipes in one table.
"""

from icegrt_jax.config import default_config
from icegrt_jax.config.recipes import on_quickstart

SWITCHES = ("", "quickstart", "smoke")


def recipe(c):
    """The method."""
    c.ppo.estimator = "gae"  # ppo.py, "6. compute advantages and returns"
    c.ppo.loss_aggregation = "own"  # ppo.py: masked_mean over the tokens
    c.ppo.samples_per_prompt = 1  # ppo.py
    c.ppo.num_ppo_epochs = 4  # ppo.py, PpoHParams.noptepochs
    c.ppo.temperature, c.ppo.top_p = 0.7, 1.0  # ppo.py, Args.temperature and generation_config
    c.ppo.gamma, c.ppo.lam = 1.0, 0.95  # ppo.py, PpoHParams
    c.ppo.lam_alpha, c.ppo.value_lam = 0.0, -1.0  # ppo.py: one λ for actor and critic
    c.ppo.cliprange, c.ppo.cliprange_high = 0.2, 0.0  # ppo.py, PpoHParams.cliprange; the same upwards
    c.ppo.cliprange_value = 0.2  # ppo.py, PpoHParams
    c.ppo.advantages, c.ppo.whiten_rewards = "whiten", False  # ppo.py: masked_whiten; PpoHParams.whiten_rewards
    c.ppo.entropy_coef = 0.0  # ppo.py: none
    c.ppo.filter_groups, c.ppo.redraw, c.ppo.filter_overlong = False, 0, False  # ppo.py: every response counts
    c.ppo.kl.into, c.ppo.kl.kind = "reward", "k1"  # ppo.py, "4. compute rewards"
    c.ppo.kl.coef, c.ppo.kl.adaptive = 0.05, False  # ppo.py, PpoHParams.kl_coef, which nothing moves
    c.ppo.kl.reference_temperature = 0.0  # ppo.py: the temperature of the rollout
    c.ppo.score.scale = "reference"  # reward.py has its mean at 0 by a bias; by the spread as well is ours
    c.ppo.score.clip = 0.0  # ppo.py: none
    c.ppo.score.baseline, c.ppo.score.shape = "none", "none"  # ppo.py: none
    c.ppo.score.eos_penalty = 1.0  # ppo.py, Args.penalty_reward_value, which there is the score itself
    c.ppo.score.length_penalty, c.ppo.score.length_target = 0.0, 0  # ppo.py: none
    c.ppo.ptx.coef = 0.0  # ppo.py: no replay
    c.value.init, c.value.trunk = "reward", "own"  # ppo.py: critic from Args.reward_model_path
    c.ppo.policy_optimizer.schedule = c.ppo.value_optimizer.schedule = "linear"  # ppo.py, lrnow
    c.ppo.policy_optimizer.final_lr_fraction = c.ppo.value_optimizer.final_lr_fraction = 0.0  # ppo.py, lrnow
    c.ppo.policy_optimizer.b2 = c.ppo.value_optimizer.b2 = 0.999  # torch's AdamW's, which ppo.py leaves
    c.ppo.policy_optimizer.eps = c.ppo.value_optimizer.eps = 1e-5  # ppo.py, Args.eps
    c.ppo.policy_optimizer.weight_decay = c.ppo.value_optimizer.weight_decay = 0.01  # torch's AdamW's
    # No limit in ppo.py; the DeepSpeed config that it is run with could not be read.
    c.ppo.policy_optimizer.max_grad_norm = c.ppo.value_optimizer.max_grad_norm = 0.0
    c.ppo.value_warmup, c.ppo.value_flat = 0, 0  # ppo.py: none


def scale(c):
    """Sizes, and what goes with them."""
    c.ppo.batch_size = 512  # ppo.py: 64 steps of 1 row accumulated on each of 8 devices (README.md)
    c.ppo.num_minibatches = 1  # ppo.py, Args.nminibatches
    c.ppo.policy_optimizer.lr = c.ppo.value_optimizer.lr = 3e-6  # ppo.py, Args.lr, of one optimizer for both
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 0  # ppo.py, Args.warm_up_steps


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
    c.max_prompt_length, c.max_response_length = 512, 64
    c.sft.steps, c.sft.batch_size, c.sft.length = 1800, 64, 640
    c.reward.steps, c.reward.batch_size, c.reward.length = 1400, 64, 640
    c.reward.on_policy_k = 0  # the annotators that rank own answers are the embedded domain's
    c.sft.optimizer.lr = c.reward.optimizer.lr = 3e-6  # sft.py and reward.py, as PPO
    c.ppo.iterations = 1953  # ppo.py: a million episodes, Args.total_episodes
    recipe(c)
    scale(c)
    return c
