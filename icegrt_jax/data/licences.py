"""Licences of the public sets that docs/data.md describes, by where they lie under the data folder."""

LICENCES = {  # folder -> set, licence
    "domain/ecqa/": ("ECQA", "CDLA-Sharing-1.0; questions MIT"),
    "domain/cos_e/": ("CoS-E v1.0", "BSD-3-Clause; questions MIT"),
    "preference/explanations_kway/": (
        "Acceptability of explanations", "Apache-2.0; the explanations in it as ECQA and CoS-E"),
    "instruct/dolly_hhrlhf/": ("Dolly, in the form of dolly_hhrlhf", "CC BY-SA 3.0; hh-rlhf MIT"),
    "instruct/alpaca/": ("Alpaca", "CC BY-NC 4.0: non-commercial"),
}  # fmt: skip
UNKNOWN = "not known"


def licence_of(spec: str) -> tuple[str, str]:
    """Name of the set that a source reads, "" where it is none of them, and its licence."""
    path = spec.partition(":")[2]
    return next((known for folder, known in LICENCES.items() if path.startswith(folder)), ("", UNKNOWN))
