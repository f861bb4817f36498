"""VAPO (arXiv 2504.05118): PPO with a critic that is trained first, and credit that follows the length of an answer.

    icegrt run --config=configs/recipes/vapo.py --workdir=runs/vapo

Read was the paper's text (sections 3 to 5); no program of its authors was found. Not built: the language-model loss
on correct answers (equations 9 and 10, weight 0.1), worth 6 of 60 points in the paper's table 1. The data and the
rule are yours; the embedded domain, which has a reward model in its place: :quickstart, or :smoke for a look.
docs/recipes.md has all recipes in one table.
"""

from icegrt_jax.config import default_config
from icegrt_jax.config.recipes import on_quickstart

SWITCHES = ("", "quickstart", "smoke")


def recipe(c):
    """The method."""
    c.ppo.estimator = "gae"  # section 5.1: PPO
    c.ppo.loss_aggregation = "token"  # section 5.1, item 5
    c.ppo.samples_per_prompt = 16  # section 5.1, item 7
    c.ppo.num_ppo_epochs = 1  # section 5.1: minibatches of 512 of 8192 responses; passes are not named, ours
    c.ppo.temperature, c.ppo.top_p = 1.0, 1.0  # not named for training: those of DAPO's program
    c.ppo.gamma = 1.0  # section 5.1
    c.ppo.lam = 0.95  # section 5.1, of no effect: λ follows the length
    c.ppo.lam_alpha, c.ppo.value_lam = 0.05, 1.0  # section 5.1, items 3 and 2
    c.ppo.cliprange, c.ppo.cliprange_high = 0.2, 0.28  # section 5.1, item 4
    c.ppo.cliprange_value = 0.2  # not named: openai/lm-human-preferences
    c.ppo.advantages, c.ppo.whiten_rewards = "whiten", False  # not named: ours
    c.ppo.entropy_coef = 0.0  # not named: none
    c.ppo.filter_groups, c.ppo.redraw, c.ppo.filter_overlong = (
        False,
        0,
        False,
    )  # not among the seven items of section 5.1
    c.ppo.kl.into, c.ppo.kl.kind = "reward", "k1"  # of no effect
    c.ppo.kl.coef, c.ppo.kl.adaptive = 0.0, False  # not named: none, as DAPO
    c.ppo.kl.reference_temperature = 0.0  # of no effect
    # Section 3.3: a verifier's 0 or 1. Where a reward model takes its place, it gets the same spread: ours.
    c.ppo.score.scale = "reference"
    c.ppo.score.clip = 0.0  # not named: none
    c.ppo.score.baseline, c.ppo.score.shape = "none", "none"  # not named: none
    c.ppo.score.eos_penalty = 0.0  # not named: none
    c.ppo.score.length_penalty, c.ppo.score.length_target = 0.0, 0  # not named: none
    c.ppo.ptx.coef = 0.0  # no replay
    c.value.init, c.value.trunk = "reward", "own"  # section 5.1
    c.ppo.policy_optimizer.schedule = c.ppo.value_optimizer.schedule = "constant"  # section 5.1: warmup-constant
    c.ppo.policy_optimizer.final_lr_fraction = c.ppo.value_optimizer.final_lr_fraction = 0.0  # of no effect
    c.ppo.policy_optimizer.b2 = c.ppo.value_optimizer.b2 = 0.999  # torch's AdamW; the paper names no other
    c.ppo.policy_optimizer.eps = c.ppo.value_optimizer.eps = 1e-8  # as b2
    c.ppo.policy_optimizer.weight_decay = c.ppo.value_optimizer.weight_decay = 0.1  # not named: that of DAPO's program
    c.ppo.policy_optimizer.max_grad_norm = c.ppo.value_optimizer.max_grad_norm = 1.0  # as weight_decay


def scale(c):
    """Sizes, and what goes with them."""
    c.ppo.batch_size, c.ppo.num_minibatches = 512, 16  # section 5.1, item 7
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-6, 2e-6  # section 5.1: the critic has to keep pace
    # Section 5.1: with a warm-up; its length is not named, that of DAPO's section 4.1.
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 320
    # Section 4.1: until the critic's error is low; section 5.1, item 1: 50 steps. The window is ours.
    c.ppo.value_warmup, c.ppo.value_flat = 50, 5


def get_config(switch=""):
    if switch:
        c = on_quickstart(__file__, switch)
        if switch == "quickstart":
            c.ppo.value_warmup, c.ppo.value_flat = 15, 3  # ours, of 75 iterations
        return c
    c = default_config()
    # Yours.
    c.model.path = "models/base"  # a Hugging Face folder, or a name on the hub
    c.sft.sources.mine = "jsonl:instructions.jsonl"
    c.ppo.sources.mine = "jsonl:prompts.jsonl"
    c.ppo.rewards.rule = "my_reward.py:reward"  # 0 or 1, see docs/extending.md
    c.evaluate.domain.mine, c.evaluate.judge = "jsonl:eval_prompts.jsonl", "overlap"
    c.max_prompt_length, c.max_response_length = 512, 1536
    c.sft.steps, c.sft.batch_size, c.sft.length = 1000, 64, 2048
    c.sft.optimizer.lr, c.ppo.iterations = 1e-5, 350
    recipe(c)
    scale(c)
    c.value.init = "sft"  # a rule alone leaves no reward model for the critic to start from
    return c
