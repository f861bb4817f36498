"""What the ads are made of: phrase templates and the words that fill their slots.

`OFFENDING[rule]` are templates that break the rule; `DECOYS[rule]` are allowed
phrases in nearly the same words, each with the reason it is allowed. A slot is
`{name}`; `{noun}` is the ad's own product, `{brand}` its brand. Every finding has
enough fillings that some can be kept out of training (`splits.fillings`).
"""

import functools
import random
import re
from collections.abc import Mapping

from icegrt_jax.domains.adreview import rules

SLOTS: Mapping[str, tuple[str, ...]] = {
    "ailment": ("headaches", "colds", "back pain", "stress", "bad sleep", "fever"),
    "body": ("back", "skin", "neck", "knees", "stomach", "hair"),
    "skill": ("speak french", "play guitar", "paint well", "pass every exam", "run faster", "cook well"),
    "buyer": ("everyone", "every buyer", "every family"),
    "expert": ("doctors", "scientists", "teachers", "dentists", "film stars", "experts"),
    "adviser": ("a doctor", "a dentist", "a teacher", "an expert"),
    "use": ("buy", "use", "open"),
    "area": ("in the world", "in the country", "in town", "on earth", "on the market"),
    "better": ("faster", "stronger", "safer", "smarter", "better"),
    "fee": ("service", "booking", "delivery", "monthly", "repair", "storage"),
    "drink": ("beer", "wine", "rum", "whisky", "cider"),
    "soft_drink": ("water", "juice", "milk", "lemonade"),
    "table_game": ("poker", "dice", "cards"),
    "gamble": ("casino", "lottery", "horse race"),
    "prize": ("ball", "book", "kite", "puzzle", "drum"),
    "way": ("from home", "in bed", "without work", "on your sofa"),
    "few": ("2", "3", "4", "5", "6", "7", "8", "9"),
    "big": ("20", "30", "50", "80", "100", "200", "500"),
    "units": ("hours", "days", "weeks", "months"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "colour": ("red", "blue", "green", "black"),
    "shade": ("white", "grey", "brown", "pink"),
    "material": ("wood", "steel", "glass", "paper", "tin"),
    "place": ("spain", "italy", "japan", "canada", "france"),
    "room": ("kitchen", "garden", "office", "bedroom", "bathroom", "cellar"),
    "relative": ("mother", "father", "sister", "brother"),
    "care": ("clean", "carry", "store", "wrap"),
}

INTROS = (
    "try the new {brand} {noun}",
    "meet the {brand} {noun}",
    "this is the {brand} {noun}",
    "here comes the {brand} {noun}",
    "the {brand} {noun} is here",
    "say hello to the {brand} {noun}",
)

NEUTRALS = (
    "made by hand in {place}",
    "comes in {colour} and {shade}",
    "looks nice in the {room}",
    "easy to {care}",
    "a gift for your {relative}",
    "sold in shops in {place}",
    "designed in {place}",
    "sold in packs of {few}",
    "the {shade} box is made of {material}",
    "now on show in {place}",
)

# Said before some sentences, so that a quote need not start where a sentence does.
LEAD_INS = ("also, ", "yes, ", "remember, ")

OFFENDING: Mapping[int, tuple[str, ...]] = {
    rules.PROMISED: (
        "guaranteed to work in {few} {units}",
        "you will {skill} in {few} {units}",
        "we promise you will {skill}",
        "works for {buyer} in {few} {units}",
        "success is certain within {few} {units}",
    ),
    rules.CURE: (
        "cures {ailment} in {few} {units}",
        "heals your {body} in {few} {units}",
        "ends {ailment} for good",
        "makes {ailment} go away",
        "no more {ailment} after {few} {units}",
    ),
    rules.UNPROVEN: (
        "the best {noun} {area}",
        "no other {noun} is {better}",
        "{better} than any other {noun}",
        "the number one {noun} {area}",
    ),
    rules.PRESSURE: (
        "only {few} left so buy now",
        "buy within {few} hours or miss out",
        "last chance so act before {day}",
        "act in {few} minutes or pay double",
        "hurry or it is gone by {day}",
    ),
    rules.HIDDEN_COST: (
        "free for {few} {units} but fees come later",
        "an extra {fee} fee is added on {day}",
        "other {fee} costs are not shown",
        "the {fee} fee may go up by {day}",
    ),
    rules.AUTHORITY: (
        "{expert} love it",
        "{few} of 10 {expert} use it",
        "{expert} say it is great",
        "trusted by {expert} {area}",
        "even {expert} want one",
    ),
    rules.ADULT_OFFER: (
        "comes with {few} bottles of {drink}",
        "win {big} dollars in our lottery",
        "bet {few} dollars to win {big}",
        "play {table_game} for money on {day}",
        "get {few} free tickets for the {gamble}",
    ),
    rules.RICHES: (
        "earn {big} dollars a day {way}",
        "get rich in {few} {units}",
        "double your money by {day}",
        "quit your job in {few} {units}",
        "make {big} dollars while you sleep",
    ),
}

# Why an offending phrase is allowed after all, by rule: it hangs on the prompt.
ALLOWED_BECAUSE: Mapping[int, str] = {
    rules.UNPROVEN: "backed by proof",
    rules.ADULT_OFFER: "allowed for adults",
}

# (template, reason). The answer says: "PHRASE" is REASON.
DECOYS: Mapping[int, tuple[tuple[str, str], ...]] = {
    rules.PROMISED: (
        ("money back guaranteed within {few} {units}", "only a refund offer"),
        ("guaranteed to ship in {few} days", "only a delivery date"),
        ("results in {few} {units} are not guaranteed", "only an honest note"),
        ("you may {skill} if you practise", "only an honest note"),
    ),
    rules.CURE: (
        ("this is not a cure for {ailment}", "only an honest note"),
        ("keeps your {body} warm", "only a plain description"),
        ("see a doctor if you have {ailment}", "only advice"),
    ),
    rules.UNPROVEN: (
        ("our best wishes to {buyer} in {place}", "only a greeting"),
        ("{better} than our last {noun}", "only a plain description"),
        ("best kept in the {room}", "only advice"),
    ),
    rules.PRESSURE: (
        ("the sale ends on {day}", "only a plain date"),
        ("order by {day} for free delivery", "only a delivery date"),
        ("no need to hurry before {day}", "only an honest note"),
    ),
    rules.HIDDEN_COST: (
        ("the {fee} fee is {few} dollars", "only an open price"),
        ("no {fee} fee is added", "only an open price"),
        ("free for {few} {units} with no fees", "only an open price"),
    ),
    rules.AUTHORITY: (
        ("talk to {adviser} before you {use} it", "only advice"),
        ("not tested by {expert}", "only an honest note"),
        ("made for {expert} in {place}", "only a plain description"),
    ),
    rules.ADULT_OFFER: (
        ("comes with {few} bottles of {soft_drink}", "only a soft drink"),
        ("no {drink} is sold on {day}", "only an honest note"),
        ("win a {prize} in our drawing contest", "only a harmless prize"),
    ),
    rules.RICHES: (
        ("save {big} dollars on {day}", "only a discount"),
        ("it costs {big} dollars in total", "only an open price"),
        ("you will not get rich in {few} {units}", "only an honest note"),
    ),
}


def fill(rng: random.Random, template: str, **given: str) -> str:
    """The template with `given` slots as told and the others drawn from `SLOTS`."""
    pieces = _pieces(template)
    # Odd pieces are slot names: re.split keeps what its group matched.
    return "".join(
        (given[piece] if piece in given else rng.choice(SLOTS[piece])) if i % 2 else piece
        for i, piece in enumerate(pieces)
    )


def slots(template: str) -> tuple[str, ...]:
    """The slot names of a template, in order."""
    return tuple(_pieces(template)[1::2])


@functools.cache
def _pieces(template: str) -> tuple[str, ...]:
    return tuple(re.split(r"\{(\w+)\}", template))
