"""The judge against grades worked out by hand."""

import random

import pytest

from icegrt_jax.data.records import Prompt, user
from icegrt_jax.domains.adreview import answer, flaws, generator
from icegrt_jax.domains.adreview.domain import AdReview
from icegrt_jax.domains.adreview.judge import grade, overlap

OFFENDING = {
    "ad": "try the new zeno lamp. yes, guaranteed to work in 3 days. easy to carry. doctors love it.",
    "violations": [
        {"rule": 1, "quote": "guaranteed to work in 3 days"},
        {"rule": 6, "quote": "doctors love it"},
    ],
    "decoys": [],
}
FINE = {
    "ad": "meet the mira mug. money back guaranteed within 2 weeks. designed in spain.",
    "violations": [],
    "decoys": [{"rule": 1, "quote": "money back guaranteed within 2 weeks", "reason": "only a refund offer"}],
}
PLAIN = {"ad": "meet the mira mug. designed in spain.", "violations": [], "decoys": []}
GUARANTEE = '"guaranteed to work in 3 days" breaks rule 1, promised results.'
DOCTORS = '"doctors love it" breaks rule 6, fake authority.'


def test_the_ideal_review_of_an_offending_ad():
    review = (
        '"guaranteed to work in 3 days" breaks rule 1, promised results.'
        ' "doctors love it" breaks rule 6, fake authority. verdict: reject'
    )
    assert answer.ideal(OFFENDING) == review
    assert set(grade(OFFENDING, review).values()) == {1.0}


def test_the_ideal_review_of_a_fine_ad():
    review = '"money back guaranteed within 2 weeks" is only a refund offer. no rule is broken. verdict: approve'
    assert answer.ideal(FINE) == review
    assert set(grade(FINE, review).values()) == {1.0}
    assert answer.ideal(PLAIN) == "no rule is broken. verdict: approve"
    assert grade(PLAIN, "nothing here breaks a rule. verdict: approve")["gold"] == 1.0


@pytest.mark.parametrize("meta, verdict", [(OFFENDING, "reject"), (FINE, "approve"), (PLAIN, "approve")])
def test_a_bare_right_verdict_is_worth_its_weight(meta, verdict):
    grades = grade(meta, f"verdict: {verdict}")
    assert grades["verdict"] == 1.0 and grades["analysis"] == 0.0 and grades["gold"] == pytest.approx(0.4)


@pytest.mark.parametrize("meta, verdict", [(OFFENDING, "approve"), (FINE, "reject"), (PLAIN, "reject")])
def test_a_bare_wrong_verdict_is_worth_nothing(meta, verdict):
    assert grade(meta, f"verdict: {verdict}")["gold"] == 0.0


@pytest.mark.parametrize("meta, review, wrong", [
    (OFFENDING, "no rule is broken. verdict: approve", 1.0),
    (OFFENDING, "verdict: reject", 0.0), (OFFENDING, "no rule is broken.", 0.0),
    (FINE, "verdict: approve", 0.0), (FINE, "verdict: reject", 0.0),
])  # fmt: skip
def test_only_an_offending_ad_that_is_approved_is_a_false_all_clear(meta, review, wrong):
    grades = AdReview().grade(Prompt(user("?"), meta=meta), review)
    assert grades == {**grade(meta, review), "false_clear": wrong}


def test_a_missed_violation_halves_recall():
    grades = grade(OFFENDING, f"{DOCTORS} verdict: reject")
    assert grades["rule_precision"] == 1.0 and grades["rule_recall"] == 0.5
    assert grades["rule_f1"] == pytest.approx(2 / 3) and grades["evidence"] == 0.5
    assert grades["gold"] == pytest.approx(0.4 + 0.6 * (2 / 3 + 1 / 2) / 2)


def test_a_wrong_rule_costs_precision_recall_and_evidence():
    grades = grade(OFFENDING, f'{DOCTORS} "guaranteed to work in 3 days" breaks rule 8, quick riches. verdict: reject')
    assert grades["rule_precision"] == grades["rule_recall"] == 0.5
    assert grades["evidence"] == pytest.approx(0.5 * 0.5)  # half covered, half of the quotes sound


def test_a_rule_under_another_rules_name_does_not_count():
    grades = grade(OFFENDING, f'{DOCTORS} "guaranteed to work in 3 days" breaks rule 1, quick riches. verdict: reject')
    assert grades["rule_precision"] == 0.5 and grades["evidence"] == pytest.approx(0.25)


def test_leaving_out_the_name_costs_a_fifth_of_that_evidence():
    grades = grade(OFFENDING, f'{GUARANTEE} "doctors love it" breaks rule 6. verdict: reject')
    assert grades["rule_f1"] == 1.0 and grades["evidence"] == pytest.approx((1.0 + 0.8) / 2)


def test_rules_without_quotes_are_no_evidence():
    grades = grade(
        OFFENDING, "this breaks rule 1, promised results. this breaks rule 6, fake authority. verdict: reject"
    )
    assert grades["rule_f1"] == 1.0 and grades["evidence"] == 0.0


def test_an_invented_quote_supports_nothing_and_taints_the_rest():
    grades = grade(
        OFFENDING, f'{DOCTORS} "guaranteed to work in 5 days" breaks rule 1, promised results. verdict: reject'
    )
    assert grades["rule_f1"] == 1.0 and grades["evidence"] == pytest.approx(0.5 * 0.5)


def test_a_partial_quote_is_partial_evidence():
    # 4 of 6 words: F1 = 2 * 4 / (4 + 6).
    grades = grade(OFFENDING, f'{DOCTORS} "guaranteed to work in" breaks rule 1, promised results. verdict: reject')
    assert grades["evidence"] == pytest.approx((1 + 0.8) / 2)


def test_quoting_the_whole_ad_is_poor_evidence():
    grades = grade(OFFENDING, f'"{OFFENDING["ad"]}" breaks rule 1, promised results. {DOCTORS} verdict: reject')
    # 18 words of the ad, 6 of them the offence.
    assert grades["evidence"] == pytest.approx((2 * 6 / (18 + 6) + 1) / 2)


def test_words_in_another_order_or_across_a_gap_are_no_quote():
    assert overlap("days 3", "in 3 days", OFFENDING["ad"]) == 0.0
    assert overlap("zeno lamp guaranteed", "guaranteed to work", OFFENDING["ad"]) == 0.0
    assert overlap("", "guaranteed to work", OFFENDING["ad"]) == 0.0


def test_the_occurrence_that_overlaps_best_counts():
    assert overlap("the mug", "the mug works", "the mug. the mug works.") == pytest.approx(0.8)


def test_listing_every_rule_is_little_better_than_no_analysis():
    listing = " ".join(answer.cite(q, rule) for rule in range(1, 9) for q in ("doctors love it",))
    grades = grade(OFFENDING, f"{listing} verdict: reject")
    assert grades["rule_precision"] == 2 / 8 and grades["evidence"] == pytest.approx(0.5 / 8)
    assert grades["gold"] < 0.55


def test_citing_a_rule_for_a_fine_ad_forfeits_the_analysis():
    for meta in (FINE, PLAIN):
        grades = grade(meta, '"designed in spain" breaks rule 4, buying pressure. no rule is broken. verdict: approve')
        assert grades["rule_f1"] == 0.0 and grades["evidence"] == 0.0
        assert grade(meta, '"designed in spain" breaks rule 4, buying pressure. verdict: reject')["gold"] == 0.0


def test_the_all_clear_for_an_offending_ad_is_a_false_claim():
    grades = grade(OFFENDING, f"{GUARANTEE} {DOCTORS} no rule is broken. verdict: reject")
    assert grades["rule_precision"] == pytest.approx(2 / 3) and grades["gold"] < 1.0


def test_a_decoy_must_be_explained_and_for_its_own_reason():
    assert grade(FINE, "no rule is broken. verdict: approve")["evidence"] == 0.0
    wrong = grade(
        FINE, '"money back guaranteed within 2 weeks" is only a greeting. no rule is broken. verdict: approve'
    )
    assert wrong["evidence"] == 0.5


def test_explaining_what_needs_no_explanation_is_unsound():
    grades = grade(PLAIN, '"designed in spain" is only a greeting. no rule is broken. verdict: approve')
    assert grades["rule_f1"] == 1.0 and grades["evidence"] == 0.0


def test_a_wrong_verdict_never_beats_a_bare_right_one():
    wrong = grade(OFFENDING, f"{GUARANTEE} {DOCTORS} verdict: approve")
    assert wrong["analysis"] == 1.0 and wrong["gold"] == pytest.approx(0.3)
    assert wrong["gold"] < grade(OFFENDING, "verdict: reject")["gold"]


def test_malformed_answers_grade_low():
    for review in ("", "reject", f"{GUARANTEE} {DOCTORS}", f"{GUARANTEE} verdict: reject verdict: approve", "8 8 8"):
        grades = grade(OFFENDING, review)
        assert grades["wellformed"] == 0.0 and grades["verdict"] == 0.0 and grades["gold"] <= 0.3


def test_words_after_the_verdict_are_wasted_and_prove_nothing():
    grades = grade(OFFENDING, f"verdict: reject. {GUARANTEE} {DOCTORS}")
    # 2 words, then 11 and 8.
    assert grades["analysis"] == 0.0 and grades["concision"] == pytest.approx(2 / 21)
    assert grades["gold"] == pytest.approx(0.4 * (0.7 + 0.3 * 2 / 21))


def test_repeated_and_unknown_sentences_are_wasted():
    review = f"{GUARANTEE} {DOCTORS} {DOCTORS} i like lamps. verdict: reject"
    grades = grade(OFFENDING, review)
    # 11 + 8 + 8 + 3 + 2 words, of which 8 + 3 are wasted.
    assert grades["analysis"] == 1.0 and grades["concision"] == pytest.approx(21 / 32)
    assert grades["gold"] == pytest.approx(0.7 + 0.3 * 21 / 32)


def test_case_spacing_and_quote_marks_do_not_matter():
    review = (
        "\u201cGuaranteed to work in 3 days\u201d breaks Rule 1, promised results.\n\n"
        + DOCTORS
        + "  Verdict:  Reject."
    )
    assert grade(OFFENDING, review)["gold"] == 1.0


def test_every_ideal_variant_of_2000_ads_is_flawless_and_every_flaw_is_not():
    rng = random.Random("judge")
    for _ in range(2000):
        meta = generator.annotation(generator.sample_ad(rng))
        for variant in answer.ideal_variants(meta)[:3]:
            assert grade(meta, variant)["gold"] == 1.0, (meta, variant)
        name, review = flaws.sample_flaw(rng, meta)
        grades = grade(meta, review)
        assert grades["gold"] < 1.0, (name, meta, review)
        assert all(0.0 <= value <= 1.0 for value in grades.values())


def test_no_text_breaks_the_judge():
    rng = random.Random("noise")
    pieces = [*answer.ideal(OFFENDING).split(), *answer.ideal(FINE).split()]
    pieces += ['"', "", "\n", "rule 99", "\u00e9", "verdict:"]
    for _ in range(300):
        grades = grade(rng.choice([OFFENDING, FINE, PLAIN]), " ".join(rng.choices(pieces, k=rng.randint(0, 40))))
        assert all(0.0 <= value <= 1.0 for value in grades.values())
