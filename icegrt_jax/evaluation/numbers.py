"""Numbers in answers, by their value: 1,000 = 1000 = 1000.0, 1/2 = 0.5."""

import re
from fractions import Fraction

_DIGITS = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
# A sign belongs to the number where nothing stands before it: in 5-3 it is a minus.
_NUMBER = re.compile(
    rf"(?:(?<![\w.)])([-+−]))?\$?\s?(?:"
    rf"\\[dt]?frac\s*\{{\s*([-−]?\d+)\s*\}}\s*\{{\s*(\d+)\s*\}}"  # \frac{{3}}{{4}}
    rf"|(\d+)\s+(\d+)\s*/\s*(\d+)"  # 1 3/4
    rf"|({_DIGITS})(?:[eE]([-+]?\d{{1,3}})(?!\w))?(?:\s*/\s*(\d+)(?![\d.,]*\d*/))?)"
)
LONGEST = 400  # digits of a number that is read


def marked(text: str) -> Fraction | None:
    """The number after the last `####`, else in the last `\\boxed{}`; None where neither marks one.

    >>> marked("2 + 2 = 4 #### 1,000 eggs"), marked(r"so \\boxed{\\frac{1}{2}}"), marked("it is 5")
    (Fraction(1000, 1), Fraction(1, 2), None)
    """
    _, mark, after = text.rpartition("####")
    if mark:
        found = _all(after.strip().partition("\n")[0])
        return found[0] if found else None
    return last(boxed) if (boxed := _boxed(text)) is not None else None


def last(text: str) -> Fraction | None:
    """The last number in a text."""
    found = _all(text)
    return found[-1] if found else None


def _all(text: str) -> list[Fraction]:
    found = []
    for match in _NUMBER.finditer(text):
        value = _value(*match.groups()) if len(match[0]) <= LONGEST else None
        if value is not None:
            found.append(value)
    return found


def _value(sign, above, below, whole, part, parts, digits, exponent, divisor) -> Fraction | None:
    try:
        if above is not None:
            value = Fraction(int(above.replace("−", "-")), int(below))
        elif whole is not None:
            value = int(whole) + Fraction(int(part), int(parts))
        else:
            value = Fraction(digits.replace(",", "")) * Fraction(10) ** int(exponent or 0) / int(divisor or 1)
    except ZeroDivisionError:
        return None
    return -value if sign in ("-", "−") else value


def _boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{}` that is closed, its inner brackets paired."""
    for match in reversed(list(re.finditer(r"\\boxed\s*\{", text))):
        depth = 1
        for i, character in enumerate(text[match.end() :], start=match.end()):
            depth += (character == "{") - (character == "}")
            if not depth:
                return text[match.end() : i]
    return None
