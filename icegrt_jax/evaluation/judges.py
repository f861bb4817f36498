"""Judges: a prompt record and an answer in, numbers in [0, 1] out.

A config names one: of `built_in.py`, "domain" (the domain's own grades; the name of a domain that ships does as well)
or the user's function as FILE.py:NAME, which returns a number or several by name. Every judge gives `gold`, its overall
verdict.
"""

import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from icegrt_jax import plugins
from icegrt_jax.data.fields import shown
from icegrt_jax.data.needs import Need, as_needs, check_needs
from icegrt_jax.data.records import Prompt
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import built_in

OF_DOMAIN = "domain"
# What evaluation groups by, where a record has it, and its own names beside those of a judge.
GROUPS = ("split", "task")
TAKEN = (
    "gold_greedy", "general", "length", "gold_best", "temperature",
    *(f"heldout_{name}{way}" for name in ("reward", "wins") for way in ("", "_greedy", "_best")),
)  # fmt: skip
SLACK = 1e-6  # of a bound: a mean of ones may be a little above 1


def needs(*fields: Need | str) -> Callable:
    """Declares the fields that a judge reads, "reference" or "meta.NAME": a record without one is an error at once.

    >>> @needs("reference")
    ... def is_short(record, answer):
    ...     return len(answer) <= len(record.reference)
    """

    def declare(function: Any) -> Any:
        function.needs = fields
        return function

    return declare


@dataclass(frozen=True, eq=False)
class Judge:
    """One that can be asked.

    Attributes:
      name: as the config has it.
      function: of a record and an answer.
      needs: what it reads of a record.
      metrics: title of each number that tables and curves show beside gold; None: all, under their own names.
      file: of the user's code.
      harms: title of each number of which less is better; shown where rows are compared.
      batch: of records and answers, the numbers of each, in place of `function`; for one that is slow to ask.
    """

    name: str
    function: Callable[[Prompt, str], Any]
    needs: tuple[Need, ...] = ()
    metrics: Mapping[str, str] | None = None
    file: pathlib.Path | None = None
    harms: Mapping[str, str] = field(default_factory=dict)
    batch: Callable[[Sequence[Prompt], Sequence[str]], Sequence[Mapping[str, float]]] | None = None

    def __post_init__(self) -> None:
        for kind, titles in (("metrics", self.metrics), ("harms", self.harms)):
            named = isinstance(titles, Mapping) and all(isinstance(x, str) for pair in titles.items() for x in pair)
            if titles is not None and not named:
                raise UserError(
                    f"the judge {self.name!r}: its {kind} are {shown(titles)}; expected titles by name, such as "
                    '{"tone": "how it sounds"}.'
                )

    def grade(self, record: Prompt, answer: str) -> dict[str, float]:
        """The numbers of one answer, "gold" among them."""
        said = f"{record.where or 'a prompt'}: the judge {self.name!r}"
        given = plugins.explained(said, lambda: self.function(record, answer), self.file)
        grades = given if isinstance(given, Mapping) else {"gold": given}
        if "gold" not in grades:
            raise UserError(f"{said} gave {shown(dict(grades))}, in which the overall verdict, 'gold', is missing.")
        for name in grades:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name) or name in TAKEN:
                raise UserError(f"{said} calls a number {name!r}; expected a word, and none of {', '.join(TAKEN)}.")
        return {name: _share(value, name, said) for name, value in grades.items()}

    def check(self, records: Sequence[Prompt]) -> None:
        """Refuses the first record that lacks what it reads; tried on the first with the reference as the answer."""
        for record in records:
            check_needs(self.needs, record, f"the judge {self.name!r}")
            for name in GROUPS:
                if not isinstance(record.meta.get(name, ""), str):
                    where, got = record.where or "a prompt", shown(record.meta[name])
                    raise UserError(
                        f"{where}: field 'meta.{name}' is {got}; results are grouped by it, expected a string."
                    )
        for record in records[:1]:
            self.grade(record, record.reference)

    def shows(self, grades: Iterable[str]) -> dict[str, str]:
        """{name: title} of what is shown of its numbers beside gold, in order."""
        named = self.metrics if self.metrics is not None else {name: name.replace("_", " ") for name in grades}
        return {name: title for name, title in named.items() if name != "gold"}


def load(key: str, name: str, domain: str = "") -> Judge:
    """The judge that a key of the config names.

    Args:
      key: for errors.
      name: of `built_in.py`, "domain", a domain that ships, or FILE.py:NAME.
      domain: of the config, whose grades "domain" stands for.
    """
    if name in built_in.BY_NAME:
        return Judge(name, built_in.BY_NAME[name], built_in.NEEDS[name], built_in.METRICS.get(name))
    if not plugins.is_own(name):
        return _of_domain(key, name, domain if name == OF_DOMAIN else name)
    function = plugins.load(key, name)
    plugins.check_function(key, name, function, "record", "answer")
    fields = as_needs(getattr(function, "needs", ()), f"{key}: the judge {name!r}")
    metrics, harms = getattr(function, "metrics", None), getattr(function, "harms", {})
    return Judge(name, function, fields, metrics, plugins.file_of(name), harms)


def grade_all(judges: Sequence[Judge], records: Sequence[Prompt], answers: Sequence[str]) -> list[dict[str, float]]:
    """The numbers of every answer, each by the judge of its record; one that grades a batch is asked once."""
    asked = list(zip(judges, records, answers, strict=True))
    found: dict[int, dict[str, float]] = {}
    for judge in dict.fromkeys(judge for judge in judges if judge.batch is not None):
        places = [i for i, (own, *_) in enumerate(asked) if own is judge]
        assert judge.batch is not None
        given = judge.batch([asked[i][1] for i in places], [asked[i][2] for i in places])
        found |= {i: dict(grades) for i, grades in zip(places, given, strict=True)}
    return [found[i] if i in found else judge.grade(record, answer) for i, (judge, record, answer) in enumerate(asked)]


def mean_grades(grades: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every number over the answers that have it."""
    names = dict.fromkeys(name for grade in grades for name in grade)
    columns = {name: [grade[name] for grade in grades if name in grade] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


def _of_domain(key: str, name: str, domain: str) -> Judge:
    if not domain:
        raise UserError(f"{key}={name!r}, but domain is empty; name another judge.")
    found = load_domain(domain)
    if not found.grades:
        raise UserError(f"{key}={name!r}, but the domain {domain!r} has no grade(record, answer); name another judge.")
    file = plugins.file_of(domain) if plugins.is_own(domain) else None
    return Judge(name, found.domain.grade, found.needs, found.domain.metrics, file, found.domain.harms)


def _share(value: Any, name: str, said: str) -> float:
    """A number in [0, 1], whatever its type."""
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not -SLACK <= number <= 1 + SLACK:  # false of NaN
        raise UserError(f"{said} gave {name}={shown(value)}; expected a number from 0 to 1.")
    return number
