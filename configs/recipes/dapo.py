"""DAPO (arXiv 2503.14476): groups of answers in place of a critic, scored by a rule.

    icegrt run --config=configs/recipes/dapo.py --workdir=runs/dapo

Read were the paper's text and the authors' program, volcengine/verl, recipe/dapo (README.md, run_dapo_qwen2.5_32b.sh).
The paper's lengths are 2048 and 20480 tokens; yours are set in the file, where the soft punishment follows them, and
not on the command line, where it would not. The data and the rule are yours; the embedded domain, which has a reward
model in its place: :quickstart, or :smoke for a look. docs/recipes.md has all recipes in one table.
"""

from icegrt_jax.config import default_config
from icegrt_jax.config.recipes import on_quickstart

SWITCHES = ("", "quickstart", "smoke")


def recipe(c):
    """The method."""
    c.ppo.estimator = "grpo"  # section 4.1: group reward normalization
    c.ppo.loss_aggregation = "token"  # section 3.3
    c.ppo.samples_per_prompt = 16  # section 4.1
    c.ppo.num_ppo_epochs = 1  # section 4.1: 16 updates of 512 responses are one pass over 8192
    c.ppo.temperature, c.ppo.top_p = 1.0, 1.0  # run_dapo_qwen2.5_32b.sh
    c.ppo.gamma, c.ppo.lam = 1.0, 0.95  # of no effect: a whole answer has one return
    c.ppo.lam_alpha, c.ppo.value_lam = 0.0, -1.0  # no critic
    c.ppo.cliprange, c.ppo.cliprange_high = 0.2, 0.28  # section 4.1, clip-higher of section 3.1
    c.ppo.cliprange_value = 0.2  # of no effect: no critic
    c.ppo.advantages, c.ppo.whiten_rewards = "whiten", False  # of no effect: the estimator's own, section 2.2
    c.ppo.entropy_coef = 0.0  # run_dapo_qwen2.5_32b.sh
    # Section 3.2, dynamic sampling; run_dapo_qwen2.5_32b.sh: 10 rollouts at most, there each of 3 times the prompts.
    c.ppo.filter_groups, c.ppo.redraw = True, 9
    c.ppo.filter_overlong = False  # README.md: the best runs were without what section 3.4 begins with
    c.ppo.kl.into, c.ppo.kl.kind = "loss", "k3"  # of no effect: GRPO's place (arXiv 2402.03300)
    c.ppo.kl.coef, c.ppo.kl.adaptive = 0.0, False  # section 2.3: no KL
    c.ppo.kl.reference_temperature = 0.0  # of no effect
    # Section 2.4: a rule's 1 or -1, no scaling. Where a reward model takes its place, it gets the same spread: ours.
    c.ppo.score.scale = "reference"
    c.ppo.score.clip = 0.0  # section 2.4: none
    c.ppo.score.baseline, c.ppo.score.shape = "none", "none"  # section 2.4: none
    c.ppo.score.eos_penalty = 0.0  # equation 13 in its place: -1 at the longest
    # Equation 13, soft overlong punishment: from 0 to -1 over the last 4096 of 20480 tokens, a fifth.
    c.ppo.score.length_penalty = 1 / max(c.max_response_length // 5, 1)
    c.ppo.score.length_target = c.max_response_length - max(c.max_response_length // 5, 1)  # equation 13
    c.ppo.ptx.coef = 0.0  # no replay
    c.value.init, c.value.trunk = "sft", "own"  # of no effect: no critic
    c.ppo.policy_optimizer.schedule = c.ppo.value_optimizer.schedule = "constant"  # section 4.1
    c.ppo.policy_optimizer.final_lr_fraction = c.ppo.value_optimizer.final_lr_fraction = 0.0  # of no effect
    c.ppo.policy_optimizer.b2 = c.ppo.value_optimizer.b2 = 0.999  # torch's AdamW; neither source names another
    c.ppo.policy_optimizer.eps = c.ppo.value_optimizer.eps = 1e-8  # as b2
    c.ppo.policy_optimizer.weight_decay = c.ppo.value_optimizer.weight_decay = 0.1  # run_dapo_qwen2.5_32b.sh
    c.ppo.policy_optimizer.max_grad_norm = c.ppo.value_optimizer.max_grad_norm = 1.0  # run_dapo_qwen2.5_32b.sh
    c.ppo.value_warmup, c.ppo.value_flat = 0, 0  # no critic


def scale(c):
    """Sizes, and what goes with them."""
    c.ppo.batch_size, c.ppo.num_minibatches = 512, 16  # section 4.1
    c.ppo.policy_optimizer.lr = c.ppo.value_optimizer.lr = 1e-6  # section 4.1
    # Section 4.1: 20 rollouts, of 16 updates; run_dapo_qwen2.5_32b.sh has 10 updates.
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 320


def get_config(switch=""):
    if switch:
        return on_quickstart(__file__, switch)
    c = default_config()
    # Yours.
    c.model.path = "models/base"  # a Hugging Face folder, or a name on the hub
    c.sft.sources.mine = "jsonl:instructions.jsonl"
    c.ppo.sources.mine = "jsonl:prompts.jsonl"
    c.ppo.rewards.rule = "my_reward.py:reward"  # 1 or -1, see docs/extending.md
    c.evaluate.domain.mine, c.evaluate.judge = "jsonl:eval_prompts.jsonl", "overlap"
    c.max_prompt_length, c.max_response_length = 512, 1536
    c.sft.steps, c.sft.batch_size, c.sft.length = 1000, 64, 2048
    c.sft.optimizer.lr, c.ppo.iterations = 1e-5, 300
    recipe(c)
    scale(c)
    return c
