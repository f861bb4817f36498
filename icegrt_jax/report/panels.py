"""Which metrics of a stage the report shows: a panel each. Apart from the drawing, so that a stage can name its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One axes: its title and the names of its metrics, `*` standing for anything; `without` those it leaves out."""

    title: str
    names: tuple[str, ...]
    smooth: bool = True  # False for what has no noise: smoothing would round its corners
    without: tuple[str, ...] = ()


LANGUAGE_MODEL = (
    Panel("Loss (nats per token)", ("loss", "val*loss")),
    Panel("Token accuracy", ("accuracy", "val*accuracy")),
    Panel("Gradient norm", ("grad_norm",)),
    Panel("Learning rate", ("lr", "learning_rate"), smooth=False),
)
REWARD = (
    Panel("Ranking loss", ("loss", "val*loss")),
    Panel("Accuracy on pairs", ("accuracy", "val*accuracy")),
    Panel("Margin", ("margin", "val*margin")),
    Panel("Gradient norm", ("grad_norm",)),
)
PPO = (
    Panel("Score by the reward model", ("score_raw",)),
    Panel("Own rewards", ("reward/*",), without=("*/known", "*/failed")),
    Panel("Own rewards: share with an opinion", ("reward/*/known",)),
    Panel("Own rewards: responses where one failed", ("reward/*/failed",), smooth=False),
    Panel("Score, scaled", ("score_scaled",)),
    Panel("Disagreement of the reward models", ("ensemble_std",)),
    Panel("Raw scores of a source so far, mean", ("source/*/mean",)),
    Panel("Raw scores of a source so far, deviation", ("source/*/std",)),
    Panel("Deviation before normalisation", ("scaling/*_before_std",)),
    Panel("Deviation after normalisation", ("scaling/*_after_std",)),
    Panel("Clipped by normalisation", ("scaling/*_clipped",)),
    Panel("Gold verdict", ("gold",)),
    Panel("KL to the reference (nats)", ("kl",)),
    Panel("KL coefficient", ("kl_coef",), smooth=False),
    Panel("Return (sum of token rewards)", ("rewards",)),
    Panel("Response length (tokens)", ("length",)),
    Panel("Responses ended by EOS", ("eos_rate",)),
    Panel("Entropy (nats per token)", ("entropy",)),
    Panel("Policy loss", ("policy_loss",)),
    Panel("Clipped fraction", ("clip_frac", "value_clip_frac")),
    Panel("Ratio to the sampling policy", ("ratio", "ratio_max", "ratio_min")),
    Panel("Spread of the scores of a prompt's answers", ("group_std",)),
    Panel("Share: prompts without a signal, responses learned from", ("group_flat", "kept")),
    Panel("Rollouts of an iteration, prompts drawn anew", ("rollouts", "redrawn"), smooth=False),
    Panel("Value loss", ("value_loss",)),
    Panel("Explained variance of the value", ("explained_variance",)),
    Panel("Iterations in which only the critic learned", ("value_warmup",), smooth=False),
    Panel("Gradient norm", ("grad_norm", "policy_grad_norm", "value_grad_norm")),
    Panel("Seconds per iteration", ("seconds*",)),
)
