"""Which metrics of a stage the report shows: a panel each. Apart from the drawing, so that a stage can name its own."""

from dataclasses import dataclass

SCORE, NEAR, ANSWERS = "Score and quality", "Staying near ICE-Instruct", "Answers"
LEARNING, NORMAL, SPEED = "Learning", "From scores to rewards", "Learning rate and speed"


@dataclass(frozen=True)
class Panel:
    """One axes: its title and the names of its metrics, `*` standing for anything; `without` those it leaves out.

    Attributes:
      smooth: False for what has no noise: smoothing would round its corners.
      share: its numbers are between 0 and 1, and so is its axis.
      group: the heading that it stands under, "" for none.
      stacked: its lines are parts of a sum.
    """

    title: str
    names: tuple[str, ...]
    smooth: bool = True
    without: tuple[str, ...] = ()
    share: bool = False
    group: str = ""
    stacked: bool = False


RATES = (
    Panel("Learning rate", ("optimizer/*",), smooth=False, group=SPEED),
    Panel("Tokens per second", ("time/tokens_per_s",), group=SPEED),
    Panel("Seconds by phase", ("time/*_s",), without=("time/*_per_s",), group=SPEED, stacked=True),
)
BOUNDS = ("*_low", "*_high")  # of an interval: drawn as a band about the line of their name
LANGUAGE_MODEL = (
    Panel("Loss (nats per token)", ("loss", "heldout/*loss"), without=BOUNDS),
    Panel("Token accuracy", ("accuracy", "heldout/*accuracy"), without=BOUNDS, share=True),
    Panel("Mean probability of the right token", ("target_prob",), share=True),
    Panel("Gradient norm", ("grad_norm",)),
    *RATES,
)
REWARD = (
    Panel("Ranking loss", ("loss", "heldout/*loss"), without=BOUNDS),
    Panel("Accuracy on pairs", ("accuracy", "heldout/*accuracy"), without=BOUNDS, share=True),
    Panel("Margin", ("margin", "heldout/*margin"), without=BOUNDS),
    Panel("Gradient norm", ("grad_norm",)),
    *RATES,
)
PPO = (
    Panel("Score by the reward model, raw", ("score_raw",), group=SCORE),
    Panel("Score, scaled", ("score_scaled",), group=SCORE),
    Panel("Judge of the rollouts (gold)", ("gold",), share=True, group=SCORE),
    Panel("Judge of the rollouts, its other numbers", ("gold_*",), share=True, group=SCORE),
    Panel("Held-out prompts (gold)", ("heldout/gold", "heldout/gold_greedy"), share=True, group=SCORE, smooth=False),
    Panel("Own rewards", ("reward/*",), without=("*/known", "*/failed"), group=SCORE),
    Panel("Own rewards: share with an opinion", ("reward/*/known",), share=True, group=SCORE),
    Panel("Own rewards: responses where one failed", ("reward/*/failed",), smooth=False, group=SCORE),
    Panel("Disagreement of the reward models", ("ensemble_std",), group=SCORE),
    Panel("KL to the reference (nats per answer)", ("kl",), group=NEAR),
    Panel("KL coefficient", ("kl_coef",), smooth=False, group=NEAR),
    Panel("Entropy (nats per token)", ("entropy",), group=NEAR),
    Panel("Length (tokens of an answer)", ("length", "heldout/length"), group=ANSWERS),
    Panel("Answers ended by EOS", ("eos_rate",), share=True, group=ANSWERS),
    Panel("Spread of the scores of a prompt's answers", ("group_std",), group=ANSWERS),
    Panel("Signal", ("group_flat", "kept"), share=True, group=ANSWERS),
    Panel("Rollouts of an iteration, prompts drawn anew", ("rollouts", "redrawn"), smooth=False, group=ANSWERS),
    Panel("Policy loss", ("policy_loss",), group=LEARNING),
    Panel("Clipped fraction", ("clip_frac", "value_clip_frac"), share=True, group=LEARNING),
    Panel("Ratio to the sampling policy", ("ratio", "ratio_max", "ratio_min"), group=LEARNING),
    Panel("Explained variance of the critic", ("explained_variance",), group=LEARNING),
    Panel("Value loss", ("value_loss",), group=LEARNING),
    Panel("Loss on replayed data", ("ptx_loss",), group=LEARNING),
    Panel("Gradient norm", ("grad_norm", "policy_grad_norm", "value_grad_norm"), group=LEARNING),
    Panel("Raw scores of a source so far, mean", ("source/*/mean",), group=NORMAL),
    Panel("Raw scores of a source so far, deviation", ("source/*/std",), group=NORMAL),
    Panel("Deviation before normalisation", ("scaling/*_before_std",), group=NORMAL),
    Panel("Deviation after normalisation", ("scaling/*_after_std",), group=NORMAL),
    Panel("Clipped by normalisation", ("scaling/*_clipped",), share=True, group=NORMAL),
    Panel("Return (sum of token rewards)", ("rewards",), group=NORMAL),
    *RATES,
)
