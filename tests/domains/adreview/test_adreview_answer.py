import random

from icegrt_jax.domains.adreview import answer, generator
from icegrt_jax.domains.adreview.rules import RULES


def test_parsing_the_ideal_review_gives_back_the_annotation():
    rng = random.Random("answer")
    for _ in range(2000):
        meta = generator.annotation(generator.sample_ad(rng))
        review = answer.parse(answer.ideal(meta))
        assert review.verdict == ("reject" if meta["violations"] else "approve")
        assert [(c.rule, c.quote) for c in review.citations] == [(v["rule"], v["quote"]) for v in meta["violations"]]
        assert all(c.name == RULES[c.rule].name for c in review.citations)
        explained = [(e.quote, e.reason) for e in review.explanations]
        assert explained == ([] if meta["violations"] else [(d["quote"], d["reason"]) for d in meta["decoys"]])
        assert review.all_clear == (not meta["violations"])
        assert review.wasted_words == 0 and review.num_words == len(answer.words(answer.ideal(meta)))


def test_ideal_variants_are_distinct_and_begin_with_the_ideal():
    rng = random.Random("variants")
    for _ in range(500):
        meta = generator.annotation(generator.sample_ad(rng))
        variants = answer.ideal_variants(meta)
        assert variants[0] == answer.ideal(meta) and len(set(variants)) == len(variants)


def test_a_citation_may_lack_quote_name_or_comma():
    review = answer.parse('This breaks rule 4. "a b" breaks rule 12 quick riches. verdict reject')
    assert review.citations == (answer.Citation(4, "", ""), answer.Citation(12, "quick riches", "a b"))
    assert review.verdict == "reject" and review.wasted_words == 0


def test_only_what_stands_before_the_first_verdict_is_read():
    review = answer.parse('verdict: approve. "a b" breaks rule 4. no rule is broken. verdict: approve')
    assert review.verdict == "approve" and not review.citations and not review.all_clear
    assert review.wasted_words == 11 and review.num_words == 13


def test_two_different_verdicts_are_none():
    assert answer.parse("verdict: approve. verdict: reject").verdict is None
    assert answer.parse("no rule is broken.").verdict is None
    assert answer.parse("").num_words == 0


def test_an_unclosed_quote_is_no_citation():
    review = answer.parse('"doctors love it breaks rule 6, fake authority. verdict: reject')
    assert not any(c.quote for c in review.citations) and review.wasted_words > 0
