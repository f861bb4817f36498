"""What the page's browser goes through: prompts with every stage's answer, rollouts, prompts answered again and again.

A collection has `items`; an item has a `prompt` and `answers`, an answer its `by`, `text`, `numbers` by measure, and
where tokens are known their texts (`tokens`) with numbers of each (`of_tokens`, by colour). How much of it is taken is
bounded in bytes, so that a page stays one that can be sent; what is left out is said.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax import files
from icegrt_jax.evaluation import sampled
from icegrt_jax.report import words
from icegrt_jax.runs import samples, shown_answers

BYTES = {"answers": 1_200_000, "rollouts": 700_000, "followed": 250_000}  # of a collection, as JSON
COLOURS = {"kl": "KL (nats)", "advantages": "advantage", "values": "value"}
FIRST = {"score": "score", "gold": "judge (gold)", "kl": "KL (nats)", "length": "tokens"}

Item = dict[str, Any]


def collections(workdir: pathlib.Path, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Those that a run has something for; `titles` are those of the judges' numbers."""
    found = [_answers(workdir / "evaluate"), _rollouts(workdir / "ppo"), _followed(workdir / "ppo")]
    return [_described(one, titles) for one in found if one["items"]]


def _described(collection: dict[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """With the measures and colours that some answer has, and who has answered."""
    answers = [answer for item in collection["items"] for answer in item["answers"]]
    having = dict.fromkeys([*FIRST, *(name for answer in answers for name in answer["numbers"])])
    measures = [name for name in having if any(name in answer["numbers"] for answer in answers)]
    known = {**titles, **FIRST}
    return {
        **collection,
        "measures": [{"key": name, "title": known.get(name) or words.title_of(name, titles)} for name in measures],
        "first": list(FIRST),
        "by": list(dict.fromkeys(answer["by"] for answer in answers)),
        "colours": [
            {"key": name, "title": title}
            for name, title in COLOURS.items()
            if any(name in answer.get("of_tokens", {}) for answer in answers)
        ],
        "kinds": list(dict.fromkeys(item["kind"] for item in collection["items"] if item.get("kind"))),
    }


def _answers(folder: pathlib.Path) -> dict[str, Any]:
    lines = _read(folder / shown_answers.FILE)
    made = [_of_line(line) for line in lines] if lines else _older(folder)
    items, left = bounded(made, BYTES["answers"])
    total = sum(line.get("group") == "domain" for line in _read(folder / sampled.PROMPTS)) or len(made)
    return {
        "key": "answers", "title": "Held-out prompts, every stage", "items": items, "total": total,
        "note": "the first answer of each stage to prompts that no stage has trained on", "left_out": left,
    }  # fmt: skip


def _of_line(line: Mapping[str, Any]) -> Item:
    answers = []
    for told in line["answers"]:
        kl = told.get("kl")
        numbers = {"length": told["length"], **told["grades"]}
        numbers |= {"score": told["score"]} if "score" in told else {}
        numbers |= {"kl": float(np.sum(kl))} if kl is not None else {}
        answer = {"by": _by(told["row"], told["decoding"]), "text": told["answer"], "numbers": _rounded(numbers)}
        if kl is not None:
            answer |= {"tokens": told["tokens"], "of_tokens": {"kl": _short(kl)}}
        answers.append(answer)
    return _item(line["prompt"], answers, reference=line.get("reference", ""), kind=line.get("split", ""))


def _older(folder: pathlib.Path) -> list[Item]:
    """Of an evaluation before what is shown was measured: its answers with the judges' numbers."""
    prompts = {line["place"]: line for line in _read(folder / sampled.PROMPTS) if line["group"] == "domain"}
    answers: dict[int, list[dict[str, Any]]] = {}
    for line in _read(folder / sampled.ANSWERS):
        if line["group"] == "domain" and line["sample"] == 0 and line["prompt"] in prompts:
            numbers = _rounded({"length": line["tokens"], **line["grades"]})
            told = {"by": _by(line["row"], line["decoding"]), "text": line["answer"], "numbers": numbers}
            answers.setdefault(line["prompt"], []).append(told)
    return [
        _item(prompts[i]["prompt"], answers[i], reference=prompts[i].get("reference", ""),
              kind=prompts[i].get("meta", {}).get("split", ""))
        for i in sorted(answers)
    ]  # fmt: skip


def _rollouts(folder: pathlib.Path) -> dict[str, Any]:
    rows = _read(folder / samples.ROLLOUTS)
    made = []
    for row in rows:
        rewards = {name: value for name, value in row.get("rewards", {}).items() if value is not None}
        numbers = {**({"score": row["score"]} if "score" in row else {}), **rewards}
        answer = {"by": f"iteration {row['step']}", "text": row["response"]}
        if "tokens" in row:
            numbers |= {"kl": float(np.sum(row["kl"])), "length": len(row["tokens"])}
            of_tokens = {name: _short(row[name]) for name in COLOURS if name in row}
            answer |= {"tokens": row["tokens"], "of_tokens": of_tokens}
        made.append({**_item(row["prompt"], [{**answer, "numbers": _rounded(numbers)}]), "step": row["step"]})
    items, left = bounded(made, BYTES["rollouts"], spread=True)
    return {
        "key": "rollouts", "title": "Rollouts of PPO", "items": items, "total": len(made), "left_out": left,
        "note": "some of what the policy was trained on, as it was sampled",
    }  # fmt: skip


def _followed(folder: pathlib.Path) -> dict[str, Any]:
    by_place: dict[int, Item] = {}
    for row in _read(folder / samples.FOLLOWED):
        item = by_place.setdefault(row["place"], _item(row["prompt"], []))
        numbers = {"length": row["length"]}
        item["answers"].append({"by": f"iteration {row['step']}", "text": row["response"], "numbers": numbers})
    items, left = bounded([by_place[place] for place in sorted(by_place)], BYTES["followed"])
    return {
        "key": "followed", "title": "The same prompts as PPO went on", "items": items, "total": len(by_place),
        "left_out": left, "note": "greedy answers to training prompts after iteration 1, 2, 4, 8 and so on",
    }  # fmt: skip


def bounded(items: Sequence[Item], most: int, *, spread: bool = False) -> tuple[list[Item], int]:
    """As many of the items as so many bytes of JSON hold, and how many are left out.

    Args:
      spread: they are taken from all over the list, else its first ones.
    """
    sizes = [len(json.dumps(item, ensure_ascii=False).encode()) for item in items]
    if sum(sizes) <= most:
        return list(items), 0
    share = most / sum(sizes)
    order = list(range(len(items)))
    if spread:
        order = np.linspace(0, len(items) - 1, max(int(len(items) * share), 1)).round().astype(int).tolist()
    taken, used = [], 0
    for i in dict.fromkeys(order):
        if used + sizes[i] <= most:
            taken.append(items[i])
            used += sizes[i]
    return taken, len(items) - len(taken)


def _item(messages: Iterable[Mapping[str, Any]], answers: list[dict[str, Any]], **more: str) -> Item:
    prompt = [{"role": message["role"], "content": _text(message["content"])} for message in messages]
    return {"prompt": prompt, "answers": answers, **{name: value for name, value in more.items() if value}}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _by(row: str, decoding: str) -> str:
    return row if decoding == "sampled" else f"{row} ({words.GROUPS.get(decoding, decoding)})"


def _rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def _short(values: Iterable[float]) -> list[float]:
    """Three digits are what a colour can show."""
    return [float(f"{value:.3g}") for value in values]


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    return files.read_jsonl(path) if path.is_file() else []
