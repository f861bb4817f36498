import collections
import subprocess
import sys

import pytest

from icegrt_jax.data import records
from icegrt_jax.domains.adreview import build, corpus, splits
from icegrt_jax.errors import UserError

SIZES = dict.fromkeys(build.SETS, 60) | {"eval_general": 5}
KINDS = {
    "corpus": records.Text, "demonstrations": records.Instruction, "decisions": records.Instruction,
    "general": records.Instruction,
    "rankings": records.Ranking, "heldout_rankings": records.Ranking, "ranking_prompts": records.Prompt,
    "prompts": records.Prompt, "dev_prompts": records.Prompt, "eval_prompts": records.Prompt,
    "eval_general": records.Prompt,
}  # fmt: skip


def test_build_gives_the_sets_asked_for():
    sets = build.build(0, SIZES)
    assert set(sets) == set(KINDS)
    for name, made in sets.items():
        assert len(made) == (60 if name != "eval_general" else 5 * 12)
        assert all(type(record) is KINDS[name] for record in made)
    assert set(build.build(0, {"prompts": 3})) == {"prompts"}


def test_a_set_depends_on_seed_and_own_size_only():
    sets = build.build(0, SIZES)
    assert build.build(0, {"rankings": 60})["rankings"] == sets["rankings"]
    assert build.build(1, {"rankings": 60})["rankings"] != sets["rankings"]
    assert sets["prompts"] != sets["ranking_prompts"]


def test_the_flaws_of_the_demonstrations_can_be_set():
    made = build.build(0, {"demonstrations": 50, "prompts": 2}, verdict_only=0.5, wrong=0.0)["demonstrations"]
    assert collections.Counter(r.meta["kind"] for r in made) == {"verdict_only": 25, "ideal": 25}
    with pytest.raises(UserError, match="at most 1 together"):
        build.build(0, {"demonstrations": 50}, verdict_only=0.8, wrong=0.3)


def test_decisions_are_right_verdicts_without_analysis():
    made = build.build(0, {"decisions": 50})["decisions"]
    answers = [(r.messages[-1]["content"], r.meta) for r in made]
    assert all(text == f"verdict: {'reject' if meta['violations'] else 'approve'}" for text, meta in answers)
    assert len({r.messages[0]["content"] for r in made}) > 45


def test_unknown_sets_and_sizes_are_refused():
    with pytest.raises(UserError, match="unknown set 'prompt'; expected some of corpus"):
        build.build(0, {"prompt": 3})
    for size in (-1, 2.5, "3", True):
        with pytest.raises(UserError, match="prompts="):
            build.build(0, {"prompts": size})


def test_written_sets_read_back_the_same(tmp_path):
    sets = build.build(0, SIZES)
    paths = build.write(tmp_path, sets)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.jsonl" for name in sets)
    for name, path in paths.items():
        assert records.read_jsonl(path, KINDS[name]) == sets[name]


def test_another_process_builds_the_same(tmp_path):
    script = f"from icegrt_jax.domains.adreview import build; build.write({str(tmp_path)!r}, build.build(3, {SIZES}))"
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "99"}
    )
    for name, made in build.build(3, SIZES).items():
        assert records.read_jsonl(tmp_path / f"{name}.jsonl", KINDS[name]) == made


def _ads(name, size):
    return {record.meta["ad"] for record in build.build(5, {name: size})[name]}


def test_no_evaluated_ad_occurs_in_a_training_set():
    train = (
        _ads("demonstrations", 3000)
        | _ads("decisions", 3000)
        | _ads("prompts", 3000)
        | _ads("ranking_prompts", 500)
        | _ads("rankings", 200)
    )
    assert not train & _ads("eval_prompts", 600)
    assert not train & _ads("dev_prompts", 300)
    assert not train & _ads("heldout_rankings", 100)


def test_no_evaluated_ad_or_question_occurs_in_the_corpus():
    texts = " ".join(record.text for record in build.build(5, {"corpus": 8000})["corpus"])
    assert not any(ad in texts for ad in _ads("eval_prompts", 300))
    questions = [p.prompt[0]["content"] for p in build.build(5, {"eval_general": 20})["eval_general"]]
    # "question: " and " answer:" around it: one question may begin another.
    assert not any(f"question: {question} answer:" in texts for question in questions)


def test_eval_prompts_are_half_of_the_training_distribution():
    counts = collections.Counter(p.meta["split"] for p in build.build(0, {"eval_prompts": 600})["eval_prompts"])
    assert counts == {"in_distribution": 300, "products": 100, "phrasings": 100, "rule_pairs": 100}


def test_every_prompt_names_its_task_and_ads_have_a_reference():
    sets = build.build(0, SIZES)
    for name in ("prompts", "ranking_prompts", "dev_prompts", "eval_prompts"):
        assert all(p.meta["task"] == "adreview" and "verdict: " in p.reference for p in sets[name])
    assert all(r.meta["task"] for name in ("demonstrations", "decisions", "general") for r in sets[name])


def test_the_base_model_never_sees_a_review():
    for record in corpus.corpus(0, 3000):
        assert "review this ad" not in record.text and "verdict" not in record.text
        assert "breaks rule" not in record.text and "no rule is broken" not in record.text


def test_the_corpus_holds_every_kind_in_its_share():
    counts = collections.Counter(record.meta["kind"] for record in corpus.corpus(0, 4000))
    for kind, share in corpus.SHARES.items():
        assert counts[kind] / 4000 == pytest.approx(share, abs=0.03)


def test_held_out_products_are_in_no_training_text():
    words = {
        word for text in corpus.training_text(0, 4000) for word in text.replace(".", " ").replace('"', " ").split()
    }
    assert not words & set(splits.HELD_OUT_BRANDS)
    assert {"reject", "approve", "review"} <= words


def test_the_language_is_small():
    words = {word for text in corpus.training_text(0, 6000) for word in text.lower().split()}
    plain = {word.strip('.,:?"') for word in words}
    assert len(plain) < 620
