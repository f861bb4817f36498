"""What a domain is: the class that `domain` of a config names, in this package or in a file of the user's."""

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from icegrt_jax.data.needs import Need
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record, Text

TOKENIZER_RECORDS = 2000  # of each set, where a domain does not say what its tokenizer is trained on


class Domain(abc.ABC):
    """Where the records of a run come from and what its answers are worth; made without arguments.

    A subclass has `sets` and `records`. Whether it ranks answers and grades them is whether it has `rank` and `grade`.

    Attributes:
      sets: its sets and the kind of their records: each that `domain_sizes` names is written to
        WORKDIR/data/NAME.jsonl, for sources such as `jsonl:{workdir}/data/NAME.jsonl`.
      description: what it is, for the model card; empty: the name of the class.
      licence: of its records, for the model card.
      guideline: what people go by who rank its answers, shown beside them; empty: nothing.
      needs: fields of a prompt that `rank` and `grade` read ("reference", "meta.NAME", or a `Need`): a record that
        lacks one is an error before the run.
      metrics: title of each number of `grade` that tables show beside gold; None: all, under their own names.
      harms: title of each number of `grade` of which less is better, for where stages are compared.
    """

    sets: ClassVar[Mapping[str, type[Record]]] = {}
    description: ClassVar[str] = ""
    licence: ClassVar[str] = "not known"
    guideline: ClassVar[str] = ""
    needs: ClassVar[Sequence[Need | str]] = ()
    metrics: ClassVar[Mapping[str, str] | None] = None
    harms: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def records(self, name: str, size: int, seed: int) -> Iterable[Record | dict]:
        """Records of a set, or their JSON form; made or found, the same ones for the same arguments.

        Args:
          name: a key of `sets`.
          size: how many, as `domain_sizes` says; a smaller number is asked for to check a run before it begins.
          seed: of the run.
        """

    def tokenizer(self, sizes: Mapping[str, int], seed: int) -> str | Iterable[str]:
        """A Hugging Face folder, or the texts to train a tokenizer on; asked where `model.path` is empty.

        Args:
          sizes: `domain_sizes`.
          seed: of the run.
        """
        return self._own_texts(sizes, seed)

    def _own_texts(self, sizes: Mapping[str, int], seed: int) -> Iterator[str]:
        for name, size in sizes.items():
            for record in self.records(name, min(size, TOKENIZER_RECORDS), seed):
                yield from _texts(record if isinstance(record, Record) else self.sets[name].from_json(record))

    def rank(self, record: Prompt, answers: Sequence[str], seed: str) -> Sequence[float]:
        """Ranks of the answers to one prompt, the lowest is best, equal ones are ties.

        Args:
          record: of the set "ranking_prompts".
          answers: of ICE-Instruct, and of the policy before a later round, all different.
          seed: another one for every prompt, for whatever is drawn.
        """
        raise NotImplementedError

    def grade(self, record: Prompt, answer: str) -> float | Mapping[str, float]:
        """How good an answer is, in [0, 1]: one number, or several by name with "gold" among them, the overall one."""
        raise NotImplementedError


def _texts(record: Record) -> Iterator[str]:
    """What is said in a record."""
    if isinstance(record, Text):
        yield record.text
    elif isinstance(record, Instruction):
        yield from (message["content"] for message in record.messages)
    else:
        yield from (message["content"] for message in record.prompt)
        yield from record.responses if isinstance(record, Ranking) else filter(None, [record.reference])
