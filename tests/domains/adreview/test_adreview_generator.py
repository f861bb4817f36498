import itertools
import random
import re
import subprocess
import sys

import pytest

from icegrt_jax.domains.adreview import answer, generator, phrases, rules, splits

TEMPLATES = [t for group in phrases.OFFENDING.values() for t in group] + [
    t for group in phrases.DECOYS.values() for t, _ in group
]


def _ads(n, split="train", bucket="train"):
    rng = random.Random(f"{split}/{bucket}")
    return [generator.sample_ad(rng, split, bucket) for _ in range(n)]


def _fillings(ad):
    # Whole words only: "tea" also begins "teacher".
    return {re.sub(rf"\b{ad.noun}\b", "{noun}", f.quote) for f in (*ad.violations, *ad.decoys)}


def test_all_slots_are_rendered():
    for split in generator.SPLITS:
        for ad in _ads(500, split):
            assert "{" not in generator.prompt(ad) and "}" not in generator.prompt(ad)


def test_every_slot_is_used_and_every_template_has_known_slots():
    used = {s for t in (*TEMPLATES, *phrases.NEUTRALS, *phrases.INTROS) for s in phrases.slots(t)}
    assert used == {*phrases.SLOTS, "brand", "noun"}


def test_quotes_stand_in_the_ad_exactly_once():
    for ad in _ads(1000):
        for finding in (*ad.violations, *ad.decoys):
            assert ad.text.count(finding.quote) == 1, ad


def test_findings_come_in_the_order_of_the_text():
    for ad in _ads(500):
        places = [ad.text.index(v.quote) for v in ad.violations]
        assert places == sorted(places)


def test_the_context_decides_two_rules():
    for ad in _ads(2000):
        broken = {v.rule for v in ad.violations}
        reasons = {d.reason for d in ad.decoys}
        assert ad.audience == "children" or rules.ADULT_OFFER not in broken
        assert ad.proof == "none" or rules.UNPROVEN not in broken
        assert ad.audience == "adults" or "allowed for adults" not in reasons
        assert ad.proof == "on file" or "backed by proof" not in reasons


def test_in_the_other_context_what_hangs_on_it_turns_and_nothing_else():
    turned = set()
    for ad in _ads(2000):
        other = generator.other_context(ad)
        findings = {*ad.violations, *ad.decoys}
        hangs = {v for v in ad.violations if v.rule in phrases.ALLOWED_BECAUSE}
        hangs |= {d for d in ad.decoys if d.reason in phrases.ALLOWED_BECAUSE.values()}
        if other is None:
            broken = [f.rule for f in {*ad.violations, *hangs} if f in hangs - set(ad.violations) or f not in hangs]
            assert not hangs or splits.has_held_out_pair(broken), ad
            continue
        of_context = {f.rule for f in hangs}
        turned |= of_context
        assert other.text == ad.text and generator.other_context(other) == ad
        assert (other.audience != ad.audience) == (rules.ADULT_OFFER in of_context)
        assert (other.proof != ad.proof) == (rules.UNPROVEN in of_context)
        assert findings - hangs <= {*other.violations, *other.decoys}
        for f in hangs:
            assert f.quote in {x.quote for x in (other.decoys if f in ad.violations else other.violations)}, ad
        assert len(findings) == len({*other.violations, *other.decoys})
        places = [other.text.index(v.quote) for v in other.violations]
        assert places == sorted(places)
    assert turned == {rules.UNPROVEN, rules.ADULT_OFFER}


def test_an_ad_that_hangs_on_its_context_is_followed_by_its_pair():
    ads = list(itertools.islice(generator.with_other_contexts(random.Random("pairs"), "rank"), 400))
    seconds = [b for a, b in itertools.pairwise(ads) if generator.other_context(a) == b]
    assert 60 < len(seconds) < 200 and all(splits.bucket(ad.text) == "rank" for ad in ads)
    assert sum(len({f.rule for f in ad.violations} & set(phrases.ALLOWED_BECAUSE)) > 0 for ad in seconds) > 20


def test_the_same_words_break_a_rule_in_one_context_only():
    guilty, allowed = set(), set()
    for ad in _ads(4000):
        guilty |= {v.quote for v in ad.violations}
        allowed |= {d.quote for d in ad.decoys}
    in_both = guilty & allowed
    assert len(in_both) > 50
    both_ways = {
        filled.replace("{noun}", noun)
        for rule in phrases.ALLOWED_BECAUSE
        for template in phrases.OFFENDING[rule]
        for filled in splits.fillings(template)[0]
        for noun in splits.NOUNS
    }
    assert in_both <= both_ways


def test_more_than_a_third_of_the_ads_are_fine():
    fine = sum(not ad.violations for ad in _ads(4000)) / 4000
    assert 0.35 < fine < 0.41


def test_all_rules_occur_alike():
    counts = dict.fromkeys(rules.RULES, 0)
    for ad in _ads(4000):
        for violation in ad.violations:
            counts[violation.rule] += 1
    assert min(counts.values()) > 0.6 * max(counts.values())


def test_ads_and_reviews_are_short():
    for ad in _ads(2000):
        assert len(answer.words(generator.prompt(ad))) <= 50
        assert len(answer.words(answer.ideal(generator.annotation(ad)))) <= 50


def test_training_fillings_and_held_out_ones_are_disjoint_across_templates():
    train = {p for t in TEMPLATES for p in splits.fillings(t)[0]}
    held_out = {p for t in TEMPLATES for p in splits.fillings(t)[1]}
    assert not train & held_out
    for template in TEMPLATES:
        kept, out = splits.fillings(template)
        assert len(out) >= 1 and len(kept) >= 4, template


def test_training_ads_hold_nothing_held_out():
    held_out = {p for t in TEMPLATES for p in splits.fillings(t)[1]}
    for ad in _ads(3000):
        assert ad.noun not in splits.HELD_OUT_NOUNS and ad.brand not in splits.HELD_OUT_BRANDS
        quotes = _fillings(ad)
        assert not quotes & held_out
        assert not splits.has_held_out_pair(v.rule for v in ad.violations)
        assert splits.bucket(ad.text) == "train"


def test_each_split_holds_what_it_is_named_for():
    held_out = {p for t in TEMPLATES for p in splits.fillings(t)[1]}
    for ad in _ads(300, "products", "eval"):
        assert ad.noun in splits.HELD_OUT_NOUNS and ad.brand in splits.HELD_OUT_BRANDS
    for ad in _ads(300, "phrasings", "eval"):
        quotes = _fillings(ad)
        assert quotes and quotes <= held_out
    for ad in _ads(300, "rule_pairs", "eval"):
        assert splits.has_held_out_pair(v.rule for v in ad.violations)


def test_every_rule_still_meets_others_in_training():
    for rule in rules.RULES:
        partners = [other for other in rules.RULES if other != rule and not splits.has_held_out_pair((rule, other))]
        assert len(partners) >= 4


def test_held_out_products_have_names_of_their_own():
    assert not set(splits.NOUNS) & set(splits.HELD_OUT_NOUNS)
    assert not set(splits.BRANDS) & set(splits.HELD_OUT_BRANDS)
    assert len(splits.HELD_OUT_BRANDS) == 7
    # A new brand is new as a whole, not in its syllables.
    for brand in splits.HELD_OUT_BRANDS:
        assert any(b[:2] == brand[:2] for b in splits.BRANDS) and any(b[2:] == brand[2:] for b in splits.BRANDS)


@pytest.mark.parametrize("bucket", splits.BUCKETS)
def test_buckets_have_their_share(bucket):
    share = sum(splits.bucket(f"text {i}") == bucket for i in range(8000)) / 8000
    assert share == pytest.approx({"train": 13 / 16}.get(bucket, 1 / 16), abs=0.02)


def test_another_process_draws_the_same_ads():
    script = (
        "import random; from icegrt_jax.domains.adreview import generator as g;"
        " r = random.Random('train/train'); print('\\n'.join(g.prompt(g.sample_ad(r)) for _ in range(20)))"
    )
    # Another hash seed each run: string hashing must not matter.
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"},
    )
    assert out.stdout.splitlines() == [generator.prompt(ad) for ad in _ads(20)]


def test_ads_hardly_ever_repeat():
    texts = [ad.text for ad in _ads(5000)]
    assert len(set(texts)) > 0.995 * len(texts)


def test_offending_phrases_and_decoys_share_words():
    # Keywords must mislead: each rule has a decoy sharing a content word with an offence.
    for rule in rules.RULES:
        offending, decoys = (
            {w for t in group for w in answer.words(t.replace("{", " ").replace("}", " ")) if len(w) > 3}
            for group in (phrases.OFFENDING[rule], [t for t, _ in phrases.DECOYS[rule]])
        )
        assert offending & decoys, rule


def test_rule_names_are_two_words_and_distinct():
    names = [rule.name for rule in rules.RULES.values()]
    assert len(set(names)) == 8 and all(len(name.split()) == 2 for name in names)
    assert all(a.number != b.number for a, b in itertools.combinations(rules.RULES.values(), 2))
