import collections
import itertools
import random

import pytest

from icegrt_jax.domains.adreview import demonstrations, flaws, generator
from icegrt_jax.domains.adreview.answer import ideal, parse
from icegrt_jax.domains.adreview.judge import false_clear, grade


def _metas(n):
    rng = random.Random("flaws")
    return [generator.annotation(generator.sample_ad(rng)) for _ in range(n)]


@pytest.mark.parametrize("name", flaws.FLAWS)
def test_each_flaw_occurs_is_seen_by_the_judge_and_differs_from_the_ideal(name):
    rng = random.Random(name)
    pairs = [(meta, flaws.FLAWS[name](rng, meta)) for meta in _metas(300)]
    pairs = [(meta, review) for meta, review in pairs if review is not None]
    assert len(pairs) > 50
    for meta, review in pairs:
        assert review != ideal(meta) and parse(review).verdict is not None
        assert grade(meta, review)["gold"] < 1.0, (meta, review)


def test_each_flaw_hurts_the_grade_it_is_about():
    hurt = {
        "wrong_verdict": "verdict", "missed_violation": "rule_recall", "wrong_rule": "rule_precision",
        "no_quote": "evidence", "wrong_quote": "evidence", "invented_quote": "evidence",
        "false_alarm": "rule_precision", "extra_rule": "rule_precision", "wrong_reason": "evidence",
        "rambling": "concision", "verdict_only": "analysis", "explained_away": "rule_recall",
        "let_through": "verdict",
    }  # fmt: skip
    assert set(hurt) == set(flaws.FLAWS)
    rng = random.Random("hurt")
    for meta in _metas(300):
        for name, count in hurt.items():
            review = flaws.FLAWS[name](rng, meta)
            assert review is None or grade(meta, review)[count] < 1.0, (name, meta, review)


def test_flaws_that_say_so_keep_the_right_verdict():
    rng = random.Random("verdict")
    for meta in _metas(300):
        for name in ("verdict_only", "wrong_rule", "no_quote", "wrong_quote", "extra_rule", "wrong_reason", "rambling"):
            review = flaws.FLAWS[name](rng, meta)
            assert review is None or grade(meta, review)["verdict"] == 1.0, (name, review)


def test_an_invented_quote_is_not_in_the_ad():
    rng = random.Random("invented")
    for meta in _metas(300):
        review = parse(flaws.invented_quote(rng, meta))
        assert any(c.quote not in meta["ad"] for c in review.citations)


def test_an_offence_that_is_explained_away_alone_clears_the_ad():
    rng = random.Random("excused")
    for meta in _metas(300):
        review = flaws.explained_away(rng, meta)
        assert (review is None) == (not meta["violations"])
        if review is not None:
            assert false_clear(meta, review) == (len(meta["violations"]) == 1)
            excuse = parse(review).explanations[0]
            assert excuse.quote in [v["quote"] for v in meta["violations"]]


def test_an_ad_that_is_let_through_is_approved_with_excuses_or_without():
    rng = random.Random("let through")
    excuses = collections.Counter()
    for meta in _metas(300):
        review = flaws.let_through(rng, meta)
        assert (review is None) == (not meta["violations"])
        if review is not None:
            said = parse(review)
            assert false_clear(meta, review) and said.all_clear and not said.citations
            assert {e.quote for e in said.explanations} <= {v["quote"] for v in meta["violations"]}
            excuses[len(said.explanations)] += 1
    assert excuses[0] > 20 and excuses[1] > 20 and excuses[2] > 5


def test_demonstrations_mix_as_asked():
    n = 1000
    kinds = collections.Counter(r.meta["kind"] for r in demonstrations.demonstrations(0, n))
    assert kinds["ideal"] == 450 and kinds["verdict_only"] == 300
    assert set(kinds) == {"ideal", *flaws.FLAWS} - {"explained_away", "let_through"}
    assert {r.meta["kind"] for r in demonstrations.demonstrations(0, 50, verdict_only=0.0, wrong=0.0)} == {"ideal"}
    kinds = collections.Counter(
        r.meta["kind"] for r in demonstrations.demonstrations(0, 200, verdict_only=0.1, wrong=0.0)
    )
    assert kinds == {"ideal": 180, "verdict_only": 20}


def test_an_ad_that_hangs_on_its_context_is_demonstrated_in_both():
    made = demonstrations.demonstrations(0, 400)
    asked = [(r.meta["ad"], r.meta["audience"], r.meta["proof"], bool(r.meta["violations"])) for r in made]
    pairs = [(a, b) for a, b in itertools.pairwise(asked) if a[0] == b[0]]
    assert 60 < len(pairs) and all(a[1:3] != b[1:3] for a, b in pairs)
    assert sum(a[3] != b[3] for a, b in pairs) > 30


def test_ideal_demonstrations_are_flawless_and_the_others_are_not():
    for record in demonstrations.demonstrations(1, 600):
        gold = grade(record.meta, record.messages[-1]["content"])["gold"]
        assert (gold == 1.0) == (record.meta["kind"] == "ideal")


def test_demonstrations_ask_then_answer():
    for record in demonstrations.demonstrations(2, 20):
        assert [m["role"] for m in record.messages] == ["user", "assistant"]
        assert record.messages[0]["content"].endswith(record.meta["ad"])
