"""Answers of several models side by side, graded, and put in order by people or by a function."""

import html
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from icegrt_jax.data.records import Prompt, Ranking
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import judges
from icegrt_jax.models.api import Model
from icegrt_jax.sampling.generate import generate


class Table:
    """Rows of texts and numbers, as text and in a notebook as HTML."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]):
        self.columns = list(columns)
        self.rows = [[x if isinstance(x, str) else f"{x:.4g}" for x in row] for row in rows]

    def __str__(self) -> str:
        return "\n\n".join("\n".join(f"{name}: {x}" for name, x in zip(self.columns, row)) for row in self.rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in self.columns)
        # One long word of a model that knows none would leave the other columns a word's width.
        style = "text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere"
        cells = lambda row: "".join(f'<td style="{style}">{html.escape(x)}</td>' for x in row)
        body = "".join(f"<tr>{cells(row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def answers(
    models: Mapping[str, Model], prompts: Sequence, *, max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0
) -> Table:
    """What each model answers, a column each; greedily by default."""
    said = {name: _said(model, prompts, max_new_tokens, temperature, seed) for name, model in models.items()}
    rows = [[words_of(prompt), *(texts[i] for texts in said.values())] for i, prompt in enumerate(prompts)]
    return Table(["prompt", *said], rows)


def graded(
    models: Mapping[str, Model],
    prompts: Sequence[Prompt],
    judge: str | Callable[[Prompt, str], float | Mapping[str, float]],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
) -> Table:
    """The mean grade of each model's answers, a row each.

    Args:
      judge: a name or FILE.py:FUNCTION as in a config, or a function of a record and an answer that returns a number in
        [0, 1], or several by name.
    """
    one = judges.load("judge", judge) if isinstance(judge, str) else judges.Judge("judge", judge)
    one.check(prompts)
    means = {}
    for name, model in models.items():
        texts = _said(model, prompts, max_new_tokens, temperature, seed)
        means[name] = judges.mean_grades(judges.grade_all([one] * len(texts), prompts, texts))
    names = dict.fromkeys(what for row in means.values() for what in row)
    columns = [*one.shows(names), "gold", *(name for name in one.harms if name in names)]
    return Table(["model", *columns], [[name, *(row[what] for what in columns)] for name, row in means.items()])


def to_rank(prompts: Sequence, responses: Sequence[str]) -> Table:
    """Answers under letters, for a person to put in order.

    Args:
      responses: as many to each prompt, those to one prompt neighbours, as `generate` gives them.
    """
    each = _each(prompts, responses)
    letters = string.ascii_uppercase[:each]
    rows = [[words_of(prompt), *responses[i * each : (i + 1) * each]] for i, prompt in enumerate(prompts)]
    return Table(["prompt", *letters], rows)


def ranked(prompts: Sequence, responses: Sequence[str], orders: Sequence[str]) -> list[Ranking]:
    """Rankings as `ice.train_reward` takes them.

    Args:
      orders: of each prompt the letters of `to_rank`, the best first, such as "B > A = C"; "" leaves the prompt out.
    """
    each = _each(prompts, responses)
    if len(orders) != len(prompts):
        raise UserError(f"{len(orders)} orders for {len(prompts)} prompts; give one for each, '' to leave one out.")
    found = []
    for i, (prompt, order) in enumerate(zip(prompts, orders)):
        if order.strip():
            ranks = _ranks(order, string.ascii_uppercase[:each], f"orders[{i}]")
            said = list(responses[i * each : (i + 1) * each])
            row = {"prompt": list(messages_of(prompt)), "responses": said, "ranks": list(ranks)}
            found.append(Ranking.from_json(row, f"orders[{i}]"))
    if not found:
        raise UserError("orders: none of them says anything.")
    return found


def ranked_by(
    rank: Callable[[Prompt, Sequence[str], str], Sequence[float]], prompts: Sequence[Prompt], responses: Sequence[str]
) -> list[Ranking]:
    """The same, ordered by a function such as `rank` of a domain; prompts with one answer only are left out.

    Args:
      rank: of a record, its answers, all different, and a seed; gives their ranks, the lowest is best.
    """
    each, found = _each(prompts, responses), []
    for i, record in enumerate(prompts):
        said = list(dict.fromkeys(responses[i * each : (i + 1) * each]))
        if len(said) > 1:
            found.append(Ranking(record.prompt, tuple(said), tuple(rank(record, said, str(i)))))
    return found


def _ranks(order: str, letters: str, where: str) -> tuple[float, ...]:
    groups = [[letter.strip() for letter in group.split("=")] for group in order.upper().split(">")]
    if sorted(letter for group in groups for letter in group) != list(letters):
        raise UserError(f"{where}={order!r}; expected each of {', '.join(letters)} once, such as 'B > A = C'.")
    return tuple(float(1 + next(i for i, group in enumerate(groups) if letter in group)) for letter in letters)


def _said(model: Model, prompts: Sequence, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
    asked = [_asked(prompt) for prompt in prompts]
    key = jax.random.key(seed)
    return generate(model, asked, key=key, max_new_tokens=max_new_tokens, temperature=temperature).text


def _each(prompts: Sequence, responses: Sequence[str]) -> int:
    each, left = divmod(len(responses), max(len(prompts), 1))
    if left or not each or each > len(string.ascii_uppercase):
        raise UserError(f"{len(responses)} responses to {len(prompts)} prompts; expected as many for each, 26 at most.")
    return each


def messages_of(prompt: Any) -> Sequence[dict]:
    """Of a record, a string or a chat."""
    asked = _asked(prompt)
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else asked


def _asked(prompt: Any) -> Any:
    """A record's messages; a string or a chat as it is."""
    if isinstance(prompt, Prompt):
        return list(prompt.prompt)
    return prompt["prompt"] if isinstance(prompt, Mapping) else prompt


def words_of(prompt: Any) -> str:
    """The last message of a prompt, in one line."""
    return " ".join(str(messages_of(prompt)[-1]["content"]).split())
