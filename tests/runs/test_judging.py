"""Which judge grades the answers to a source's prompts, and means over several judges."""

import pytest

from icegrt_jax.config import default_config, read
from icegrt_jax.config.checks import check
from icegrt_jax.data.records import Prompt, user
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.judges import load
from icegrt_jax.runs import judging


@pytest.fixture
def config():
    """Two sources of prompts for each part that judges."""
    c = default_config()
    for group in (c.ppo.sources, c.evaluate.domain, c.evaluate.general):
        group.a, group.b = "jsonl:a.jsonl", "jsonl:b.jsonl"
    c.ppo.weights.a = c.ppo.weights.b = 1.0
    c.evaluate.judge = "overlap"
    return c


def test_a_source_has_its_own_judge_or_that_of_its_group(config):
    config.evaluate.judges.a, config.ppo.judges.b = "number", "letter"
    check(read(config))
    names = lambda judge_of: [judge and judge.name for judge in map(judge_of, "ab")]
    options = read(config)
    assert names(judging.of_evaluation(options.evaluate, "domain", "")) == ["number", "overlap"]
    assert names(judging.of_evaluation(options.evaluate, "general", "")) == ["number", "exact"]
    assert names(judging.of_ppo(options.ppo, "")) == [None, "letter"]


def test_a_group_whose_sources_all_have_their_own_judge_needs_none(config):
    config.evaluate.judge = ""
    config.evaluate.judges.a = "exact"
    with pytest.raises(UserError, match="^evaluate.judge is empty, but evaluate.domain names prompts; expected one of"):
        check(read(config))
    config.evaluate.judges.b = "exact"
    check(read(config))


@pytest.mark.parametrize("key, value, problem", [
    ("evaluate.judges.c", "exact", "evaluate.judges.c has no source of that name; the sources are a, b."),
    ("ppo.judges.c", "exact", "ppo.judges.c has no source of that name; the sources are a, b."),
    ("ppo.judges.a", "gold", "ppo.judges.a='gold'; expected one of"),
    ("evaluate.judges.a", "domain", "evaluate.judges.a='domain', but domain is empty; name a domain"),
])  # fmt: skip
def test_a_judge_of_no_source_and_an_unknown_one_are_refused(config, key, value, problem):
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        check(read(config))
    assert str(error.value).startswith(problem)


def test_the_key_of_the_source_is_named_where_its_judge_cannot_be_loaded(config):
    config.evaluate.judges.b = "none.py:f"
    with pytest.raises(UserError, match=r"^evaluate\.judges\.b='none\.py:f': there is no file none\.py"):
        judging.of_evaluation(read(config).evaluate, "domain", "")("b")


def test_rollouts_are_judged_where_they_have_a_judge_and_shown_by_its_metrics():
    exact, number = load("k", "exact"), load("k", "number")
    sources = {"a": [Prompt(user("q"), "a")], "b": [Prompt(user("q"), "#### 3")], "c": [Prompt(user("q"), "b")]}
    asked = judging.questions(sources, {"a": exact, "b": number, "c": None}.get)
    assert asked.judged(["a", "3", "c"]) == {"gold": 0.5, "gold_last_number": 1.0}
    assert asked.chosen([2, 2]).judged(["a", "b"]) == {} and asked.chosen([0, 2, 0]).judged("abc") == {"gold": 0.5}
