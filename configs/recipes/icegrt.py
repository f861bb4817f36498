"""ICE-GRT (arXiv 2401.02072): PPO on ICE-Instruct with ICE-Reward, sized for one machine with accelerators.

    icegrt run --config=configs/recipes/icegrt.py --workdir=runs/icegrt

Of the paper only the abstract was at hand: 13B, the four roles (actor, reference, reward, critic), twelve general
benchmarks, and the four factors: appropriate data, reward size scaling, KL-control, advantage normalization. That
each factor is there is the paper's; every number is ours, or of the source that its comment names. The data are
yours; the embedded domain: :quickstart, which is configs/quickstart.py, or :smoke for a look. docs/recipes.md has all
recipes in one table and says how a config of your own takes one.
"""

from icegrt_jax.config import default_config
from icegrt_jax.config.recipes import on_quickstart

SWITCHES = ("", "quickstart", "smoke")


def recipe(c):
    """The method."""
    c.ppo.estimator = "gae"  # abstract: PPO, whose advantages are GAE's (arXiv 1707.06347, section 5)
    c.ppo.loss_aggregation = "own"  # ours: the mean over tokens
    c.ppo.samples_per_prompt = 1  # ours
    c.ppo.num_ppo_epochs = 1  # ours
    c.ppo.temperature, c.ppo.top_p = 1.0, 1.0  # ours: the policy itself
    c.ppo.gamma, c.ppo.lam = 1.0, 0.95  # openai/lm-human-preferences
    c.ppo.lam_alpha, c.ppo.value_lam = 0.0, -1.0  # ours: one λ for actor and critic
    c.ppo.cliprange, c.ppo.cliprange_high = 0.2, 0.0  # arXiv 1707.06347, section 6.1; the same upwards
    c.ppo.cliprange_value = 0.2  # openai/lm-human-preferences
    c.ppo.advantages, c.ppo.whiten_rewards = "whiten", False  # abstract: advantage normalization; which one is ours
    c.ppo.entropy_coef = 0.0  # ours: no bonus
    c.ppo.filter_groups, c.ppo.redraw, c.ppo.filter_overlong = False, 0, False  # ours: every response counts
    c.ppo.kl.into, c.ppo.kl.kind = "reward", "k1"  # abstract: KL-control; the place is that of arXiv 1909.08593
    c.ppo.kl.adaptive = False  # ours: the distance to the next is not 0 at the start
    c.ppo.kl.reference_temperature = 0.6  # arXiv 2412.01951 for the kind; not everywhere, see docs/faq.md
    c.ppo.score.scale = "reference"  # abstract: reward size scaling; the rule is that of arXiv 1909.08593
    c.ppo.score.clip = 5.0  # ours
    c.ppo.score.baseline, c.ppo.score.shape = "none", "none"  # ours
    c.ppo.score.eos_penalty = 1.0  # arXiv 2403.17031, the EOS trick
    c.ppo.score.length_penalty, c.ppo.score.length_target = 0.0, 0  # ours: none
    c.value.init, c.value.trunk = "reward", "own"  # four roles of the paper; the critic's start is arXiv 2203.02155's
    c.ppo.policy_optimizer.b2 = c.ppo.value_optimizer.b2 = 0.95  # arXiv 2005.14165, appendix B
    c.ppo.policy_optimizer.eps = c.ppo.value_optimizer.eps = 1e-8  # arXiv 1412.6980
    c.ppo.policy_optimizer.weight_decay = c.ppo.value_optimizer.weight_decay = 0.0  # ours
    c.ppo.policy_optimizer.max_grad_norm = c.ppo.value_optimizer.max_grad_norm = 1.0  # arXiv 2005.14165, appendix B


def scale(c):
    """Sizes, and what goes with them."""
    c.ppo.batch_size, c.ppo.num_minibatches = 512, 4  # ours, as configs/llama2_13b_v5p.py
    c.ppo.policy_optimizer.lr, c.ppo.value_optimizer.lr = 1e-6, 5e-6  # ours, as configs/llama2_13b_v5p.py
    c.ppo.policy_optimizer.warmup_steps = c.ppo.value_optimizer.warmup_steps = 20  # ours
    c.ppo.policy_optimizer.schedule, c.ppo.policy_optimizer.final_lr_fraction = "constant", 0.0  # ours
    c.ppo.value_optimizer.schedule, c.ppo.value_optimizer.final_lr_fraction = "constant", 0.0  # ours
    c.ppo.value_warmup, c.ppo.value_flat = 10, 0  # ours: while the critic knows nothing the actor would only drift
    c.ppo.kl.coef = 0.05  # ours, as the default
    c.ppo.ptx.coef = 0.2  # abstract: appropriate data, no loss in general tasks; replay and weight are ours


def get_config(switch=""):
    if switch:
        return on_quickstart(__file__, switch)
    c = default_config()
    # Yours: a model of the paper's size is configs/llama2_13b_v5p.py's.
    c.model.path = "models/base"  # a Hugging Face folder, or a name on the hub
    c.sft.sources.domain, c.sft.weights.domain = "jsonl:instructions_domain.jsonl", 0.6
    c.sft.sources.general, c.sft.weights.general = "jsonl:instructions_general.jsonl", 0.4
    c.reward.sources.mine = "jsonl:rankings.jsonl"
    c.ppo.sources.mine = "jsonl:prompts.jsonl"
    c.ppo.ptx.sources.general = "jsonl:instructions_general.jsonl"
    c.evaluate.domain.mine, c.evaluate.judge = "jsonl:eval_prompts.jsonl", "overlap"
    c.max_prompt_length, c.max_response_length = 512, 512
    c.sft.steps, c.sft.batch_size, c.sft.length = 1500, 128, 1024
    c.reward.steps, c.reward.batch_size, c.reward.length = 800, 64, 1024
    c.reward.on_policy_k = 0  # the annotators that rank own answers are the embedded domain's
    c.sft.optimizer.lr, c.reward.optimizer.lr, c.ppo.iterations = 1e-5, 5e-6, 300
    recipe(c)
    scale(c)
    return c
