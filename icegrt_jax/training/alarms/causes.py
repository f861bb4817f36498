"""What each alarm of a PPO run is likely caused by, and the keys of the config that change it."""

from collections.abc import Mapping

CAUSES: dict[str, tuple[str, Mapping[str, str]]] = {
    "over_optimised": (
        "the policy writes what the reward likes and the judge does not: it has come to where the reward is wrong",
        {
            "ppo.kl.target": "lower (with a fixed coefficient ppo.kl.coef higher)",
            "rounds": "2 or more, so that its own answers are ranked",
            "ppo.use": "best, with ppo.best=heldout/gold: the policy before it",
        },
    ),
    "length_explosion": (
        "the reward pays for length, as where longer answers were ranked higher",
        {
            "ppo.score.length_penalty": "above 0, from ppo.score.length_target on",
            "reward.sources": "with rankings in which the longer answer is not the better one",
        },
    ),
    "length_collapse": (
        "answers lose their reasons: the reward model has not learned that a bare answer is worse, or each token costs "
        "more KL than it earns",
        {
            "reward.sources": "with rankings in which a bare answer is the worse one",
            "ppo.kl.reference_temperature": "0: a sharper reference is a price of every token",
            "ppo.score.length_penalty": "lower",
        },
    ),
    "perplexity_collapse": (
        "the answers have become stock phrases or repeat themselves",
        {"ppo.kl.coef": "higher", "ppo.policy_optimizer.lr": "lower", "ppo.sources": "with more kinds of prompts"},
    ),
    "negative_kl": (
        "no KL is negative: the answers are not drawn from the distribution whose log-probs are compared, which is the "
        "full softmax",
        {
            "ppo.top_k": "0", "ppo.top_p": "1", "ppo.min_p": "0",
            "ppo.recompute_logprobs": "true, where the sampler's log-probs are off",
        },
    ),
    "kl_too_large": (
        "the policy leaves ICE-Instruct faster than the coefficient holds it back",
        {
            "ppo.kl.coef": "higher",
            "ppo.kl.horizon": "shorter, so that it follows sooner",
            "ppo.policy_optimizer.lr": "lower",
        },
    ),
    "useless_critic": (
        "the critic has not learned what the returns depend on, so its advantages are noise",
        {
            "ppo.value_warmup": "longer",
            "ppo.value_optimizer.lr": "higher, or lower where value_loss rises",
            "value.init": "reward",
        },
    ),
    "entropy_collapse": (
        "the policy has become certain of one answer to each prompt, and samples nothing to learn from",
        {
            "ppo.kl.coef": "higher",
            "ppo.policy_optimizer.lr": "lower",
            "ppo.entropy_coef": "above 0",
            "ppo.cliprange_high": "above ppo.cliprange",
        },
    ),
    "few_eos": (
        "the answers do not fit, or ending them is not worth anything",
        {"max_response_length": "longer", "ppo.score.eos_penalty": "higher", "ppo.score.length_penalty": "above 0"},
    ),
    "sampler_drift": (
        "sampler and trainer compute in different numbers or with different weights",
        {"ppo.cache_dtype": "compute", "model.dtype": "float32", "ppo.recompute_logprobs": "true"},
    ),
    "ensemble_disagrees": (
        "the policy writes answers about which the reward models have learned nothing: each makes up its own mind",
        {
            "ppo.score.ensemble": "worst or uncertainty, so that it is not worth it",
            "rounds": "2 or more, so that its own answers are ranked",
            "ppo.kl.target": "lower (with a fixed coefficient ppo.kl.coef higher)",
        },
    ),
    "reward_at_chance": (
        "the reward model has not learned from answers like those that the policy writes now",
        {
            "rounds": "2 or more, so that its own answers are ranked",
            "ppo.kl.target": "lower (with a fixed coefficient ppo.kl.coef higher)",
            "ppo.iterations": "fewer",
        },
    ),
}  # fmt: skip
