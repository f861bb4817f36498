"""Simulated annotators, who rank answers roughly as the gold judge would.

No person has ranked anything here. Each simulated annotator sees the judge's
grade through noise and a private liking for long answers; the ranks come from
the mean of all of them, rounded so that answers of like quality tie.
"""

import random
from collections.abc import Mapping, Sequence

from icegrt_jax.data.records import Ranking, user
from icegrt_jax.domains.adreview import flaws, generator
from icegrt_jax.domains.adreview.answer import ideal_variants, words
from icegrt_jax.domains.adreview.judge import grade

NOISE = 0.15  # standard deviation of one annotator's score
LENGTH_LIKING = (0.0, 0.03, 0.06)  # added per 20 words; the annotators take turns at these
RESOLUTION = 0.1  # mean scores this close may tie
MANY_WORDS = 60  # more words than these impress nobody further


def rank(
    seed: int | str, meta: Mapping, responses: Sequence[str], *, num_annotators: int = 3, noise: float = NOISE
) -> tuple[float, ...]:
    """Ranks responses to one prompt, 1 is best, ties are equal.

    Args:
      seed: of the annotators' noise; use another one for every prompt.
      meta: annotation of the ad.
      responses: K texts, from anywhere.
      num_annotators: whose scores are averaged.
      noise: standard deviation of one annotator's score of one response.

    Returns:
      K dense ranks: the classes of equal answers are numbered 1, 2, 3, ...
    """
    rng = random.Random(f"annotators/{seed}")
    golds = [grade(meta, response)["gold"] for response in responses]
    lengths = [min(len(words(response)), MANY_WORDS) for response in responses]
    means = [0.0] * len(responses)
    for annotator in range(num_annotators):
        liking = LENGTH_LIKING[annotator % len(LENGTH_LIKING)]
        for k, (gold, length) in enumerate(zip(golds, lengths, strict=True)):
            means[k] += (gold + rng.gauss(0, noise) + liking * length / 20) / num_annotators
    classes = [round(mean / RESOLUTION) for mean in means]
    order = sorted(set(classes), reverse=True)
    return tuple(float(order.index(c) + 1) for c in classes)


def rankings(seed: int | str, n: int, *, k: int = 5, bucket: str = "train") -> list[Ranking]:
    """n rankings of k different answers to one ad: one or two ideal, the others flawed.

    An ad that hangs on its context stands beside the same one in the other context.

    Args:
      seed: the same seed gives the same records anywhere.
      n: number of rankings.
      k: answers to each, 2 to 8; more differing ones may not exist for a plain ad.
      bucket: "train", or "rank" for measuring a reward model.

    Returns:
      Rankings whose meta is the annotation and "kinds", the name of each answer's
      flaw or "ideal".
    """
    assert 2 <= k <= 8, f"k={k}: expected 2 to 8 answers"
    rng = random.Random(f"rankings/{seed}")
    records = []
    for i, ad in zip(range(n), generator.with_other_contexts(rng, bucket), strict=False):
        meta = generator.annotation(ad)
        kinds = _answers(rng, meta, k)
        responses = tuple(kinds)
        ranks = rank(f"{seed}/{i}", meta, responses)
        records.append(Ranking(user(generator.prompt(ad)), responses, ranks, {**meta, "kinds": list(kinds.values())}))
    return records


def _answers(rng: random.Random, meta: Mapping, k: int) -> dict[str, str]:
    """k different answers, shuffled, each with its kind."""
    variants = ideal_variants(meta)
    answers = dict.fromkeys(rng.sample(variants, min(len(variants), rng.randint(1, 2), k - 1)), "ideal")
    while len(answers) < k:
        name, answer = flaws.sample_flaw(rng, meta)
        answers.setdefault(answer, name)
    return dict(rng.sample(sorted(answers.items()), k))
