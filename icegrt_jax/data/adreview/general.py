"""Twelve small general tasks with exact answers: the ability PPO must not cost.

Each task draws a question and its answer; `splits.bucket` of the question decides
which sets it may be used in, so no evaluated question occurs in training.
"""

import random
from collections.abc import Callable, Iterator, Mapping

from icegrt_jax.data.adreview import phrases, splits
from icegrt_jax.data.records import Instruction, Prompt, user

GROUPS = {
    "colour": ("red", "blue", "green", "black", "white", "grey", "brown", "pink"),
    "animal": ("dog", "cat", "horse", "cow", "bird", "fish", "sheep", "duck"),
    "food": ("bread", "rice", "soup", "apple", "egg", "cheese", "cake", "corn"),
    "thing": ("lamp", "chair", "mug", "kettle", "brush", "clock", "radio", "table"),
    "day": phrases.SLOTS["day"],
}
WORDS = tuple(word for group, members in GROUPS.items() if group != "day" for word in members)
NAMES = ("tom", "ann", "ben", "eva", "sam", "mia", "max", "lily")
POSITIONS = ("first", "second", "third")


def copy(rng: random.Random) -> tuple[str, str]:
    words = _words(rng, rng.randint(2, 4))
    return f"copy these words: {words}", words


def reverse(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 3))
    return f"reverse these words: {' '.join(words)}", " ".join(reversed(words))


def pick_word(rng: random.Random) -> tuple[str, str]:
    words, position = rng.sample(WORDS, 3), rng.randrange(3)
    return f"what is the {POSITIONS[position]} word: {' '.join(words)}", words[position]


def count_words(rng: random.Random) -> tuple[str, str]:
    number = rng.randint(1, 5)
    return f"how many words are here: {_words(rng, number)}", str(number)


def member(rng: random.Random) -> tuple[str, str]:
    words, inside = rng.sample(WORDS, 4), rng.random() < 0.5
    asked = rng.choice(words[:3]) if inside else words[3]
    return f"is {asked} one of these words: {' '.join(words[:3])}", "yes" if inside else "no"


def odd_one_out(rng: random.Random) -> tuple[str, str]:
    many, one = rng.sample(tuple(GROUPS.values()), 2)
    odd = rng.choice(one)
    return f"which word does not belong: {' '.join(_shuffled(rng, [odd, *rng.sample(many, 2)]))}", odd


def lookup(rng: random.Random) -> tuple[str, str]:
    names, colours = rng.sample(NAMES, 2), rng.sample(GROUPS["colour"], 2)
    owned = [f"a {colour} {thing}" for colour, thing in zip(colours, rng.sample(GROUPS["thing"], 2), strict=True)]
    asked = rng.randrange(2)
    facts = " ".join(f"{name} has {thing}." for name, thing in zip(names, owned, strict=True))
    return f"{facts} what does {names[asked]} have?", owned[asked]


def sort_digits(rng: random.Random) -> tuple[str, str]:
    digits = rng.sample("123456789", 3)
    return f"sort these digits: {' '.join(digits)}", " ".join(sorted(digits))


def larger(rng: random.Random) -> tuple[str, str]:
    a, b = rng.sample(range(10, 100), 2)
    return f"which number is larger: {a} or {b}", str(max(a, b))


def add(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(1, 30), rng.randint(1, 9)
    return f"what is {a} plus {b}?", str(a + b)


def subtract(rng: random.Random) -> tuple[str, str]:
    b = rng.randint(1, 9)
    a = b + rng.randint(0, 30)
    return f"what is {a} minus {b}?", str(a - b)


def sequence(rng: random.Random) -> tuple[str, str]:
    start, step = rng.randint(1, 20), rng.randint(1, 5)
    terms = [str(start + i * step) for i in range(4)]
    return f"what comes next: {' '.join(terms[:3])}", terms[3]


TASKS: Mapping[str, Callable[[random.Random], tuple[str, str]]] = {
    task.__name__: task
    for task in (
        copy, reverse, pick_word, count_words, member, odd_one_out, lookup,
        sort_digits, larger, add, subtract, sequence,
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

    Small tasks have fewer questions than that to give: "add" and "subtract" hold out
    about 17 each.
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


def _words(rng: random.Random, number: int) -> str:
    return " ".join(rng.sample(WORDS, number))


def _shuffled(rng: random.Random, items: list) -> list:
    return rng.sample(items, len(items))
