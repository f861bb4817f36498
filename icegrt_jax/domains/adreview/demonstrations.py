"""Demonstrations for supervised fine-tuning, good and bad ones mixed on purpose.

A model that imitates them learns the form of a review and every habit of careless
reviewers too. Choosing among the habits is what is left for PPO to do.
"""

import random

from icegrt_jax.data.records import Instruction, user
from icegrt_jax.domains.adreview import flaws, generator
from icegrt_jax.domains.adreview.answer import ideal
from icegrt_jax.errors import UserError

# Kinds of wrong answer that people write, as against one that only lacks analysis. None excuses an offence with the
# words for what is allowed: a policy that is paid for reasons comes to that, and only rankings hold it.
WRONG = tuple(name for name in flaws.FLAWS if name not in ("verdict_only", "explained_away", "let_through"))


def demonstrations(seed: int | str, n: int, *, verdict_only: float = 0.30, wrong: float = 0.25) -> list[Instruction]:
    """n reviewed ads, in random order; one that hangs on its context stands beside the same one in the other context.

    Args:
      seed: the same seed gives the same records anywhere.
      n: number of demonstrations.
      verdict_only: share of answers that give the right verdict and no analysis.
      wrong: share of answers with another flaw. The rest are ideal.

    Returns:
      Instructions whose meta is the annotation and "kind": "ideal" or the flaw's
      name. The shares are exact up to rounding.
    """
    if min(verdict_only, wrong) < 0 or verdict_only + wrong > 1:
        raise UserError(
            f"demonstrations: verdict_only={verdict_only}, wrong={wrong}; expected shares of at least 0"
            " that are at most 1 together."
        )
    rng = random.Random(f"demonstrations/{seed}")
    shares = ["verdict_only"] * round(n * verdict_only) + ["wrong"] * round(n * wrong)
    plan = shares + ["ideal"] * (n - len(shares))
    rng.shuffle(plan)
    return [_demonstration(rng, ad, kind) for kind, ad in zip(plan, generator.with_other_contexts(rng), strict=False)]


def _demonstration(rng: random.Random, ad: generator.Ad, kind: str) -> Instruction:
    meta = generator.annotation(ad)
    if kind == "ideal":
        answer = ideal(meta)
    else:
        kind, answer = flaws.sample_flaw(rng, meta, WRONG if kind == "wrong" else (kind,))
    messages = (*user(generator.prompt(ad)), {"role": "assistant", "content": answer})
    return Instruction(messages, {**meta, "kind": kind})
