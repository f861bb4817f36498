"""What each estimator of the advantages needs, and what goes with it. Needs no jax."""

from dataclasses import dataclass

from icegrt_jax.config.choices import Aggregation, KLPlace
from icegrt_jax.config.choices import Estimator as Name
from icegrt_jax.config.options import PPOOptions, UpdateOptions, ValueOptions
from icegrt_jax.errors import UserError


@dataclass(frozen=True)
class Estimator:
    """Of one estimator.

    Attributes:
      paper: where it comes from.
      aggregation: of the token losses, in the paper.
      kl_into: where the paper has the KL; None: either.
      critic: whether it has one. grouped: whether it compares the answers to a prompt.
      sequence_ratio: whether the ratio is a whole answer's.
    """

    paper: str
    aggregation: Aggregation
    kl_into: KLPlace | None = None
    critic: bool = False
    grouped: bool = True
    sequence_ratio: bool = False


ESTIMATORS: dict[Name, Estimator] = {
    "gae": Estimator("arXiv 1506.02438", "token", critic=True, grouped=False),
    "rloo": Estimator("arXiv 2402.14740", "constant", "reward"),
    "grpo": Estimator("arXiv 2402.03300", "sequence", "loss"),
    "dr_grpo": Estimator("arXiv 2503.20783", "constant", "loss"),
    "reinforce_pp": Estimator("arXiv 2501.03262", "token", "reward", grouped=False),
    "gspo": Estimator("arXiv 2507.18071", "sequence", "loss", sequence_ratio=True),
}


def aggregation_of(update: UpdateOptions) -> Aggregation:
    """How the losses of tokens become one number."""
    own = update.loss_aggregation == "own"
    return ESTIMATORS[update.estimator].aggregation if own else update.loss_aggregation


def check_group(update: UpdateOptions, answers: int, key: str) -> None:
    """Raises UserError where there are too few answers to a prompt to be compared.

    Args:
      answers: to a prompt. key: their name, for the sentence.
    """
    if ESTIMATORS[update.estimator].grouped and answers < 2:
        raise UserError(
            f"{key}={answers} with ppo.estimator={update.estimator!r}, which compares the answers to a prompt; use 2 "
            "or more."
        )


def check_estimator(ppo: PPOOptions, value: ValueOptions) -> None:
    """Raises UserError for keys that do not go with the estimator, or that it would ignore."""
    named, found = f"ppo.estimator={ppo.estimator!r}", ESTIMATORS[ppo.estimator]
    check_group(ppo, ppo.samples_per_prompt, "ppo.samples_per_prompt")
    if ppo.filter_groups and not found.grouped:
        raise UserError(f"ppo.filter_groups=true with {named}, which has no groups; set it to false, or use grpo.")
    if ppo.redraw and not ppo.filter_groups:
        raise UserError(
            f"ppo.redraw={ppo.redraw} with ppo.filter_groups={str(ppo.filter_groups).lower()}: others are drawn in the "
            "place of prompts that are left out; set ppo.filter_groups=true, or ppo.redraw=0."
        )
    if found.sequence_ratio and aggregation_of(ppo) != found.aggregation:
        raise UserError(
            f"ppo.loss_aggregation={ppo.loss_aggregation!r} with {named}: a ratio of whole answers goes with a mean "
            "over answers; leave it at 'own'."
        )
    if not found.critic:
        _check_no_critic(ppo, value, found, named)


def _check_no_critic(ppo: PPOOptions, value: ValueOptions, found: Estimator, named: str) -> None:
    """Refuses what an estimator without a critic, with a normalisation of its own, would ignore."""
    defaults = PPOOptions()
    for key, why in (
        ("advantages", "normalises as its paper does"), ("lam_alpha", "has no λ"), ("value_lam", "has no critic"),
        ("value_warmup", "has no critic"), ("value_flat", "has no critic"),
    ):  # fmt: skip
        if getattr(ppo, key) != getattr(defaults, key):
            raise UserError(f"ppo.{key}={getattr(ppo, key)!r} is for ppo.estimator='gae': {ppo.estimator} {why}.")
    if value.trunk == "policy":
        raise UserError(f"value.trunk='policy' with {named}, which has no critic; leave it out.")
    if found.grouped:
        for key in ("whiten_rewards", "gamma"):
            if getattr(ppo, key) != getattr(defaults, key):
                given = getattr(ppo, key)
                raise UserError(f"ppo.{key}={given!r} with {named}: a whole answer has one return; leave it out.")
    penalty = ppo.kl.coef or ppo.kl.adaptive
    if penalty and ppo.kl.into != found.kl_into:
        use = "ppo.kl.into='loss' with ppo.kl.kind='k3'" if found.kl_into == "loss" else "ppo.kl.into='reward'"
        raise UserError(
            f"ppo.kl.into={ppo.kl.into!r} with {named}, whose KL is in the {found.kl_into} ({found.paper}); use {use}, "
            "or no KL: ppo.kl.coef=0 with ppo.kl.adaptive=false."
        )
