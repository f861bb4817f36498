"""Near-duplicates and contaminated records, found and explained."""

import json

import numpy as np
import pytest

from icegrt_jax import cli
from icegrt_jax.data import filters
from icegrt_jax.data.filters import Contamination, NearDuplicates, bands, texts, words
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, read_jsonl, user

WORDS = [f"w{i}" for i in range(500)]


def said(*spoken, where=""):
    return Text(" ".join(spoken), where=where)


def story(seed, length=60):
    return [str(word) for word in np.random.default_rng(seed).choice(WORDS, length)]


def changed(text, *places):
    return [f"new{i}" if i in places else word for i, word in enumerate(text)]


def jaccard(a, b):
    sets = [set(filters.ngrams(list(text), filters.SHINGLE)) for text in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.fixture
def needs_datasketch():
    pytest.importorskip("datasketch", reason="needs the extra filters")


def test_a_near_duplicate_is_found_with_its_partner_and_its_similarity(needs_datasketch):
    rule = NearDuplicates(0.7)
    first, second = story(0), story(1)
    assert rule.find(said(*first, where="a, line 1")) is None and rule.find(said(*second, where="a, line 2")) is None
    near = changed(second, 59, 58)
    found = rule.find(said(*near))
    assert (found.rule, found.partner) == ("near_duplicate", "a, line 2")
    assert found.similarity == pytest.approx(jaccard(second, near), abs=0.1)
    assert rule.find(said(*changed(second, 10, 20, 30, 40))) is None  # 0.5 alike
    assert rule.find(said(*first)).similarity == 1.0


def test_nearly_all_near_duplicates_are_found_and_hardly_any_other(needs_datasketch):
    rule = NearDuplicates(0.6)
    stories = [story(seed) for seed in range(120)]
    assert not any(rule.find(said(*text)) for text in stories)
    near = [changed(text, 30) for text in stories]  # 51 of 61 shingles are the same: 0.84
    assert sum(bool(rule.find(said(*text))) for text in near) == len(near)
    apart = [changed(text, 8, 20, 32, 44) for text in stories]  # 0.47
    assert sum(bool(rule.find(said(*text))) for text in apart) <= 3


def test_of_several_partners_the_most_similar_one_is_named(needs_datasketch):
    rule, text = NearDuplicates(0.8), story(0, 200)
    rule.find(said(*text, where="first"))
    assert rule.find(said(*changed(text, *range(0, 40)), where="second")) is None
    assert rule.find(said(*changed(text, *range(0, 38)))).partner == "second"


def test_case_punctuation_and_the_systems_message_make_no_difference(needs_datasketch):
    rule = NearDuplicates(0.9)
    rule.find(Prompt(user("Is 7 odd, or even? Say why you think so."), where="a"))
    system = ({"role": "system", "content": "Be brief and never lie to people."},)
    assert rule.find(Prompt((*system, *user("is 7 odd or even — say WHY you think so!")))).partner == "a"
    assert rule.find(Prompt((*system, *user("Name a colour of the rainbow and one of the sky.")))) is None


def test_records_without_a_word_are_not_each_others_duplicates(needs_datasketch):
    rule = NearDuplicates(0.8)
    assert rule.find(said("?!")) is None and rule.find(said("...")) is None


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_the_index_brings_together_what_is_as_similar_as_the_threshold(threshold):
    count, rows = bands(threshold)
    assert count * rows <= filters.PERMUTATIONS and count > 1
    assert 1 - (1 - threshold**rows) ** count >= filters.RECALL


def test_a_shared_ngram_is_contamination_and_is_quoted():
    question = story(0, 20)
    rule = Contamination({"eval": [Prompt(user(" ".join(question)), where="eval, line 1")]}, 13)
    inside = ["before", *question[3:16], "after", "it", "all"]
    found = rule.find(said(*inside))
    assert (found.rule, found.partner, found.shared) == ("contamination", "eval, line 1", " ".join(question[3:16]))
    assert found.similarity == pytest.approx(13 / 17)
    assert rule.find(said(*question[3:15])) is None  # twelve words
    assert rule.find(said(*question[:7], "not", *question[7:13])) is None
    assert Contamination({"eval": [Prompt(user(" ".join(question)))]}, 8).find(said(*question[3:15])) is not None


def test_an_ngram_does_not_reach_from_one_message_to_the_next():
    text = story(0, 16)
    rule = Contamination({"eval": [said(*text)]}, 13)
    halves = [" ".join(text[:8]), " ".join(text[8:])]
    two = [{"role": "user", "content": halves[0]}, {"role": "assistant", "content": halves[1]}]
    assert rule.find(Instruction(tuple(two))) is None and rule.find(said(*halves)) is not None


def test_a_short_question_is_recognised_as_a_whole_and_a_shorter_one_not_at_all():
    nine, five = story(0, 9), story(1, 5)
    rule = Contamination({"eval": [said(*nine), said(*five)]}, 13)
    assert rule.counts == {"eval": {"records": 2, "too_short": 1, "wording": 0}}
    assert rule.find(said("so", *nine, "then")).shared == " ".join(nine)
    assert rule.find(said(*nine[:8])) is None and rule.find(said(*five)) is None


def test_the_wording_of_an_evaluations_prompts_is_no_contamination():
    wording = story(99, 15)
    rule = Contamination({"eval": [said(*story(i, 20), *wording) for i in range(filters.COMMON + 1)]}, 13)
    assert rule.counts["eval"]["wording"] == 3  # n-grams of 13 in 15 words; those that reach into it differ
    assert rule.find(said(*wording)) is None and rule.find(said(*story(3, 20))) is not None
    few = Contamination({"eval": [said(*story(i, 20), *wording) for i in range(filters.COMMON)]}, 13)
    assert few.find(said(*wording)) is not None


def test_answers_and_references_are_read_too():
    ranking = Ranking(user("Which?"), ("One of them.", "Two."), (1.0, 2.0))
    assert texts(ranking) == ["Which?", "One of them.", "Two."]
    assert texts(Prompt(user("Which?"), reference="One.")) == ["Which?", "One."]
    assert words("L'été, 3.5 ½ 日本語 OK") == ["l", "été", "3", "5", "½", "日", "本", "語", "ok"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """Instructions: a story, the same once more, one with an evaluation's question, and one of its own."""
    question = " ".join(story(7, 15))
    asked = [" ".join(story(0)), " ".join(changed(story(0), 59)), f"Tell me: {question}", " ".join(story(2))]
    write(tmp_path / "rows.jsonl", [{"question": text, "answer": "So it is."} for text in asked])
    write(tmp_path / "eval.jsonl", [{"prompt": question, "reference": "Yes."}, {"prompt": "Hm?"}])
    return tmp_path


def run(files, *flags):
    source = f"--source=jsonl:{files}/rows.jsonl?prompt=question&response=answer"
    return cli.main(["data", "filter", "--kind=instruction", source, *flags])


def test_the_command_writes_what_is_kept_and_says_why_the_others_are_not(needs_datasketch, files, capsys):
    out, flags = files / "kept.jsonl", ["--near-duplicates=0.8", f"--against=jsonl:{files}/eval.jsonl"]
    assert run(files, f"--out={out}", *flags) == 0
    kept = read_jsonl(out, Instruction)
    assert [record.messages[0]["content"] for record in kept] == [" ".join(story(0)), " ".join(story(2))]
    dropped = [json.loads(line) for line in (files / "kept.dropped.jsonl").read_text().splitlines()]
    assert [(row["where"], row["rule"], row["partner"]) for row in dropped] == [
        (f"{files}/rows.jsonl, line 2", "near_duplicate", f"{files}/rows.jsonl, line 1"),
        (f"{files}/rows.jsonl, line 3", "contamination", f"{files}/eval.jsonl, line 1"),
    ]
    assert dropped[0]["similarity"] > 0.9 and dropped[1]["shared"] == " ".join(story(7, 15)[:13])
    assert Instruction.from_json(dropped[1]["record"]).messages[0]["content"].startswith("Tell me: ")
    printed = capsys.readouterr().out
    assert "4 instruction records, 2 kept; left out: 1 near-duplicates, 1 with text of an evaluation" in printed
    assert "2 records; 1 too short to be recognised" in printed
    assert sorted(path.name for path in files.iterdir()) == [
        "eval.jsonl", "kept.dropped.jsonl", "kept.jsonl", "rows.jsonl"
    ]  # fmt: skip


def test_each_rule_works_alone_and_against_takes_any_kind_of_record(files):
    evaluation = write(files / "rankings.jsonl", [{"prompt": "?", "chosen": " ".join(story(2)), "rejected": "No."}])
    flags = ["--against=ranking=jsonl:" + str(evaluation), f"--report={files}/why.jsonl", "--ngram=8"]
    assert run(files, f"--out={files}/kept.jsonl", *flags) == 0
    assert len(read_jsonl(files / "kept.jsonl", Instruction)) == 3
    (row,) = [json.loads(line) for line in (files / "why.jsonl").read_text().splitlines()]
    assert row["where"].endswith("line 4") and len(row["shared"].split()) == 8


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--out={}/kept.jsonl"], "nothing to filter by; give --near-duplicates=0.8, --against=SOURCE, or both."),
        (["--out={}/kept.json", "--against=jsonl:{}/eval.jsonl"], "expected the name of a file that ends in .jsonl."),
        (["--out={}/rows.jsonl", "--against=jsonl:{}/eval.jsonl"], "rows.jsonl is a file of the source; choose"),
        (["--out={}/a.jsonl", "--report={}/a.jsonl", "--against=jsonl:{}/eval.jsonl"], "--out and --report are both"),
        (["--out={}/kept.jsonl", "--against=jsonl:{}/nothing.jsonl"], "nothing.jsonl: no such file"),
        (["--out={}/kept.jsonl", "--against=instruction=jsonl:{}/rows.jsonl?prompt=question&response=answer"],
         "4 records, and none is left; nothing was written."),
        (["--out={}/kept.jsonl", "--near-duplicates=1.5"], "invalid similarity above 0, 1 at most value: '1.5'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_and_writes_nothing(files, capsys, flags, message):
    before = {path: path.read_text() for path in files.iterdir()}
    assert run(files, *(flag.format(files) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert {path: path.read_text() for path in files.iterdir()} == before


def test_a_bad_record_in_the_middle_leaves_nothing_behind(files, capsys):
    with open(files / "rows.jsonl", "a") as file:
        file.write('{"question": "?", "answer": ""}\n')
    before = sorted(files.iterdir())
    assert run(files, f"--out={files}/kept.jsonl", f"--against=jsonl:{files}/eval.jsonl") == 2
    assert "line 5" in capsys.readouterr().err and sorted(files.iterdir()) == before


def test_without_the_library_the_extra_is_named(files, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    assert run(files, f"--out={files}/kept.jsonl", "--near-duplicates=0.8") == 2
    assert 'pip install "icegrt_jax[filters]"' in capsys.readouterr().err
