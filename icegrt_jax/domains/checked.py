"""Domains by name, and what they give, checked: a class of the user's may give anything."""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from icegrt_jax import plugins
from icegrt_jax.data.fields import is_finite, refuse_unknown, shown
from icegrt_jax.data.needs import Need, as_needs, check_needs
from icegrt_jax.data.records import Prompt, Record
from icegrt_jax.domains.base import Domain
from icegrt_jax.errors import UserError

T = TypeVar("T")
METHODS = ("records", "tokenizer", "rank", "grade")


@dataclasses.dataclass(frozen=True)
class CheckedDomain:
    """A domain whose results are what they have to be, or an error says what is wrong with them.

    Attributes:
      name: as the config has it.
      domain: an instance of its class.
    """

    name: str
    domain: Domain

    @property
    def ranks(self) -> bool:
        """Whether it ranks answers."""
        return type(self.domain).rank is not Domain.rank

    @property
    def grades(self) -> bool:
        """Whether it grades answers."""
        return type(self.domain).grade is not Domain.grade

    @property
    def description(self) -> str:
        return self.domain.description or type(self.domain).__name__

    @property
    def needs(self) -> tuple[Need, ...]:
        return as_needs(self.domain.needs, f"the domain {self.name!r}")

    def build(self, sizes: Mapping[str, int], seed: int) -> dict[str, list[Record]]:
        """The records of the sets named in `sizes`."""
        self.check_sizes(sizes)
        return {name: self._records(name, size, seed) for name, size in sizes.items()}

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Refuses a set that it does not have, and a size that is none."""
        for name, size in sizes.items():
            if name not in self.domain.sets:
                known = ", ".join(self.domain.sets)
                raise UserError(f"domain_sizes.{name}: the domain {self.name!r} has no such set; its sets are {known}.")
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise UserError(f"domain_sizes.{name}={size!r}; expected a number of records, 0 or more.")

    def tokenizer(self, sizes: Mapping[str, int], seed: int) -> str | list[str]:
        """A Hugging Face folder, or the texts to train a tokenizer on."""
        self.check_sizes(sizes)
        given = self._call("tokenizer", lambda: self.domain.tokenizer(dict(sizes), seed))
        if isinstance(given, str):
            return given
        texts = self._call("tokenizer", lambda: list(given))
        bad = [text for text in texts if not isinstance(text, str)]
        if bad or not texts:
            got = f"{shown(bad[0])} among its texts" if bad else "no text"
            raise self._error("tokenizer", f"{got}; expected texts, or a Hugging Face folder")
        return texts

    def rank(self, record: Prompt, answers: Sequence[str], seed: str) -> tuple[float, ...]:
        """Ranks of the answers, 1 is best."""
        ranks = self._call("rank", lambda: list(self.domain.rank(record, answers, seed)))
        if len(ranks) != len(answers) or not all(is_finite(rank) for rank in ranks):
            raise self._error("rank", f"{shown(ranks)} for {len(answers)} answers; expected a number for each")
        return tuple(float(rank) for rank in ranks)

    def check_ranking(self, records: Sequence[Prompt]) -> None:
        """Refuses prompts whose answers it could not rank; tried on the first."""
        for record in records:
            check_needs(self.needs, record, f"the domain {self.name!r}")
        for record in records[:1]:
            self.rank(record, ("no", record.reference or "yes"), "tried")

    def _records(self, name: str, size: int, seed: int) -> list[Record]:
        kind = self.domain.sets[name]
        given = self._call("records", lambda: list(self.domain.records(name, size, seed)))
        if size and not given:
            raise self._error("records", f"nothing for the set {name!r}; expected {size} records")
        return [self._record(record, kind, name, i) for i, record in enumerate(given)]

    def _record(self, given: Any, kind: type[Record], name: str, i: int) -> Record:
        if isinstance(given, dict):
            where = f"domain {self.name}, set {name}, record {i}"
            refuse_unknown(given, where, kind.FIELDS)
            return kind.from_json(given, where)
        if not isinstance(given, kind):
            raise self._error("records", f"{shown(given)} in the set {name!r}; expected {kind.__name__} records")
        return given

    def _call(self, method: str, call: Callable[[], T]) -> T:
        file = plugins.file_of(self.name) if plugins.is_own(self.name) else None
        return plugins.explained(f"domain={self.name!r}, {method}", call, file)

    def _error(self, method: str, problem: str) -> UserError:
        return UserError(f"domain={self.name!r}: {method} gave {problem}.")


def load(name: str) -> CheckedDomain:
    """The domain that a config names."""
    if plugins.is_own(name):
        found = plugins.load("domain", name)
    else:
        plugins.check_name("domain", name, plugins.built_in("domains"))
        found = importlib.import_module(f"icegrt_jax.domains.{name}.domain").DOMAIN
    return _opened(name, found)


@functools.cache
def _opened(name: str, found: Any) -> CheckedDomain:
    """Of one instance, whoever asks; a class of a changed file is another one."""
    said = f"domain={name!r}: {name.rpartition(':')[2]}"
    if not isinstance(found, type):
        raise UserError(f"{said} is of type {type(found).__name__}; expected a class.")
    absent = [method for method in sorted(Domain.__abstractmethods__) if not callable(getattr(found, method, None))]
    if not issubclass(found, Domain):
        lacks = f" and has no method {absent[0]}" if absent else ""
        raise UserError(f"{said} is no subclass of icegrt_jax.domains.Domain{lacks}; write class NAME(Domain).")
    if missing := sorted(found.__abstractmethods__):
        arguments = ", ".join(["self", *_arguments(missing[0])])
        raise UserError(f"{said} has no method {missing[0]}; write {missing[0]}({arguments}).")
    kinds = get_args(Record)
    if not found.sets or any(kind not in kinds for kind in found.sets.values()):
        raise UserError(
            f"{said} has sets={shown(found.sets)}; expected {{name: kind}} with the kinds "
            f"{', '.join(kind.__name__ for kind in kinds)} of icegrt_jax.data.records."
        )
    opened = CheckedDomain(name, plugins.explained(said, found, plugins.file_of(name)))
    for method in METHODS:
        plugins.check_function("domain", f"{name}.{method}", getattr(opened.domain, method), *_arguments(method))
    as_needs(opened.domain.needs, f"the domain {name!r}")
    return opened


def _arguments(method: str) -> list[str]:
    return list(inspect.signature(getattr(Domain, method)).parameters)[1:]
