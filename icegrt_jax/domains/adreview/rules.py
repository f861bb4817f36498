"""The rule book that advertisements are reviewed against.

Eight rules. Two depend on what the prompt says about the ad, so a verdict cannot
be read off the wording alone:

* rule 3 allows a superlative when the prompt says `proof: on file`;
* rule 7 forbids adult offers only when the prompt says `audience: children`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

AUDIENCES = ("adults", "children")
PROOFS = ("none", "on file")

PROMISED, CURE, UNPROVEN, PRESSURE, HIDDEN_COST, AUTHORITY, ADULT_OFFER, RICHES = range(1, 9)


@dataclass(frozen=True)
class Rule:
    """One rule: its number, the short name answers use, and the text a person reads."""

    number: int
    name: str
    text: str


RULES: Mapping[int, Rule] = {
    rule.number: rule
    for rule in (
        Rule(PROMISED, "promised results", "an ad may not promise that the buyer gets a result."),
        Rule(CURE, "health cures", "an ad may not claim to cure, heal or end an illness."),
        Rule(UNPROVEN, "unproven claims", "an ad may not claim to beat all others unless proof is on file."),
        Rule(PRESSURE, "buying pressure", "an ad may not push people to buy in a hurry."),
        Rule(HIDDEN_COST, "hidden costs", "an ad may not leave a cost open or put it off."),
        Rule(AUTHORITY, "fake authority", "an ad may not lean on experts or stars without a name."),
        Rule(ADULT_OFFER, "adult offers", "an ad for children may not offer alcohol, betting or a lottery."),
        Rule(RICHES, "quick riches", "an ad may not promise easy money."),
    )
}

# For people who rank answers, beside them.
GUIDELINE = "\n".join(
    (
        "The best answer has the right verdict, quotes every phrase that breaks a rule with its number, and accuses"
        " none that is allowed. A right verdict counts most; then reasons that are right and complete; then few words.",
        "",
        *(f"{rule.number}. {rule.name}: {rule.text}" for rule in RULES.values()),
    )
)
