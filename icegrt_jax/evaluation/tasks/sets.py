"""What the task files beside this call: reading the sets, and their questions and verdicts where a line won't do."""

import gzip
import json
import os
import pathlib
import re
from typing import Any

from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import sandbox

DATA = "ICEGRT_DATA"


def read(*, splits: dict[str, str], only: dict[str, str] | None = None, **_: Any) -> dict:
    """{split: its rows as a data set of the harness}.

    Args:
      splits: {split: its .jsonl or .jsonl.gz file, from the folder that ICEGRT_DATA names}.
      only: {field: value} of the rows that are wanted.
    """
    import datasets  # of the extra `eval`

    found = {}
    for split, name in splits.items():
        path = pathlib.Path(os.environ.get(DATA, "")).expanduser() / name
        if DATA not in os.environ or not path.is_file():
            raise UserError(
                f"{path}: not there, {DATA} is {os.environ.get(DATA) or 'not set'}; the tasks icegrt_* read the public "
                f"sets of docs/lm_eval.md, set {DATA} to their folder."
            )
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="\n") as file:
            rows = [json.loads(line) for line in file]
        kept = [row for row in rows if all(row.get(field) == value for field, value in (only or {}).items())]
        if not kept:
            raise UserError(f"{path}: no rows{f' with {only}' if only else ''}; fetch it again.")
        found[split] = datasets.Dataset.from_list(kept)
    return found


def plain(text: str) -> str:
    """A text of HellaSwag without what is left of the pages that it was taken from."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def hellaswag_text(doc: dict) -> str:
    return plain(f"{doc['activity_label']}: {doc['ctx_a']} {doc['ctx_b'].capitalize()}")


def hellaswag_choices(doc: dict) -> list[str]:
    return [plain(ending) for ending in doc["endings"]]


def winogrande_text(doc: dict) -> int:
    """Which of the beginnings is right: they differ, and the end is the same."""
    return int(doc["answer"]) - 1


def winogrande_target(doc: dict) -> str:
    return doc["sentence"].partition("_")[2].strip()


def winogrande_choices(doc: dict) -> list[str]:
    before = doc["sentence"].partition("_")[0]
    return [before + doc["option1"], before + doc["option2"]]


def agieval_results(doc: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Whether the likeliest choice is a right one, of several; as it is and for each character."""
    logprobs = [logprob for logprob, _ in results]
    lengths = [len(choice) for choice in doc["choices"]]
    best = max(range(len(logprobs)), key=lambda i: logprobs[i])
    normed = max(range(len(logprobs)), key=lambda i: logprobs[i] / lengths[i])
    return {"acc": float(best in doc["gold"]), "acc_norm": float(normed in doc["gold"])}


# What an answer of BIG-Bench Hard looks like: the first of these that the right one is, is looked for in the answer.
FORMS = [
    (re.compile(pattern, re.IGNORECASE), last)
    for pattern, last in (
        (r"\([A-Z]\)", False), (r"\b(?:True|False)\b", False), (r"\b(?:Yes|No)\b", False),
        (r"\b(?:valid|invalid)\b", False), (r"-?\d+", True),
    )
]  # fmt: skip


def bbh_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether the answer is the right one, and whether the right one is what it names: first, or of numbers last."""
    target, answer = doc["target"], results[0]
    form, last = next(((form, last) for form, last in FORMS if form.fullmatch(target.strip())), (None, False))
    named = form.findall(answer) if form else [answer.strip().partition("\n")[0]]
    found = named[-1 if last else 0] if named else ""
    return {"exact_match": float(_same(answer, target)), "extracted": float(_same(found, target))}


def _same(one: str, other: str) -> bool:
    bare = lambda text: re.sub(r"\.$|[,\n\\\"]", "", text.strip()).strip().lower()
    return bare(one) == bare(other)


def humaneval_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Whether the function that the answer completes passes its tests, run where `sandbox.run` holds it."""
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(sandbox.run(program).passed)}
