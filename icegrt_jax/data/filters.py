"""Records to leave out: near-duplicates of earlier ones, and those that hold what a model will be evaluated on.

Words are compared, in small letters and without punctuation; a character of a script without spaces is a word. What the
system says counts for nothing: it is the same in every record.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record

_NO_SPACES = "\u3040-\u30ff\u3400-\u9fff"  # Japanese and Chinese
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+")
SHINGLE = 5  # words
PERMUTATIONS = 128  # of MinHash: a similarity of 0.8 is estimated to within 0.035
RECALL = 0.99  # of the pairs that are as similar as the threshold says, at least this share is compared
SHORTEST = 8  # words of an evaluation text that can be recognised
COMMON = 10  # an n-gram in more records of an evaluation is the wording of its prompts


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Why a record is left out.

    Attributes:
      rule: near_duplicate or contamination.
      partner: where the other record stands.
      similarity: of near-duplicates the Jaccard similarity of their shingles; of a contaminated record the share of its
        words that stand in a shared n-gram.
      shared: the first n-gram that both hold.
    """

    rule: str
    partner: str
    similarity: float
    shared: str = ""


def texts(record: Record) -> list[str]:
    """What was said in a record, the system's part left out."""
    said = lambda messages: [message["content"] for message in messages if message["role"] != "system"]
    if isinstance(record, Instruction):
        return said(record.messages)
    if isinstance(record, Ranking):
        return [*said(record.prompt), *record.responses]
    if isinstance(record, Prompt):
        return [*said(record.prompt), *([record.reference] if record.reference else [])]
    return [record.text]


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def ngrams(text: list[str], length: int) -> Iterator[str]:
    """Every so many words in a row."""
    return (" ".join(text[i : i + length]) for i in range(len(text) - length + 1))


class NearDuplicates:
    """Finds records that are nearly the same as one that was kept before.

    MinHash over shingles of five words, in an index of locality-sensitive hashing (Broder 1997,
    https://doi.org/10.1109/SEQUEN.1997.666900; for training data Lee et al. 2021, https://arxiv.org/abs/2107.06499).
    The index is in memory, about 8 KB for each record that is kept.

    Args:
      threshold: the Jaccard similarity from which a record is left out.
    """

    def __init__(self, threshold: float):
        from datasketch import MinHash, MinHashLSH  # an extra

        self._threshold = threshold
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=1)
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
        self._kept: list[tuple[np.ndarray, str]] = []  # hashes, and where the record stands

    def find(self, record: Record) -> Dropped | None:
        """Its most similar partner; a record without one is kept, and compared with the later ones."""
        spoken = [word for text in texts(record) for word in words(text)]
        if not spoken:
            return None
        sketch = self._empty.copy()
        shingles = sorted(set(ngrams(spoken, min(SHINGLE, len(spoken)))))
        sketch.update_batch([shingle.encode() for shingle in shingles])
        hashes = sketch.digest()
        near = [(float(np.mean(self._kept[i][0] == hashes)), -i) for i in self._index.query(sketch)]
        similarity, place = max(near, default=(0.0, 0))
        if near and similarity >= self._threshold:
            return Dropped("near_duplicate", self._kept[-place][1], similarity)
        self._index.insert(len(self._kept), sketch)
        self._kept.append((hashes, record.where))
        return None


def bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of the index: the most rows with which a pair at the threshold meets in a band nearly always."""
    for rows in range(PERMUTATIONS // 2, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= RECALL:
            return count, rows
    return PERMUTATIONS, 1


class Contamination:
    """Finds records that share an n-gram of words with the records of an evaluation.

    As GPT-3 was checked: Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C, with n-grams of 13 words, or
    all of a text of 8 to 12. Shorter texts cannot be recognised. An n-gram in more than ten records of one evaluation
    is the wording of its prompts, and counts for nothing. The n-grams of the evaluations are in memory, records not.

    Args:
      evaluations: the records of each, by name.
      length: words of an n-gram.

    Attributes:
      counts: of each evaluation its records, those too short to be recognised, and its n-grams that are wording.
    """

    def __init__(self, evaluations: Mapping[str, Iterable[Record]], length: int):
        self._found: dict[str, str] = {}
        self.counts: dict[str, dict[str, int]] = {}
        for name, records in evaluations.items():
            held: dict[str, tuple[int, int]] = {}  # the first record with an n-gram, and how many have it
            places, short, number = [], 0, -1
            for number, record in enumerate(records):
                own = {gram for text in texts(record) for gram in _grams_of(words(text), length)}
                short += not own
                places.append(record.where)
                for gram in own:
                    first, count = held.get(gram, (number, 0))
                    held[gram] = first, count + 1
            common = sum(count > COMMON for _, count in held.values())
            self.counts[name] = {"records": number + 1, "too_short": short, "wording": common}
            for gram, (first, count) in held.items():
                if count <= COMMON:
                    self._found.setdefault(gram, places[first])
        self._lengths = sorted({gram.count(" ") + 1 for gram in self._found}, reverse=True)

    def find(self, record: Record) -> Dropped | None:
        shared, covered, total = "", 0, 0
        for text in texts(record):
            spoken = words(text)
            hit: np.ndarray = np.zeros(len(spoken), np.bool_)
            for length in self._lengths:
                for start, gram in enumerate(ngrams(spoken, length)):
                    if gram in self._found:
                        shared = shared or gram
                        hit[start : start + length] = True
            covered, total = covered + int(hit.sum()), total + len(spoken)
        return Dropped("contamination", self._found[shared], covered / total, shared) if shared else None


def _grams_of(text: list[str], length: int) -> Iterator[str]:
    """The n-grams by which an evaluation text is recognised."""
    if len(text) >= length:
        return ngrams(text, length)
    return iter([" ".join(text)] if len(text) >= SHORTEST else [])
