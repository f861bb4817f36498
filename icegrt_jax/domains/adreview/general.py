"""Twelve small general tasks with exact answers: the ability PPO must not cost.

Each task draws a question and its answer; `splits.bucket` of the question decides
which sets it may be used in, so no evaluated question occurs in training.
"""

import random
from collections.abc import Callable, Iterator, Mapping

from icegrt_jax.data.records import Instruction, Prompt, user
from icegrt_jax.domains.adreview import phrases, splits

GROUPS = {
    "colour": ("red", "blue", "green", "black", "white", "grey", "brown", "pink"),
    "beast": ("dog", "cat", "horse", "cow", "bird", "fish", "sheep", "duck"),
    "food": ("bread", "rice", "soup", "apple", "egg", "cheese", "cake", "corn"),
    "thing": ("lamp", "chair", "mug", "kettle", "bag", "clock", "radio", "table"),
    "day": phrases.SLOTS["day"],
}
WORDS = tuple(word for group, members in GROUPS.items() if group != "day" for word in members)
NAMES = ("tom", "ann", "ben", "eva", "sam", "mia", "max", "lily")
POSITIONS = {"first": 0, "last": -1}


def copy(rng: random.Random) -> tuple[str, str]:
    words = _words(rng, rng.randint(2, 4))
    return f"copy these words: {words}", words


def reverse(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 3))
    return f"reverse these words: {' '.join(words)}", " ".join(reversed(words))


def pick_word(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 4))
    position = rng.choice(tuple(POSITIONS))
    return f"what is the {position} word: {' '.join(words)}", words[POSITIONS[position]]


def count_words(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 5)
    return f"how many words are here: {_words(rng, number)}", str(number)


def contains(rng: random.Random) -> tuple[str, str]:
    kind, others = _kinds(rng)
    words = [rng.choice(GROUPS[other]) for other in others]
    inside = rng.random() < 0.5
    if inside:
        words[0] = rng.choice(GROUPS[kind])
    return f"is one of these words a {kind}: {' '.join(_shuffled(rng, words))}", "yes" if inside else "no"


def pick_kind(rng: random.Random) -> tuple[str, str]:
    kind, others = _kinds(rng)
    word = rng.choice(GROUPS[kind])
    words = _shuffled(rng, [word, *(rng.choice(GROUPS[other]) for other in others[:2])])
    return f"which word is a {kind}: {' '.join(words)}", word


def lookup(rng: random.Random) -> tuple[str, str]:
    names, owned = rng.sample(NAMES, 2), rng.sample(GROUPS["thing"], 2)
    asked = rng.randrange(2)
    facts = " ".join(f"{name} has a {thing}." for name, thing in zip(names, owned, strict=True))
    return f"{facts} what does {names[asked]} have?", f"a {owned[asked]}"


def sort_digits(rng: random.Random) -> tuple[str, str]:
    digits = rng.sample("123456789", 3)
    return f"sort these digits: {' '.join(digits)}", " ".join(sorted(digits))


def compare(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(range(2, 10), 2)
    colours, things = rng.sample(GROUPS["colour"], 2), rng.sample(GROUPS["thing"], 2)
    return f"which is more: {a} {colours[0]} {things[0]}s or {b} {colours[1]} {things[1]}s?", str(max(a, b))


def add(rng: random.Random) -> tuple[str, str]:
    name, (colour, other), thing = rng.choice(NAMES), rng.sample(GROUPS["colour"], 2), rng.choice(GROUPS["thing"])
    a, b = rng.randint(1, 5), rng.randint(1, 5)
    return f"{name} has {a} {colour} and {b} {other} {thing}s. how many {thing}s in all?", str(a + b)


def subtract(rng: random.Random) -> tuple[str, str]:
    giver, taker = rng.sample(NAMES, 2)
    thing, a = rng.choice(GROUPS["thing"]), rng.randint(3, 7)
    b = rng.randint(1, a - 1)
    return f"{giver} has {a} {thing}s and gives {b} to {taker}. how many {thing}s has {giver} now?", str(a - b)


def pattern(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(WORDS, 2)
    row = ([a, b] * 3)[: rng.randint(3, 5)]
    return f"what comes next: {' '.join(row)}", b if row[-1] == a else a


TASKS: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {
    task.__name__: task
    for task in (
        copy, reverse, pick_word, count_words, contains, pick_kind, lookup,
        sort_digits, compare, add, subtract, pattern,
    )
}  # fmt: skip


def question(rng: random.Random, task: str, bucket: str = "train") -> tuple[str, str]:
    """A random question of a task that may be used in this kind of set, and its only right answer."""
    while True:
        asked, answer = TASKS[task](rng)
        if splits.bucket(asked) == bucket:
            return asked, answer


def general(seed: int | str, n: int, *, bucket: str = "train") -> list[Instruction]:
    """n answered questions, the tasks in equal shares, in random order; meta has the "task"."""
    rng = random.Random(f"general/{seed}")
    tasks = _shuffled(rng, [tuple(TASKS)[i % len(TASKS)] for i in range(n)])
    records = []
    for task in tasks:
        asked, answer = question(rng, task, bucket)
        records.append(Instruction((*user(asked), {"role": "assistant", "content": answer}), {"task": task}))
    return records


def general_prompts(seed: int | str, n_per_task: int, *, bucket: str = "eval") -> list[Prompt]:
    """Up to n different questions of each task, with the answer as reference; meta has the "task".

    "sort_digits" has fewer than fifty held-out questions to give; no other task has under 90.
    """
    rng = random.Random(f"general prompts/{seed}")
    return [
        Prompt(user(asked), answer, {"task": task})
        for task in TASKS
        for asked, answer in _different(rng, task, n_per_task, bucket)
    ]


def grade_general(reference: str, response: str) -> float:
    """1 if the response is the reference, but for spacing and case; else 0."""
    tidy = lambda text: " ".join(text.lower().split())
    return float(tidy(response) == tidy(reference))


def _different(rng: random.Random, task: str, n: int, bucket: str) -> Iterator[tuple[str, str]]:
    questions = {}
    for _ in range(20 * n):  # a small task runs out of new ones
        asked, answer = question(rng, task, bucket)
        questions[asked] = answer
        if len(questions) == n:
            break
    return iter(questions.items())


def _kinds(rng: random.Random) -> tuple[str, list[str]]:
    """A kind of word to ask for, and three other kinds."""
    kind, *others = rng.sample(tuple(GROUPS), 4)
    return kind, others


def _words(rng: random.Random, number: int) -> str:
    return " ".join(rng.sample(WORDS, number))


def _shuffled(rng: random.Random, items: list) -> list:
    return rng.sample(items, len(items))
