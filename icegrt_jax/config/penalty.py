"""Which KL estimators make a penalty, and where: the config and the update steps refuse the others. Needs no jax."""

from typing import get_args

from icegrt_jax.config.choices import KLKind, KLPlace, check_choice
from icegrt_jax.errors import UserError

# The gradients are those of Liu et al. 2025, arXiv 2510.01555, and Tang and Munos 2025, arXiv 2512.21852.
REFUSED = {
    ("k1", "loss"): (
        "the expected gradient of k1 is zero, so nothing would hold the policy; in the loss use {kind}='exact' or "
        "'k2' ('k3' has the gradient of KL(reference || policy)), or leave k1 in the reward"
    ),
    ("k2", "reward"): "k2 there has not the gradient of a KL; use {kind}='k1', or k2 with {into}='loss'",
    ("k3", "reward"): "k3 there has not the gradient of a KL; use {kind}='k1', or k3 with {into}='loss'",
    ("exact", "reward"): (
        "the exact KL is the same whichever token is drawn, so its gradient would be lost and the policy drift; use "
        "{into}='loss', where it is differentiated, or {kind}='k1'"
    ),
}


def check_penalty(kind: str, into: str, names: tuple[str, str]) -> None:
    """Raises UserError unless `kind` is a penalty of the reward or of the loss, as `into` says.

    Args:
      names: of the two options, for the sentence.
    """
    check_choice(names[0], kind, get_args(KLKind))
    check_choice(names[1], into, get_args(KLPlace))
    if (kind, into) in REFUSED:
        why = REFUSED[kind, into].format(kind=names[0], into=names[1])
        raise UserError(f"{names[0]}={kind!r} with {names[1]}={into!r}: {why}.")
