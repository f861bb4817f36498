"""Each general task against an independent solver that reads only the question."""

import collections
import random

import pytest

from icegrt_jax.domains.adreview import general, splits


def _listed(question):
    return question.rstrip("?").split(": ")[1].split()


def _numbers(question):
    return [int(word) for word in question.split() if word.isdigit()]


def _lookup(question):
    *facts, asked, _ = question.replace("?", ".").split(".")
    name = asked.split()[2]
    (thing,) = [fact.split(" has ")[1] for fact in facts if fact.split()[0] == name]
    return thing


def _asked_kind(question):
    return general.GROUPS[question.split(":")[0].split()[-1]]


SOLVERS = {
    "copy": lambda q: " ".join(_listed(q)),
    "reverse": lambda q: " ".join(_listed(q)[::-1]),
    "pick_word": lambda q: _listed(q)[0 if " first " in q else -1],
    "count_words": lambda q: str(len(_listed(q))),
    "contains": lambda q: "yes" if set(_listed(q)) & set(_asked_kind(q)) else "no",
    "pick_kind": lambda q: next(word for word in _listed(q) if word in _asked_kind(q)),
    "lookup": _lookup,
    "sort_digits": lambda q: " ".join(sorted(_listed(q))),
    "compare": lambda q: str(max(_numbers(q))),
    "add": lambda q: str(sum(_numbers(q))),
    "subtract": lambda q: str(_numbers(q)[0] - _numbers(q)[1]),
    "pattern": lambda q: _listed(q)[-2],
}


def test_there_are_twelve_tasks():
    assert len(general.TASKS) == 12 and set(SOLVERS) == set(general.TASKS)


@pytest.mark.parametrize("task", general.TASKS)
def test_a_solver_that_reads_only_the_question_is_always_right(task):
    rng = random.Random(task)
    for _ in range(300):
        asked, answer = general.question(rng, task)
        assert SOLVERS[task](asked) == answer, asked


@pytest.mark.parametrize("task", general.TASKS)
def test_no_single_answer_does_well(task):
    rng = random.Random(task)
    answers = collections.Counter(general.TASKS[task](rng)[1] for _ in range(1000))
    assert answers.most_common(1)[0][1] < (600 if task == "contains" else 350)


def test_exactly_one_word_is_of_the_kind_asked_for():
    rng = random.Random("kind")
    for _ in range(300):
        asked, _ = general.question(rng, "pick_kind")
        assert sum(word in _asked_kind(asked) for word in _listed(asked)) == 1


def test_the_kinds_of_words_do_not_overlap():
    members = [word for group in general.GROUPS.values() for word in group]
    assert len(members) == len(set(members))


def test_tasks_have_equal_shares():
    counts = collections.Counter(r.meta["task"] for r in general.general(0, 120))
    assert counts == dict.fromkeys(general.TASKS, 10)


def test_no_evaluated_question_occurs_in_training():
    train = {r.messages[0]["content"] for r in general.general("train", 12000)}
    evaluated = {p.prompt[0]["content"] for p in general.general_prompts("eval", 100)}
    assert not train & evaluated
    assert {splits.bucket(question) for question in evaluated} == {"eval"}


def test_evaluated_questions_are_different_and_enough():
    prompts = general.general_prompts(0, 50)
    counts = collections.Counter(p.meta["task"] for p in prompts)
    assert len({p.prompt[0]["content"] for p in prompts}) == len(prompts)
    assert set(counts) == set(general.TASKS)
    assert all(n == 50 for task, n in counts.items() if task != "sort_digits")
    assert counts["sort_digits"] >= 20


def test_grading_ignores_only_case_and_spacing():
    assert general.grade_general("2 5 7", "  2 5\n7 ") == 1.0
    assert general.grade_general("a lamp", "A Lamp") == 1.0
    assert general.grade_general("2 5 7", "2 7 5") == 0.0
    assert general.grade_general("yes", "yes yes") == 0.0
    assert general.grade_general("yes", "") == 0.0
