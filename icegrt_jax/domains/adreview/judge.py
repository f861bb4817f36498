"""The gold judge: how good a review is, exactly, from the annotation of the ad.

Only evaluation, simulated annotators and tests may call it; PPO learns from a
reward model that has never seen it.
"""

from collections.abc import Mapping, Sequence

from icegrt_jax.domains.adreview.answer import Citation, Explanation, Review, parse, words
from icegrt_jax.domains.adreview.rules import RULES

VERDICT_WEIGHT = 0.4  # the rest of a correct review is its analysis
WRONG_VERDICT_WEIGHT = 0.3  # of the analysis, where the verdict is wrong: less than a bare right verdict
CONCISION_WEIGHT = 0.3
UNNAMED_CREDIT = 0.8  # of a citation that gives the rule's number but not its name
WRONG_REASON_CREDIT = 0.5  # of an explanation that points at a decoy but gives another reason


def grade(meta: Mapping, response: str) -> dict[str, float]:
    """Grades a response to an ad on every count, each in [0, 1].

    Only what stands before the first verdict is analysis.

    Args:
      meta: the ad's annotation, see `generator.annotation`.
      response: any text.

    Returns:
      `verdict`: 1 if the verdict is right. 0 if it is wrong, missing, or both are given.
      `wellformed`: 1 if there is one verdict.
      `rule_precision`, `rule_recall`, `rule_f1`: of the rules claimed to be broken
        against those that are. A claim under a wrong name, a second claim of the
        same rule, and an all-clear for an offending ad are false claims. For a
        fine ad the right claim is the all-clear: 1 if it is made and no rule is
        cited, else 0. Claiming nothing scores 0 either way.
      `evidence`: coverage times soundness. Coverage of an offending ad is the mean
        over its violations of how well the quote given for that rule overlaps the
        true one (word F1; 0 if the quote is not verbatim in the ad; times 0.8 if
        the rule is not named). Coverage of a fine ad is 0 without the all-clear,
        then 1 if it has no decoy, else how well the decoy is quoted (times 0.5 if
        the reason is wrong). Soundness is the share of all quotes that overlap a
        violation of the rule cited or, in an explanation, a decoy.
      `analysis`: mean of `rule_f1` and `evidence`.
      `concision`: the share of the words that are not wasted: said after the
        verdict, said twice, or in no sentence a review may hold.
      `gold`: (0.7 + 0.3 * concision) times 0.4 + 0.6 * analysis where the verdict is
        right, 0.3 * analysis where it is not.
    """
    review = parse(response)
    verdict = float(review.verdict == ("reject" if meta["violations"] else "approve"))
    precision, recall = _rules(meta, review)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    evidence = _coverage(meta, review) * _soundness(meta, review)
    analysis = (f1 + evidence) / 2
    concision = 1 - review.wasted_words / review.num_words if review.num_words else 0.0
    quality = VERDICT_WEIGHT + (1 - VERDICT_WEIGHT) * analysis if verdict else WRONG_VERDICT_WEIGHT * analysis
    return {
        "verdict": verdict,
        "wellformed": float(review.verdict is not None),
        "rule_precision": precision,
        "rule_recall": recall,
        "rule_f1": f1,
        "evidence": evidence,
        "analysis": analysis,
        "concision": concision,
        "gold": quality * (1 - CONCISION_WEIGHT + CONCISION_WEIGHT * concision),
    }


def false_clear(meta: Mapping, response: str) -> float:
    """1 if a response approves an ad that breaks a rule, the mistake that costs most, else 0."""
    return float(bool(meta["violations"]) and parse(response).verdict == "approve")


def overlap(quote: str, truth: str, ad: str) -> float:
    """Word F1 of where `quote` and `truth` stand in the ad; 0 if the quote isn't verbatim there.

    >>> overlap("you will", "you will run faster", "yes, you will run faster. easy to open.")
    0.6666666666666666
    """
    ours, theirs, whole = words(quote), words(truth), words(ad)
    spans = [(start, other) for start in _find(ours, whole) for other in _find(theirs, whole)]
    shared = (min(a + len(ours), b + len(theirs)) - max(a, b) for a, b in spans)
    return 2 * max((0, *shared)) / max(1, len(ours) + len(theirs))


def _find(part: Sequence[str], whole: Sequence[str]) -> list[int]:
    if not part:
        return []
    starts = range(len(whole) - len(part) + 1)
    return [i for i in starts if whole[i] == part[0] and whole[i : i + len(part)] == part]


def _names_its_rule(citation: Citation) -> bool:
    """Whether it cites a rule of the book, and by no other rule's name."""
    return citation.rule in RULES and citation.name in ("", RULES[citation.rule].name)


def _rules(meta: Mapping, review: Review) -> tuple[float, float]:
    """Precision and recall of the rules claimed to be broken."""
    if not meta["violations"]:
        right = float(review.all_clear and not review.citations)
        return right, right
    broken = {v["rule"] for v in meta["violations"]}
    found = {c.rule for c in review.citations if _names_its_rule(c)} & broken
    claims = len(review.citations) + review.all_clear
    return len(found) / max(1, claims), len(found) / len(broken)


def _coverage(meta: Mapping, review: Review) -> float:
    """How much of what there is to say is said, with its quote."""
    if meta["violations"]:
        shares = [max((0.0, *(_support(meta, c, v) for c in review.citations))) for v in meta["violations"]]
        return sum(shares) / len(shares)
    if not review.all_clear:
        return 0.0
    if not meta["decoys"]:
        return 1.0
    shares = [max((0.0, *(_insight(meta, e, d) for e in review.explanations))) for d in meta["decoys"]]
    return sum(shares) / len(shares)


def _support(meta: Mapping, citation: Citation, violation: Mapping) -> float:
    if citation.rule != violation["rule"] or not _names_its_rule(citation):
        return 0.0
    return overlap(citation.quote, violation["quote"], meta["ad"]) * (1.0 if citation.name else UNNAMED_CREDIT)


def _insight(meta: Mapping, explanation: Explanation, decoy: Mapping) -> float:
    credit = 1.0 if explanation.reason == decoy["reason"] else WRONG_REASON_CREDIT
    return overlap(explanation.quote, decoy["quote"], meta["ad"]) * credit


def _soundness(meta: Mapping, review: Review) -> float:
    """The share of the quotes given that show what they are said to show; 1 if there are none."""
    sound = [any(_support(meta, c, v) for v in meta["violations"]) for c in review.citations if c.quote]
    sound += [any(_insight(meta, e, d) for d in meta["decoys"]) for e in review.explanations]
    return sum(sound) / len(sound) if sound else 1.0
