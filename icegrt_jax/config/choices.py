"""The choices of the options, each stated once: a Literal, whose values `get_args` gives."""

from collections.abc import Sequence
from typing import Literal, get_args

from icegrt_jax.errors import UserError

Dtype = Literal["float32", "bfloat16"]
ParamDtype = Literal["float32", "bfloat16", "int8"]
CacheDtype = Literal["compute", "int8"]
Remat = Literal["none", "dots", "full"]
Attention = Literal["auto", "plain", "splash", "cudnn"]
Schedule = Literal["constant", "linear", "cosine"]
Overlong = Literal["drop", "cut"]
OverlongPrompts = Literal["drop", "cut", "keep"]
KLKind = Literal["k1", "k2", "k3", "exact"]
KLPlace = Literal["reward", "loss"]
ScoreScale = Literal["none", "reference", "running_std", "running_mean_std"]
ScoreBaseline = Literal["none", "reference"]
ScoreShape = Literal["none", "sigmoid"]
ScoreEnsemble = Literal["mean", "worst", "uncertainty"]
EnsembleAs = Literal["scores", "weights"]
Advantages = Literal["whiten", "mean", "none"]
Estimator = Literal["gae", "rloo", "grpo", "dr_grpo", "reinforce_pp", "gspo"]
Aggregation = Literal["own", "token", "sequence", "constant"]
CriticInit = Literal["reward", "sft"]
CriticTrunk = Literal["own", "policy"]
ActorStart = Literal["instruct", "last"]
Kept = Literal["last", "best"]
Quality = Literal["ranks", "scores"]
LoRATarget = Literal["q", "k", "v", "o", "gate", "up", "down"]

ALARMS = (
    "over_optimised", "length_explosion", "length_collapse", "perplexity_collapse", "negative_kl", "kl_too_large",
    "useless_critic", "entropy_collapse", "few_eos", "sampler_drift", "reward_at_chance", "ensemble_disagrees",
)  # fmt: skip
MODEL = "model"  # the judge that is a language model
# Beside those of domains.
JUDGES = ("choice", "domain", "exact", "letter", MODEL, "number", "overlap", "regex", "rouge_l")
LORA_TARGETS: tuple[LoRATarget, ...] = get_args(LoRATarget)
REMATS: tuple[Remat, ...] = get_args(Remat)


def check_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Raises UserError for a value that is none of those known."""
    if value not in known:
        raise UserError(f"{key}={value!r}; expected one of {', '.join(map(repr, known))}.")
