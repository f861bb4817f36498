"""The letter that an answer to a question with lettered choices chooses."""

import re

# Behind the word: a small letter in brackets only, A and I not as words of a sentence ("the answer is A dog").
_NAMED = (
    r"(?i:\s+is)?\s*[:=]?\s*[*_\"'$]*"
    r"(?:\(([A-Za-z])\)|([B-HJ-Z])(?![\w'’])|([AI])(?![\w'’])(?!\s+(?!because|since|as\b|and\b)[a-z]))"
)
# In this order; of several of one kind the last counts, as an answer may think before it decides.
_KINDS = (
    # \boxed{B}, \boxed{\text{(B)}}
    re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*\(?([A-Za-z])\)?\s*\}"),
    # Answer: B, the answer is (b), then the correct option is **B**
    re.compile(rf"\b(?i:answer){_NAMED}"),
    re.compile(rf"\b(?i:option|choice){_NAMED}"),
    # Nothing else, or at the beginning before what sets it off: B, B. because, B) a dog
    re.compile(r"\A\s*[*_\"']*([A-Za-z])(?=[*_\"']*\s*(?:[).:,\n]|\Z))"),
    # Somewhere in brackets
    re.compile(r"\(([A-Za-z])\)"),
)


def letter_of(text: str) -> str | None:
    """The letter chosen, a capital; None where there is none.

    >>> letter_of("B"), letter_of("(c) is right"), letter_of("A dog. The answer is (D)."), letter_of("A dog")
    ('B', 'C', 'D', None)
    """
    for kind in _KINDS:
        if found := kind.findall(text):
            last = found[-1]
            return "".join(last).upper()
    return None
