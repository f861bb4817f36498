"""The shapes that other tools' rows have, each made the JSON form of a record.

| shape        | columns (those in brackets may be missing)      | kinds               | known from |
| ------------ | ----------------------------------------------- | ------------------- | ---------- |
| `messages`   | messages: role, content                         | Instruction, Prompt | OpenAI, TRL |
| `response`   | prompt, response [system]                       | Instruction         | our own |
| `completion` | prompt, completion [system]: texts or messages  | Instruction         | TRL, OpenAI |
| `alpaca`     | instruction, output [input, system]             | Instruction, Prompt | Stanford Alpaca |
| `sharegpt`   | conversations: from, value [system]             | Instruction, Prompt | ShareGPT, LLaMA-Factory |
| `prompt`     | prompt [reference, system]                      | Prompt              | our own |
| `ranks`      | prompt, responses, ranks [system]: 1 is best    | Ranking             | our own |
| `scores`     | prompt, responses, scores [system]: higher is better | Ranking        | K-way sets |
| `pairs`      | chosen, rejected [prompt, system]: answers, messages, or transcripts | Ranking | TRL, hh-rlhf |
| `sharegpt_pairs` | conversations, chosen, rejected [system]    | Ranking             | LLaMA-Factory |
| `transcript` | prompt, "Human: ... Assistant:", beside response; chosen, rejected; or alone | Instruction, Ranking, Prompt | hh-rlhf; only where it is said |
| `text`       | text                                            | Text                | |

Prompts made of conversations end before the assistant's last turn, which becomes the reference.
"""  # noqa: E501 - a table

import dataclasses
from collections.abc import Callable
from typing import Any

from icegrt_jax.data import fields, transcripts
from icegrt_jax.data.converters import Row, alpaca_instruction, ranks_of_scores
from icegrt_jax.data.fields import Messages
from icegrt_jax.data.records import Instruction, Prompt, Ranking, Text
from icegrt_jax.errors import UserError

Values = dict[str, Any]
SHAREGPT_ROLES = {
    "human": "user", "user": "user", "system": "system",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
LAST = "; a conversation to learn from ends with the assistant's answer."


@dataclasses.dataclass(frozen=True)
class Shape:
    """One form of rows.

    Attributes:
      needs: fields without which a row is not of this shape.
      takes: fields that may be missing.
      make: from the values of these fields, and where they stand, to the JSON form of a record.
      said: only read where the source says so, as the columns alone would not tell.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[Values, str], Values]
    takes: tuple[str, ...] = ()
    said: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.needs, *self.takes)


def _own(values: Values, where: str) -> Values:
    return values


def _with_system(make: Callable[[Values, str], Values]) -> Callable[[Values, str], Values]:
    """The same with what a column `system` says put before the conversation."""

    def made(values: Values, where: str) -> Values:
        values = dict(values)
        said = values.pop("system", None)
        obj = make(values, where)
        if said in (None, ""):
            return obj
        name = "messages" if "messages" in obj else "prompt"
        rest = obj[name]
        rest = [{"role": "user", "content": rest}] if isinstance(rest, str) else fields.items(rest, where, name)
        if isinstance(rest[0], dict) and rest[0].get("role") == "system":
            raise UserError(f"{where}: field 'system' beside a conversation that begins with a system message.")
        return {**obj, name: [{"role": "system", "content": fields.nonempty(said, where, "system")}, *rest]}

    return made


def _messages(values: Values, where: str) -> Values:
    value = values["messages"]
    # No list is a text; OpenAI's rows and ours are lists.
    read = transcripts.turns(value, where, "messages") if transcripts.reads_like_one(value) else value
    return {"messages": fields.messages(read, where, "messages")}


def _response(values: Values, where: str) -> Values:
    return {"messages": [*fields.prompt(values, where), _answer(fields.text(values, where, "response"))]}


def _completion(values: Values, where: str) -> Values:
    prompt, completion = fields.prompt(values, where), values["completion"]
    if isinstance(completion, str):
        return {"messages": [*prompt, _answer(fields.text(values, where, "completion"))]}
    return {"messages": [*prompt, *fields.messages(completion, where, "completion")]}


def _alpaca(values: Values, where: str) -> Values:
    # A prompt needs no output.
    obj = alpaca_instruction(Row({"input": "", "output": "", **values}, where))
    return {name: obj[name] for name in ("prompt", "response")}


def _sharegpt(values: Values, where: str) -> Values:
    return {"messages": sharegpt_messages(values["conversations"], where, "conversations")}


def sharegpt_messages(value: Any, where: str, name: str) -> Messages:
    """Turns of the form {from, value} as messages; such as have role and content are taken as they are."""
    turns = []
    for i, turn in enumerate(fields.items(value, where, name)):
        here = f"{name}[{i}]"
        if isinstance(turn, dict) and "role" in turn:
            turns.append(turn)
            continue
        if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
            raise UserError(
                f"{where}: field {here!r} is {fields.shown(turn)}; expected an object with 'from' and 'value'."
            )
        role = SHAREGPT_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
        if role is None:
            got, known = fields.shown(turn["from"]), ", ".join(SHAREGPT_ROLES)
            raise UserError(f"{where}: field '{here}.from' is {got}; expected one of {known}.")
        turns.append({"role": role, "content": fields.nonempty(turn["value"], where, f"{here}.value")})
    return fields.messages(turns, where, name)


def _as_prompt(make: Callable[[Values, str], Values]) -> Callable[[Values, str], Values]:
    """Of a conversation the prompt before the assistant's last turn, which is the reference."""

    def made(values: Values, where: str) -> Values:
        obj = make(values, where)
        if "messages" not in obj:
            return {"prompt": obj["prompt"], "reference": obj["response"]}
        *prompt, last = obj["messages"]
        if last["role"] == "user":
            return {"prompt": [*prompt, last]}
        return {"prompt": prompt or [last], "reference": last["content"]}

    return made


def _scores(values: Values, where: str) -> Values:
    row = Row(values, where)
    ranks = ranks_of_scores(row, len(row.texts("responses")))
    own = {name: values[name] for name in ("prompt", "responses")}
    return {**own, "ranks": ranks, "meta": {"scores": values["scores"]}}


def _pairs(values: Values, where: str) -> Values:
    """Two answers to one prompt: answers, or whole conversations that part at their last turn."""
    given = values.get("prompt")
    prompts, answers = {}, {}
    for name in ("chosen", "rejected"):
        value = [values[name]] if isinstance(values[name], dict) else values[name]
        if isinstance(value, str) and given is not None:
            answers[name] = value
            continue
        if isinstance(value, str) and not transcripts.reads_like_one(value):
            raise UserError(
                f"{where}: field 'prompt' is missing, and {name!r} is {fields.shown(value)}, no whole conversation;"
                " expected a prompt, messages, or a transcript: Human: ..., an empty line, Assistant: ..."
            )
        if isinstance(value, str):
            turns = transcripts.turns(value, where, name)
        else:
            turns = sharegpt_messages(value, where, name)
        if turns[-1]["role"] != "assistant":
            raise UserError(f"{where}: field {name!r}: the last message has role {turns[-1]['role']!r}{LAST}")
        *prompts[name], last = turns
        answers[name] = last["content"]
    return {"prompt": _one_prompt(given, [p for p in prompts.values() if p], where), **answers}


def _one_prompt(given: Any, others: list[list], where: str) -> Any:
    """The prompt that a row gives and that its conversations begin with, which must be the same."""
    if given is None and not others:
        raise UserError(f"{where}: field 'prompt' is missing; the conversations hold the answers alone.")
    if given is None:
        given = others[0]
    elif not isinstance(given, str):
        given = list(fields.messages(given, where, "prompt"))
    for other in others:
        same = other[-1]["content"].strip() == given.strip() if isinstance(given, str) else other == given
        if not same:
            raise UserError(
                f"{where}: the conversations of 'chosen' and 'rejected' and the prompt are not the same up to the last"
                " answer; a pair has one prompt."
            )
        # Where the prompt is the text of the last turn alone, the conversation knows what came before.
        given = other
    return given


def _sharegpt_pairs(values: Values, where: str) -> Values:
    prompt = list(sharegpt_messages(values["conversations"], where, "conversations"))
    return _pairs({"prompt": prompt, "chosen": values["chosen"], "rejected": values["rejected"]}, where)


def _transcript(values: Values, where: str) -> Values:
    return {**values, "prompt": transcripts.prompt_turns(values["prompt"], where, "prompt")}


def _answer(content: str) -> dict:
    return {"role": "assistant", "content": content}


SYSTEM = ("system",)
SHAPES: dict[Any, tuple[Shape, ...]] = {
    Instruction: (
        Shape("response", ("prompt", "response"), _with_system(_response), SYSTEM),
        Shape("messages", ("messages",), _messages),
        Shape("completion", ("prompt", "completion"), _with_system(_completion), SYSTEM),
        Shape("alpaca", ("instruction", "output"), _with_system(_alpaca), ("input", *SYSTEM)),
        Shape("sharegpt", ("conversations",), _with_system(_sharegpt), SYSTEM),
        Shape("transcript", ("prompt", "response"), _transcript, said=True),
    ),
    Ranking: (
        Shape("pairs", ("chosen", "rejected"), _with_system(_pairs), ("prompt", *SYSTEM)),
        Shape("ranks", ("prompt", "responses", "ranks"), _with_system(_own), SYSTEM),
        Shape("scores", ("prompt", "responses", "scores"), _with_system(_scores), SYSTEM),
        Shape("sharegpt_pairs", ("conversations", "chosen", "rejected"), _with_system(_sharegpt_pairs), SYSTEM),
        Shape("transcript", ("prompt", "chosen", "rejected"), _transcript, said=True),
    ),
    Prompt: (
        Shape("prompt", ("prompt",), _with_system(_own), ("reference", *SYSTEM)),
        Shape("messages", ("messages",), _as_prompt(_messages)),
        Shape("alpaca", ("instruction",), _with_system(_as_prompt(_alpaca)), ("output", "input", *SYSTEM)),
        Shape("sharegpt", ("conversations",), _with_system(_as_prompt(_sharegpt)), SYSTEM),
        Shape("transcript", ("prompt",), _transcript, ("reference",), said=True),
    ),
    Text: (Shape("text", ("text",), _own),),
}
# What is a list, where a cell of CSV or Parquet has it as JSON text.
LISTS = ("messages", "conversations", "responses", "ranks", "scores")
