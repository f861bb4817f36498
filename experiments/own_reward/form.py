"""What can be said of a review without knowing whether it is right: its form, and whether it quotes what is there."""

import re

VERDICT = re.compile(r"verdict: (approve|reject)")


def form(prompts, responses, records):
    """0 to 1 for each review, a quarter for each of four claims that hold.

    It ends with its only verdict; the verdict follows from what is said before; something is said before; every quote
    stands in the ad. The annotation of the ad, from which the gold judge grades, is never looked at.
    """
    return [_form(prompt[-1]["content"], review) for prompt, review in zip(prompts, responses, strict=True)]


def _form(ad: str, review: str) -> float:
    verdicts, quotes = VERDICT.findall(review), re.findall(r'"([^"]*)"', review)
    broken, clear = "breaks rule" in review, "no rule is broken" in review
    ends = len(verdicts) == 1 and review.strip().endswith(f"verdict: {verdicts[0]}")
    follows = len(verdicts) == 1 and (broken, clear) == ((True, False) if verdicts[0] == "reject" else (False, True))
    quoted = bool(quotes) and all(quote.strip() and quote in ad for quote in quotes)
    return (ends + follows + (broken or clear) + (quoted or (clear and not quotes))) / 4
