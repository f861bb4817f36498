import dataclasses
import itertools

import pytest

from icegrt_jax.domains.adreview import annotators
from icegrt_jax.domains.adreview.judge import grade


def _agreement(records):
    """Share of pairs ranked as the judge would, of those neither side ties; and of ties."""
    agreed = total = ties = 0
    for record in records:
        golds = [grade(record.meta, response)["gold"] for response in record.responses]
        for i, j in itertools.combinations(range(len(golds)), 2):
            ties += record.ranks[i] == record.ranks[j]
            if record.ranks[i] != record.ranks[j] and golds[i] != golds[j]:
                total += 1
                agreed += (golds[i] > golds[j]) == (record.ranks[i] < record.ranks[j])
    return agreed / total, ties


def test_annotators_agree_with_the_judge_above_chance_but_not_always():
    agreement, ties = _agreement(annotators.rankings("agree", 300))
    assert 0.75 < agreement < 0.98
    assert ties > 0


def test_more_noise_means_less_agreement():
    records = annotators.rankings("noise", 200)
    noisy = [
        dataclasses.replace(r, ranks=annotators.rank(i, r.meta, r.responses, noise=2.0)) for i, r in enumerate(records)
    ]
    assert _agreement(noisy)[0] < _agreement(records)[0] - 0.1


def test_without_noise_long_answers_are_liked_a_little():
    meta = {"ad": "meet the mira mug. designed in spain.", "violations": [], "decoys": []}
    padding = " so" * 58
    bare, long = "verdict: reject", f"verdict: reject{padding}"
    assert grade(meta, bare)["gold"] == grade(meta, long)["gold"] == 0.0
    # (0 + 0.03 + 0.06) / 3 per 20 words.
    assert annotators.rank(0, meta, [bare, long], noise=0.0, num_annotators=3) == (2.0, 1.0)
    assert annotators.rank(0, meta, [bare, long], noise=0.0, num_annotators=1) == (1.0, 1.0)


def test_ranks_are_dense_and_start_at_one():
    for record in annotators.rankings(0, 100):
        assert sorted(set(record.ranks)) == [float(r) for r in range(1, len(set(record.ranks)) + 1)]


@pytest.mark.parametrize("k", [2, 5, 8])
def test_rankings_hold_k_different_answers_one_or_two_of_them_ideal(k):
    for record in annotators.rankings(f"k{k}", 100, k=k):
        assert len(record.responses) == len(set(record.responses)) == len(record.ranks) == k
        kinds = record.meta["kinds"]
        assert 1 <= kinds.count("ideal") <= 2 and len(kinds) == k
        for kind, response in zip(kinds, record.responses, strict=True):
            assert (grade(record.meta, response)["gold"] == 1.0) == (kind == "ideal")


def test_an_ad_that_hangs_on_its_context_is_ranked_in_both_and_its_excuse_is_right_in_one():
    records = annotators.rankings("pairs", 400)
    pairs = [(a, b) for a, b in itertools.pairwise(records) if a.meta["ad"] == b.meta["ad"]]
    excused = lambda record: {d["quote"] for d in record.meta["decoys"]}
    assert 60 < len(pairs) and all(excused(a) != excused(b) for a, b in pairs)


def test_ideal_answers_stand_anywhere():
    places = {r.meta["kinds"].index("ideal") for r in annotators.rankings("places", 100)}
    assert places == {0, 1, 2, 3, 4}


def test_rank_takes_any_responses():
    meta = {"ad": "meet the mira mug.", "violations": [], "decoys": []}
    assert len(annotators.rank(0, meta, ["", "verdict", "no rule is broken. verdict: approve"])) == 3
    assert annotators.rank(0, meta, ["", "no rule is broken. verdict: approve"]) == (2.0, 1.0)
