"""What a domain has to be, and what it gives: checked, whoever wrote it."""

import pathlib
import re

import pytest

from icegrt_jax import domains
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text, user
from icegrt_jax.domains import CheckedDomain, Domain
from icegrt_jax.domains.adreview import annotators, build, corpus
from icegrt_jax.errors import UserError

PACKAGE = pathlib.Path(domains.__file__).parents[1]
HEAD = "from icegrt_jax.data.records import Prompt, Text\nfrom icegrt_jax.domains import Domain\n"


def test_nothing_outside_the_domains_names_one_that_ships():
    [*names] = domains.checked.plugins.built_in("domains")
    assert names == ["adreview"]
    sources = [path for path in PACKAGE.rglob("*.py") if path.parts[len(PACKAGE.parts)] != "domains"]
    assert len(sources) > 100
    said = [path for path in sources if re.search("|".join(names), path.read_text(), re.IGNORECASE)]
    # Nor is anything imported from inside one by a name put together.
    said += [path for path in sources if re.search(r"icegrt_jax\.domains\.(?!base|checked)", path.read_text())]
    assert said == []


def test_the_embedded_domain_gives_what_its_modules_make():
    domain = domains.load("adreview")
    assert set(domain.domain.sets) == set(build.SETS)
    sizes = dict.fromkeys(build.SETS, 6) | {"eval_general": 1}
    made, expected = domain.build(sizes, 3), build.build(3, sizes)
    assert made == expected
    assert all(isinstance(record, domain.domain.sets[name]) for name in made for record in made[name])
    [prompt] = build.build(3, {"ranking_prompts": 1})["ranking_prompts"]
    answers = (prompt.reference, "verdict: approve", "no idea")
    assert domain.rank(prompt, answers, "3/own/0") == annotators.rank("3/own/0", prompt.meta, answers)
    assert domain.tokenizer(sizes, 3) == list(corpus.training_text())
    assert domain.ranks and domain.grades and domain.description == "embedded domain adreview"
    with pytest.raises(UserError, match="^domain='ad'; expected one of 'adreview', or FILE.py:NAME.$"):
        domains.load("ad")


class Toy(Domain):
    """Sums, as records and as their JSON form."""

    sets = {"texts": Text, "turns": Instruction, "asks": Prompt, "pairs": Ranking}

    def records(self, name, size, seed):
        for i in range(size):
            asked, answer = f"{seed} + {i}?", str(seed + i)
            yield {
                "texts": Text(f"{asked} {answer}"),
                "turns": {"prompt": asked, "response": answer},
                "asks": Prompt(user(asked), answer),
                "pairs": {"prompt": asked, "chosen": answer, "rejected": "no"},
            }[name]


def test_records_may_be_given_in_their_json_form():
    made = CheckedDomain("toy", Toy()).build({"turns": 2, "pairs": 1, "asks": 1}, 4)
    assert made["turns"][1].messages[-1]["content"] == "5"
    assert made["pairs"][0].responses == ("4", "no") and made["asks"][0].reference == "4"


def test_a_tokenizer_is_trained_on_all_that_is_said_where_the_domain_says_nothing():
    texts = CheckedDomain("toy", Toy()).tokenizer({"texts": 1, "turns": 1, "asks": 1, "pairs": 1}, 4)
    assert texts == ["4 + 0? 4", "4 + 0?", "4", "4 + 0?", "4", "4 + 0?", "4", "no"]


def test_a_domain_that_only_makes_records_neither_ranks_nor_grades():
    toy = CheckedDomain("toy", Toy())
    assert not toy.ranks and not toy.grades and toy.description == "Toy"


@pytest.mark.parametrize("sizes, problem", [
    ({"prompts": 3}, "domain_sizes.prompts: the domain 'toy' has no such set; its sets are texts, turns, asks, pairs."),
    ({"asks": -1}, "domain_sizes.asks=-1; expected a number of records, 0 or more."),
    ({"asks": 2.5}, "domain_sizes.asks=2.5; expected a number"),
])  # fmt: skip
def test_sets_and_sizes_that_are_none_are_refused(sizes, problem):
    with pytest.raises(UserError) as error:
        CheckedDomain("toy", Toy()).build(sizes, 0)
    assert str(error.value).startswith(problem)


def faulty(method, given):
    """A domain whose method gives that."""
    return CheckedDomain("toy", type("Faulty", (Toy,), {method: lambda self, *args: given})())


@pytest.mark.parametrize("given, problem", [
    ([], "domain='toy': records gave nothing for the set 'asks'; expected 2 records."),
    ([Text("a")], "records gave Text(text='a', meta={}) in the set 'asks'; expected Prompt records."),
    ([{"prompt": "a", "respons": "b"}], "domain toy, set asks, record 0: unknown field 'respons'"),
    (None, "domain='toy', records: "),
])  # fmt: skip
def test_what_are_no_records_of_the_set_is_refused(given, problem):
    with pytest.raises(UserError) as error:
        faulty("records", given).build({"asks": 2}, 0)
    assert problem in str(error.value)


@pytest.mark.parametrize("given", [[1.0], [1.0, float("nan")], [1.0, "2"], [1, 2, 3]])
def test_ranks_that_are_none_are_refused(given):
    with pytest.raises(UserError, match=r"^domain='toy': rank gave \[.*for 2 answers; expected a number for each"):
        faulty("rank", given).rank(Prompt(user("a")), ("b", "c"), "0")


@pytest.mark.parametrize("given, problem", [([], "no text"), (["a", 3], "3 among its texts")])
def test_texts_for_a_tokenizer_that_are_none_are_refused(given, problem):
    with pytest.raises(UserError, match=f"^domain='toy': tokenizer gave {problem}"):
        faulty("tokenizer", given).tokenizer({}, 0)


def test_prompts_to_be_ranked_are_tried_before_the_run():
    asked = [Prompt(user("a"), where="f, line 1"), Prompt(user("a"), "b", where="f, line 2")]
    toy = faulty("rank", [1.0, 2.0])
    toy.check_ranking(asked)
    toy.domain.needs = ["reference"]
    with pytest.raises(UserError, match="^f, line 1: field 'reference' is missing; the domain 'toy' needs a value."):
        toy.check_ranking(asked)
    with pytest.raises(UserError, match="domain='toy': rank gave"):
        faulty("rank", [1.0]).check_ranking(asked)


@pytest.mark.parametrize("body, problem", [
    ("Mine = 3", "Mine is of type int; expected a class."),
    ("class Mine: pass", "Mine is no subclass of icegrt_jax.domains.Domain and has no method records; write class"),
    ("class Mine:\n    def records(self): pass", "Mine is no subclass of icegrt_jax.domains.Domain; write class"),
    ("class Mine(Domain):\n    sets = {'a': Text}", "Mine has no method records; write records(self, name, size,"),
    ("class Mine(Domain):\n    def records(self, name, size, seed): pass", "Mine has sets={}; expected {name: kind}"),
    ("class Mine(Domain):\n    sets = {'a': 'text'}\n    def records(self, name, size, seed): pass",
     "Mine has sets={'a': 'text'}; expected {name: kind} with the kinds Instruction, Ranking, Prompt, Text"),
    ("class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, size): pass",
     "records(name, size) cannot be called as Mine.records(name, size, seed)"),
    ("class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, size, seed): pass\n"
     "    def grade(self, answer): pass", "grade(answer) cannot be called as Mine.grade(record, answer)"),
    ("class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, size, seed): pass\n"
     "    needs = ['meta.x', 'prompt']", "needs 'prompt'; expected 'reference' or 'meta.NAME'"),
    ("class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, size, seed): pass\n"
     "    def __init__(self):\n        raise OSError('no disk')", "mine.py, line 7: OSError: no disk"),
])  # fmt: skip
def test_a_class_that_is_no_domain_is_refused_and_what_it_lacks_is_named(tmp_path, monkeypatch, body, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(HEAD + body + "\n")
    with pytest.raises(UserError) as error:
        domains.load("mine.py:Mine")
    assert problem in str(error.value)


def test_an_exception_in_a_users_domain_names_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "class Mine(Domain):\n    sets = {'a': Text}\n    def records(self, name, *more):\n        yield {}[name]\n"
    (tmp_path / "mine.py").write_text(HEAD + body)
    with pytest.raises(UserError, match=r"^domain='mine.py:Mine', records: /.*/mine.py, line 6: KeyError: 'a'$"):
        domains.load("mine.py:Mine").build({"a": 1}, 0)
