"""Rows of public data sets turned into the JSON form of our records.

Every set of questions with choices is put in one wording, so that SFT, reward
model and PPO see the same prompt and the same form of answer:

    Question: <question>                                  Answer: <choice>
    Choices: <a>; <b>; <c>                                Explanation: <one paragraph>
    Answer with one of the choices and explain why.

| format          | rows of                        | kinds               |
| --------------- | ------------------------------ | ------------------- |
| `ecqa`, `cos_e` | question, choices, answer, explanation | Instruction, Prompt |
| `ecqa_choices`, `cos_e_choices` | the same rows  | Ranking: the right answer above a wrong one |
| `alpaca`        | instruction, input, output (alpaca, dolly) | Instruction, Prompt |
| `kway`          | prompt, responses, scores      | Ranking             |

ECQA: Aggarwal et al. 2021, https://aclanthology.org/2021.acl-long.238.
CoS-E: Rajani et al. 2019, https://arxiv.org/abs/1906.02361.
K-way explanations: Wiegreffe et al. 2022, https://arxiv.org/abs/2112.08674.
Alpaca: https://github.com/tatsu-lab/stanford_alpaca.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from icegrt_jax.data.content import read_at, refuse_half_characters
from icegrt_jax.data.fields import is_finite, shown
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Record
from icegrt_jax.errors import UserError

SNLI_LABELS = ("true", "false", "neither")


class Row(dict):
    """A row of a data set; a field that is missing or of another type is an error that names it."""

    def __init__(self, obj: Any, where: str):
        if not isinstance(obj, dict):
            raise UserError(f"{where}: got a JSON value of type {type(obj).__name__}; expected an object.")
        super().__init__(obj)
        self.where = where
        with read_at(where):
            refuse_half_characters(obj)

    def fail(self, field: str, problem: str) -> UserError:
        return UserError(f"{self.where}: field {field!r} {problem}")

    def fail_type(self, field: str, expected: str) -> UserError:
        got = shown(self[field]) if field in self else "missing"
        return self.fail(field, f"is {got}; expected {expected}.")

    def text(self, field: str) -> str:
        value = self.get(field)
        if not isinstance(value, str):
            raise self.fail_type(field, "a string")
        return value.strip()

    def texts(self, field: str) -> list[str]:
        value = self.get(field)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.fail_type(field, "a list of strings")
        return [item.strip() for item in value]


def question_prompt(question: str, choices: Sequence[str], context: str = "") -> str:
    """The wording of every question with choices; `context` goes on the lines before it."""
    lines = [context] if context else []
    lines += [f"Question: {question}", f"Choices: {'; '.join(choices)}"]
    return "\n".join([*lines, "Answer with one of the choices and explain why."])


def explained_answer(answer: str, explanation: str) -> str:
    """The form of every answer: two lines, the explanation's own line breaks taken out."""
    return f"Answer: {answer}\nExplanation: {' '.join(explanation.split())}"


def question_as_prompt(row: Row, task: str) -> dict:
    """The reference is the right answer with its explanation."""
    choices, answer = row.texts("choices"), row.text("answer")
    if answer not in choices:
        raise row.fail_type("answer", f"one of {choices}")
    return {
        "prompt": question_prompt(row.text("question"), choices),
        "reference": explained_answer(answer, row.text("explanation")),
        "meta": {**_meta(row, task), "choices": choices, "answer": answer},
    }


def question_instruction(row: Row, task: str) -> dict:
    prompt = question_as_prompt(row, task)
    return {"prompt": prompt["prompt"], "response": prompt["reference"], "meta": prompt["meta"]}


def question_ranking(row: Row, task: str) -> dict:
    """The right answer above a wrong one with the same explanation.

    Teaches the reward model that the answer itself counts and has to agree with
    its explanation. The wrong choice is drawn by the row's id alone.
    """
    prompt = question_as_prompt(row, task)
    answer, explanation = row.text("answer"), row.text("explanation")
    wrong = sorted(set(row.texts("choices")) - {answer})
    if not wrong:
        raise row.fail("choices", "has only the right answer; expected a wrong one too.")
    drawn = wrong[zlib.crc32(row.text("id").encode()) % len(wrong)]
    return {
        "prompt": prompt["prompt"],
        "chosen": prompt["reference"],
        "rejected": explained_answer(drawn, explanation),
        "meta": prompt["meta"],
    }


def alpaca_instruction(row: Row) -> dict:
    instruction, extra = row.text("instruction"), row.text("input")
    prompt = f"{instruction}\n\n{extra}" if extra else instruction
    return {"prompt": prompt, "response": row.text("output"), "meta": _meta(row, "alpaca")}


def alpaca_prompt(row: Row) -> dict:
    obj = alpaca_instruction(row)
    return {"prompt": obj["prompt"], "reference": obj["response"], "meta": obj["meta"]}


def kway_ranking(row: Row) -> dict:
    """Ranks from scores, where higher is better; equal scores share a rank.

    Rows that explain a given answer (`task` is "commonsenseqa" or "snli") are
    put in the wording above, with the given answer before each explanation; the
    prompts of other rows stay as they are.
    """
    responses = row.texts("responses")
    ranks = ranks_of_scores(row, len(responses))
    task = row.get("task", "kway")
    if task in ("commonsenseqa", "snli"):
        prompt = _kway_question(row, task)
        responses = [explained_answer(row.text("gold_label"), response) for response in responses]
    else:
        prompt = row.text("prompt")
    meta = {**_meta(row, task), "scores": row["scores"]}
    return {"prompt": prompt, "responses": responses, "ranks": ranks, "meta": meta}


def ranks_of_scores(row: Row, count: int) -> list[int]:
    """The ranks of so many answers by the row's scores: 1 for the highest, equal scores share a rank."""
    scores = row.get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        raise row.fail_type("scores", f"{count} numbers, one for each response")
    for i, score in enumerate(scores):
        # Nothing is above NaN and NaN above nothing: an answer without a score would share the first rank.
        if not is_finite(score):
            raise row.fail(f"scores[{i}]", f"is {shown(score)}; expected a finite number.")
    return [1 + sum(other > score for other in scores) for score in scores]


def _kway_question(row: Row, task: str) -> str:
    if task == "snli":
        context = f"Statement: {row.text('input_1')}\nClaim: {row.text('input_2')}"
        return question_prompt("Given the statement, is the claim true, false or neither?", SNLI_LABELS, context)
    # "a, b, c, d, or e"; a choice may itself hold an "or" ("pack or bag"), so only the last ", or " is cut.
    head, _, last = row.text("input_2").rpartition(", or ")
    choices = [*head.split(", "), last]
    if row.text("gold_label") not in choices:
        raise row.fail_type("gold_label", f"one of {choices}")
    return question_prompt(row.text("input_1"), choices)


def _meta(row: Row, task: str) -> dict:
    return {"task": task, **({"id": row["id"]} if "id" in row else {})}


def _with_choices(task: str) -> dict[str, dict[type[Record], Callable[[Row], dict]]]:
    """Both formats of a set of questions with choices."""
    instruction = functools.partial(question_instruction, task=task)
    prompt = functools.partial(question_as_prompt, task=task)
    ranking = functools.partial(question_ranking, task=task)
    return {task: {Instruction: instruction, Prompt: prompt}, f"{task}_choices": {Ranking: ranking}}


CONVERTERS: dict[str, dict[type[Record], Callable[[Row], dict]]] = {
    **_with_choices("ecqa"),
    **_with_choices("cos_e"),
    "alpaca": {Instruction: alpaca_instruction, Prompt: alpaca_prompt},
    "kway": {Ranking: kway_ranking},
}
