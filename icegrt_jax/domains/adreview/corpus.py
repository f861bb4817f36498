"""Plain text to pretrain a base model on, and the text its tokenizer is trained on.

The base model meets ads, the rule book and the general tasks, but never a review
and never a chat: general questions are written `question: ... answer: ...`.

Much of it says the same words again (`echo`), which is what teaches a transformer
from scratch to copy: one of a million parameters then copies unseen words with 95 %
accuracy after some 0.6 to 0.9 million tokens. Without, it still failed at 0.7 million
(20 %), and its reviews quoted the right kind of phrase in the wrong words.
"""

import functools
import random

from icegrt_jax.data.records import Text
from icegrt_jax.domains.adreview import answer, generator, phrases, splits
from icegrt_jax.domains.adreview.answer import ideal
from icegrt_jax.domains.adreview.general import TASKS, WORDS, question
from icegrt_jax.domains.adreview.rules import RULES

SHARES = {"ad": 0.05, "rule book": 0.1, "quotation": 0.15, "echo": 0.4, "general": 0.3}

_STATEMENTS = (
    "rule {number} is about {name}.",
    "rule {number}, {name}: {text}",
    "rule {number} forbids {name}.",
    "the name of rule {number} is {name}.",
    "{text} that is rule {number}.",
)


def corpus(seed: int | str, n: int) -> list[Text]:
    """n short texts: ads, statements of the rule book, general questions with answers.

    Drawn from the training buckets only; meta has the "kind", a key of `SHARES`.
    """
    rng = random.Random(f"corpus/{seed}")
    kinds = rng.choices(tuple(SHARES), tuple(SHARES.values()), k=n)
    return [Text(_TEXTS[kind](rng), {"kind": kind}) for kind in kinds]


@functools.lru_cache(maxsize=1)  # a new run asks twice: for the check of its inputs, and for its own tokenizer
def training_text(seed: int | str = 0, n: int = 6000) -> tuple[str, ...]:
    """Texts to train a tokenizer on: the corpus, then prompts and ideal reviews, n in all.

    Held-out brands and phrasings are not in it, so evaluation meets them in pieces.
    """
    texts = [record.text for record in corpus(f"tokenizer/{seed}", n - n // 2)]
    rng = random.Random(f"tokenizer/{seed}")
    for _ in range(n // 2):
        ad = generator.sample_ad(rng)
        texts.append(f"{generator.prompt(ad)}\n{ideal(generator.annotation(ad))}")
    return tuple(texts)


def _ad_text(rng: random.Random) -> str:
    return generator.sample_ad(rng).text


def _quotation_text(rng: random.Random) -> str:
    ad = generator.sample_ad(rng).text
    sentences = ad.rstrip(".").split(". ")
    quotes = " ".join(f'it says "{sentence}".' for sentence in rng.sample(sentences, len(sentences)))
    return f"ad: {ad} {quotes}"


def _echo_text(rng: random.Random) -> str:
    words = " ".join(rng.choices(_vocabulary(), k=rng.randint(4, 10)))
    return f"say it again: {words}. {words}. {words}."


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    """The words that ads are made of."""
    slots = [phrase for name, filling in phrases.SLOTS.items() for phrase in filling]
    return tuple(sorted({*answer.words(" ".join(slots)), *splits.NOUNS, *splits.BRANDS, *WORDS}))


def _rule_text(rng: random.Random) -> str:
    chosen = rng.sample(tuple(RULES.values()), 3)
    return " ".join(
        rng.choice(_STATEMENTS).format(number=rule.number, name=rule.name, text=rule.text) for rule in chosen
    )


def _general_text(rng: random.Random) -> str:
    asked, answer = question(rng, rng.choice(tuple(TASKS)))
    return f"question: {asked} answer: {answer}"


_TEXTS = {
    "ad": _ad_text,
    "rule book": _rule_text,
    "quotation": _quotation_text,
    "echo": _echo_text,
    "general": _general_text,
}
