"""Judges by name, what they need, and what they may give."""

import pytest

from icegrt_jax.data.records import Prompt, user
from icegrt_jax.domains.adreview import build
from icegrt_jax.domains.adreview.judge import grade
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import built_in, judges
from icegrt_jax.evaluation.judges import Judge, grade_all, load, mean_grades


def prompt(reference="", **meta):
    return Prompt(user("q"), reference, meta)


def without(field):
    """A record of the embedded domain that lacks a field of its annotation."""
    [record] = build.build(0, {"eval_prompts": 1})["eval_prompts"]
    return Prompt(record.prompt, record.reference, {k: v for k, v in record.meta.items() if k != field})


GOOD = {
    "adreview": without(""), "choice": prompt("Answer: a\nExplanation: b", answer="a"), "letter": prompt("B"),
    "number": prompt("#### 3"), "regex": prompt("a", pattern="a"),
}  # fmt: skip


def test_every_judge_gives_a_verdict_of_gold_and_of_the_embedded_domain_its_own():
    for name in (*built_in.BY_NAME, "adreview"):
        if name != "rouge_l":
            assert 0 <= load("k", name).grade(GOOD.get(name, prompt("x")), "some answer")["gold"] <= 1
    record, graded = without(""), lambda answer: {**grade(record.meta, answer), "false_clear": 0.0}
    assert load("k", "adreview").grade(record, record.reference) == graded(record.reference)
    assert load("k", "domain", "adreview").grade(record, "no idea") == graded("no idea")


@pytest.mark.parametrize("judge, record, problem", [
    ("exact", prompt(), "field 'reference' is missing; the judge 'exact' needs the answer that is right"),
    ("exact", prompt(" \n"), "field 'reference' is ' \\n'; the judge 'exact' needs"),
    ("overlap", prompt(), "field 'reference' is missing; the judge 'overlap' needs an answer of one word or more"),
    ("overlap", prompt("?!"), "field 'reference' is '?!'; the judge 'overlap' needs an answer of one word or more"),
    ("choice", prompt("Answer: a\nExplanation: b"), "field 'meta.answer' is missing; the judge 'choice' needs"),
    ("choice", prompt("Explanation: b", answer=7), "field 'meta.answer' is 7; the judge 'choice' needs"),
    ("choice", prompt("Explanation: b", answer="+"), "field 'meta.answer' is '+'; the judge 'choice' needs"),
    ("choice", prompt("a, because b", answer="a"), "field 'reference' is 'a, because b'; the judge 'choice' needs"),
    ("letter", prompt("a dog"), "field 'reference' is 'a dog'; the judge 'letter' needs the letter that is right"),
    ("number", prompt("none"), "field 'reference' is 'none'; the judge 'number' needs the number that is right"),
    ("regex", prompt("a"), "field 'meta.pattern' is missing; the judge 'regex' needs a regular expression"),
    ("regex", prompt("a", pattern="("), "field 'meta.pattern' is '('; the judge 'regex' needs a regular expression"),
    ("adreview", prompt("x"), "field 'meta.ad' is missing; the judge 'adreview' needs the ad's text"),
    ("adreview", without("violations"), "field 'meta.violations' is missing; the judge 'adreview' needs a list"),
    ("adreview", without("decoys"), "field 'meta.decoys' is missing; the judge 'adreview' needs a list"),
    ("adreview", prompt(ad="buy it", violations=[{"rule": 99, "quote": "buy"}], decoys=[]), "field 'meta.v"),
    ("exact", prompt("a", split=3), "field 'meta.split' is 3; results are grouped by it, expected a string"),
    ("exact", prompt("a", task=["sums"]), "field 'meta.task' is ['sums']; results are grouped by it"),
])  # fmt: skip
def test_a_record_without_what_the_judge_reads_is_refused(judge, record, problem):
    good = GOOD.get(judge, prompt("a"))
    load("k", judge).check([good])
    with pytest.raises(UserError) as error:
        load("k", judge).check([good, record])
    assert str(error.value).startswith(f"a prompt: {problem}")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The judge of a file with this text."""
    monkeypatch.chdir(tmp_path)

    def loaded(text, name="f"):
        (tmp_path / "mine.py").write_text("from icegrt_jax.evaluation.judges import needs\n" + text)
        return load("evaluate.judge", f"mine.py:{name}")

    return loaded


def test_a_users_function_gives_a_number_or_several(own):
    assert own("def f(record, answer):\n    return answer == record.reference\n").grade(prompt("a"), "a") == {"gold": 1}
    several = own("import numpy as np\ndef f(record, answer):\n    return {'tone': np.float32(0.5), 'gold': 1}\n")
    assert several.grade(prompt("a"), "b") == {"tone": 0.5, "gold": 1}
    assert several.shows(["tone", "gold"]) == {"tone": "tone"}
    titled = own("def f(record, answer):\n    return {'tone': 0.5, 'gold': 1}\nf.metrics = {'tone': 'how it sounds'}\n")
    assert titled.shows(["tone", "gold"]) == {"tone": "how it sounds"}


def test_titles_stand_under_names(own):
    function = "def f(record, answer):\n    return 1\n"
    assert own(function + "f.harms = {'rude': 'rude answers'}\n").harms == {"rude": "rude answers"}
    for kind, titles in (("metrics", "['tone']"), ("harms", "'rude'"), ("harms", "{'rude': 1}")):
        with pytest.raises(UserError, match=f"^the judge 'mine.py:f': its {kind} are .*; expected titles by name"):
            own(f"{function}f.{kind} = {titles}\n")


def test_what_a_users_judge_declares_is_compared_with_every_record(own):
    judge = own("@needs('reference', 'meta.tone')\ndef f(record, answer):\n    return 1\n")
    judge.check([prompt("a", tone="kind")])
    with pytest.raises(UserError, match="^a prompt: field 'meta.tone' is missing; the judge 'mine.py:f' needs a value"):
        judge.check([prompt("a", tone="kind"), prompt("a")])


@pytest.mark.parametrize("body, problem", [
    ("return record.meta['tone']", ", line 3: KeyError: 'tone'"),
    ("return 1.5", "gave gold=1.5; expected a number from 0 to 1."),
    ("return float('nan')", "gave gold=nan; expected a number from 0 to 1."),
    ("return None", "gave gold=None; expected a number"),
    ("return '1'", "gave gold='1'; expected a number"),
    ("return {'gold': 1, 'tone': -1}", "gave tone=-1; expected a number"),
    ("return {'tone': 1}", "gave {'tone': 1}, in which the overall verdict, 'gold', is missing."),
    ("return {'gold': 1, 'length': 1}", "calls a number 'length'; expected a word, and none of gold_greedy, general"),
    ("return {'gold': 1, 'temperature': 1}", "calls a number 'temperature'; expected a word, and none of gold_greedy"),
    ("return {'gold': 1, 'a/b': 1}", "calls a number 'a/b'; expected a word"),
])  # fmt: skip
def test_what_a_users_judge_may_not_give_is_said_with_the_records_place(own, body, problem):
    judge = own(f"def f(record, answer):\n    {body}\n")
    record = Prompt(user("q"), "a", where="rows.jsonl, line 7")
    with pytest.raises(UserError) as error:
        judge.check([record])
    assert str(error.value).startswith("rows.jsonl, line 7: the judge 'mine.py:f'") and problem in str(error.value)


@pytest.mark.parametrize("text, problem", [
    ("def g(record, answer): return 1", "mine.py defines no f; it has g."),
    ("def f(record): return 1", "f(record) cannot be called as f(record, answer)"),
    ("class f: pass", "f is a class; expected a function f(record, answer)."),
    ("@needs('answer')\ndef f(record, answer): return 1", "needs 'answer'; expected 'reference' or 'meta.NAME'"),
    ("def f(record, answer): return 1\nf.needs = 'reference'", "needs 'reference'; expected a list of fields"),
])  # fmt: skip
def test_a_users_function_that_is_no_judge_is_refused_when_it_is_loaded(own, text, problem):
    with pytest.raises(UserError) as error:
        own(text)
    assert str(error.value).startswith("evaluate.judge") and problem in str(error.value)


def test_a_domain_that_does_not_grade_is_no_judge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from icegrt_jax.data.records import Text\nfrom icegrt_jax.domains import Domain\n"
        "class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, size, seed): pass\n"
    )
    with pytest.raises(UserError, match=r"^k='domain', but the domain 'mine.py:Mine' has no grade\(record, answer\)"):
        load("k", "domain", "mine.py:Mine")
    with pytest.raises(UserError, match="^k='domain', but domain is empty; name another judge."):
        load("k", "domain")


def test_grades_are_averaged_over_the_answers_that_have_them():
    exact, number = load("k", "exact"), load("k", "number")
    records = [prompt("a"), prompt("b"), prompt("c"), prompt("#### 4")]
    grades = grade_all([exact, exact, exact, number], records, ["a", "b", "x", "it is 4"])
    assert mean_grades(grades) == {"gold": 0.5, "last_number": 1.0}
    with pytest.raises(ValueError):
        grade_all([exact] * 4, records, ["a"])


def test_a_judge_that_ships_shows_what_its_tables_have_always_shown():
    assert load("k", "adreview").shows(["verdict", "rule_f1", "gold"]) == {"verdict": "verdict", "analysis": "analysis"}
    assert load("k", "choice").shows(["verdict", "analysis", "gold"]).keys() == {"verdict", "analysis"}
    assert load("k", "exact").shows(["gold"]) == {}
    assert isinstance(load("k", "exact"), Judge) and judges.TAKEN
