"""Random advertisements with their gold annotation.

    >>> ad = sample_ad(random.Random("7"))
    >>> print(prompt(ad))  # doctest: +SKIP
    review this ad. audience: adults. proof: none. ad: meet the zeno lamp. doctors love it.

An ad is an introduction of the product and two to four sentences after it:
offending phrases, decoys (allowed phrases in similar words) and plain ones.
"""

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass

from icegrt_jax.domains.adreview import phrases, rules, splits

# How many rules an ad breaks, and with what probability.
NUM_VIOLATIONS = (0, 1, 2, 3)
NUM_VIOLATIONS_WEIGHTS = (0.38, 0.32, 0.24, 0.06)
# A fine ad usually holds a decoy: were it plain, telling it apart would be too easy.
DECOY_PROBABILITY = {"fine": 0.75, "offending": 0.3}
CONTEXT_DECOY_PROBABILITY = 0.4
LEAD_IN_PROBABILITY = 0.15

# Kinds of ad: one for training, the others for evaluation.
SPLITS = ("train", "products", "phrasings", "rule_pairs")


@dataclass(frozen=True)
class Finding:
    """A phrase worth a sentence in the review: `quote` is verbatim from the ad.

    Attributes:
      rule: the rule it breaks, or, for a decoy, the rule it only seems to break.
      quote: the phrase.
      reason: why it is allowed; "" where it is not.
    """

    rule: int
    quote: str
    reason: str = ""


@dataclass(frozen=True)
class Ad:
    """An advertisement and all there is to say about it."""

    brand: str
    noun: str
    audience: str
    proof: str
    text: str
    violations: tuple[Finding, ...]  # in the order of the text, as are decoys
    decoys: tuple[Finding, ...]


def prompt(ad: Ad) -> str:
    """The question put to the model."""
    return f"review this ad. audience: {ad.audience}. proof: {ad.proof}. ad: {ad.text}"


def annotation(ad: Ad) -> dict:
    """The gold annotation as JSON: what `judge.grade` and `answer.ideal` take as `meta`."""
    return {
        "task": "adreview",
        "ad": ad.text,
        "product": f"{ad.brand} {ad.noun}",
        "audience": ad.audience,
        "proof": ad.proof,
        "violations": [{"rule": v.rule, "quote": v.quote} for v in ad.violations],
        "decoys": [{"rule": d.rule, "quote": d.quote, "reason": d.reason} for d in ad.decoys],
    }


def sample_ad(rng: random.Random, split: str = "train", bucket: str = "train") -> Ad:
    """A random ad.

    Args:
      rng: drawn from.
      split: what the ad tests. "train" draws from the training distribution (in
        whatever bucket); "products" has a noun and a brand never advertised in
        training, "phrasings" has findings in fillings never used in training (at
        least one), "rule_pairs" breaks two rules that never meet in training.
      bucket: the ad is one that may be used in this kind of set (`splits.bucket`).

    Returns:
      An ad, from which nothing held out leaks unless `split` says so.
    """
    assert split in SPLITS and bucket in splits.BUCKETS, f"no such split or bucket: {split!r}, {bucket!r}"
    while True:
        ad = _draw(rng, split)
        if splits.bucket(ad.text) == bucket and (split != "phrasings" or ad.violations or ad.decoys):
            return ad


def with_other_contexts(rng: random.Random, bucket: str = "train") -> Iterator[Ad]:
    """Random ads of the training distribution without end; behind one that hangs on its context its `other_context`.

    Pairs that differ in what decides and in nothing else teach to look there (Kaushik et al. 2020, arXiv 1909.12434).
    """
    while True:
        ad = sample_ad(rng, bucket=bucket)
        yield ad
        other = other_context(ad)
        if other is not None:
            yield other


def other_context(ad: Ad) -> Ad | None:
    """The same text where the context says the opposite of all that its findings hang on.

    What was an offence for children, or without proof, is allowed, and the other way round.

    Returns:
      None where nothing hangs on the context, or where two rules would be broken that never meet in training.
    """
    turned = [f for f in (*ad.violations, *ad.decoys) if _of_context(f)]
    if not turned:
        return None
    audience, proof, rule_of = ad.audience, ad.proof, {finding.rule for finding in turned}
    if rules.ADULT_OFFER in rule_of:
        audience = _other(rules.AUDIENCES, audience)
    if rules.UNPROVEN in rule_of:
        proof = _other(rules.PROOFS, proof)
    violations = [v for v in ad.violations if v not in turned]
    violations += [Finding(d.rule, d.quote) for d in ad.decoys if d in turned]
    decoys = [d for d in ad.decoys if d not in turned]
    decoys += [Finding(v.rule, v.quote, phrases.ALLOWED_BECAUSE[v.rule]) for v in ad.violations if v in turned]
    if splits.has_held_out_pair([v.rule for v in violations]):
        return None
    in_order = lambda findings: tuple(sorted(findings, key=lambda finding: ad.text.index(finding.quote)))
    return dataclasses.replace(
        ad, audience=audience, proof=proof, violations=in_order(violations), decoys=in_order(decoys)
    )


def _of_context(finding: Finding) -> bool:
    """Whether it is an offence or allowed by the context alone."""
    reason = phrases.ALLOWED_BECAUSE.get(finding.rule)
    return reason is not None and finding.reason in ("", reason)


def _other(values: tuple[str, ...], value: str) -> str:
    (other,) = (v for v in values if v != value)
    return other


def _draw(rng: random.Random, split: str) -> Ad:
    new_product = split == "products"
    brand = rng.choice(splits.HELD_OUT_BRANDS if new_product else splits.BRANDS)
    noun = rng.choice(splits.HELD_OUT_NOUNS if new_product else splits.NOUNS)
    audience, proof = rng.choice(rules.AUDIENCES), rng.choice(rules.PROOFS)

    broken = _broken_rules(rng, split)
    # Two rules hang on the context, so the context follows from breaking them.
    if rules.ADULT_OFFER in broken:
        audience = "children"
    if rules.UNPROVEN in broken:
        proof = "none"

    phrase = lambda template: _phrase(rng, template, noun, held_out=split == "phrasings")
    violations = [Finding(rule, phrase(rng.choice(phrases.OFFENDING[rule]))) for rule in broken]
    decoys = []
    if rng.random() < DECOY_PROBABILITY["offending" if broken else "fine"]:
        rule, template, reason = _decoy(rng, audience, proof)
        decoys.append(Finding(rule, phrase(template), reason))

    num_plain = rng.randint(1, 2) if len(broken) + len(decoys) < 3 else 0
    plain = [phrases.fill(rng, t) for t in rng.sample(phrases.NEUTRALS, num_plain)]
    body = [finding.quote for finding in (*violations, *decoys)] + plain
    rng.shuffle(body)
    text = _text(rng, phrases.fill(rng, rng.choice(phrases.INTROS), brand=brand, noun=noun), body)
    in_order = lambda findings: tuple(sorted(findings, key=lambda finding: body.index(finding.quote)))
    return Ad(brand, noun, audience, proof, text, in_order(violations), in_order(decoys))


def _broken_rules(rng: random.Random, split: str) -> list[int]:
    if split == "rule_pairs":
        return list(rng.choice(sorted(map(sorted, splits.HELD_OUT_PAIRS))))
    (number,) = rng.choices(NUM_VIOLATIONS, NUM_VIOLATIONS_WEIGHTS)
    while True:
        broken = rng.sample(tuple(rules.RULES), number)
        if not splits.has_held_out_pair(broken):
            return broken


def _decoy(rng: random.Random, audience: str, proof: str) -> tuple[int, str, str]:
    """(rule, template, reason) of a phrase that is allowed in this context."""
    allowed = [rules.ADULT_OFFER] * (audience == "adults") + [rules.UNPROVEN] * (proof == "on file")
    if allowed and rng.random() < CONTEXT_DECOY_PROBABILITY:
        rule = rng.choice(allowed)
        return rule, rng.choice(phrases.OFFENDING[rule]), phrases.ALLOWED_BECAUSE[rule]
    rule = rng.choice(tuple(phrases.DECOYS))
    return rule, *rng.choice(phrases.DECOYS[rule])


def _phrase(rng: random.Random, template: str, noun: str, held_out: bool) -> str:
    return rng.choice(splits.fillings(template)[held_out]).replace("{noun}", noun)


def _text(rng: random.Random, intro: str, body: list[str]) -> str:
    sentences = [rng.choice(phrases.LEAD_INS) + s if rng.random() < LEAD_IN_PROBABILITY else s for s in body]
    return " ".join(f"{sentence}." for sentence in (intro, *sentences))
