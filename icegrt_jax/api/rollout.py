"""A scored rollout as a person looks at it: texts, numbers by token, a table of one response."""

import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from icegrt_jax.data.records import Messages, Prompt
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.rl import kl_estimate
from icegrt_jax.runs.iteration import Sampled
from icegrt_jax.training.rewards import final_scores, rewards_of
from icegrt_jax.training.state import PPOConfig

COLUMNS = ("log-prob", "reference", "value", "advantage", "reward")


class ScoredRollout:
    """What an iteration of PPO sampled, and what came of it; numbers come to the host when they are first asked for.

    Attributes:
      records: the record of each of the B responses. text: the responses.
      scores: f32[B], the reward model's raw scores; None without such a model.
      scaled: f32[B], what the penalties are taken off: the sum of weighted, scaled scores.
      opinions: {name: what that reward function says of each response, None for no opinion}.

    >>> model = ice.load_model("models/policy")
    >>> short = lambda prompts, responses, records: [-len(text) for text in responses]
    >>> training = ice.ppo(model, ["the cat"] * 8, reward=short, iterations=1, batch_size=8, max_response_length=4)
    >>> step, metrics, rollout = next(training)
    >>> rollout.tokens.shape, rollout.values.shape, len(rollout.text)
    ((8, 4), (8, 4), 8)
    >>> print(rollout.show(0))  # doctest: +ELLIPSIS
    response 1 of 8 to: the cat
    ...
    """

    def __init__(self, sampled: Sampled, metrics: Mapping[str, Any], config: PPOConfig, tokenizer: ChatTokenizer):
        self.records: Sequence[Prompt] = sampled.records
        self.text: list[str] = sampled.responses
        self.opinions = dict(sampled.answer.values)
        self._arrays = (sampled.rollout, sampled.experience)
        self._metrics, self._config, self._tokenizer = metrics, config, tokenizer

    def __len__(self) -> int:
        return len(self.text)

    @property
    def prompts(self) -> list[Messages]:
        """The messages of each response's prompt."""
        return [record.prompt for record in self.records]

    @functools.cached_property
    def _host(self):
        """Rollout and experience on the host."""
        return sync.fetch(self._arrays)

    @property
    def tokens(self) -> np.ndarray:
        """The responses, i32[B, T], right-padded."""
        return self._host[0].responses

    @property
    def mask(self) -> np.ndarray:
        """bool[B, T], True up to and including the first EOS."""
        return self._host[0].mask

    @property
    def finished(self) -> np.ndarray:
        """bool[B], whether a response ended with EOS."""
        return self._host[0].finished

    @property
    def logprobs(self) -> np.ndarray:
        """f32[B, T], of each token under the policy that sampled it."""
        return self._host[1].old_logprobs

    @property
    def ref_logprobs(self) -> np.ndarray:
        """f32[B, T], the same under the reference."""
        return self._host[1].ref_logprobs

    @property
    def values(self) -> np.ndarray | None:
        """f32[B, T], what the critic expected before each token; None without a critic."""
        return self._host[1].values

    @property
    def advantages(self) -> np.ndarray:
        """f32[B, T], as the policy learns from them."""
        return self._host[1].advantages

    @property
    def returns(self) -> np.ndarray | None:
        """f32[B, T], as the critic learns them; None without a critic."""
        return self._host[1].returns

    @functools.cached_property
    def rewards(self) -> np.ndarray:
        """f32[B, T], of each token: the KL penalty where it is in the reward, and `penalized` at the last one."""
        kl = kl_estimate(self.logprobs, self.ref_logprobs, "k1", self.mask)
        kl_coef = np.float32(self._metrics["kl_coef"])
        return np.asarray(rewards_of(self._config, self.penalized, kl, self.mask, kl_coef))

    @functools.cached_property
    def penalized(self) -> np.ndarray:
        """f32[B], `scaled` less the penalties for answers that were cut off or long: what the last token is given."""
        return np.asarray(final_scores(self._config, self.scaled, self.finished, self.mask))

    @property
    def scores(self) -> np.ndarray | None:
        return self._metrics.get("score_histogram")

    @property
    def scaled(self) -> np.ndarray:
        return self._metrics["scaled_histogram"]

    def show(self, i: int = 0) -> "Table":
        """A table of the i-th response: of each token its log-prob, the reference's, advantage and reward, and with a
        critic the value.

        In a notebook it is drawn, elsewhere printed.
        """
        if not -len(self) <= i < len(self):
            raise UserError(f"i={i}; the rollout has {len(self)} responses, 0 to {len(self) - 1}.")
        i %= len(self)
        keep = self.mask[i]
        names = list(map(repr, self._tokenizer.pieces(self.tokens[i][keep])))
        arrays = (self.logprobs, self.ref_logprobs, self.values, self.advantages, self.rewards)
        columns = {name: x[i][keep] for name, x in zip(COLUMNS, arrays, strict=True) if x is not None}
        said = [] if self.scores is None else [f"reward model {self.scores[i]:.4g}"]
        said += [
            f"{name} {'none' if values[i] is None else f'{values[i]:.4g}'}" for name, values in self.opinions.items()
        ]
        said += [f"scaled {self.scaled[i]:.4g}"]
        if self.penalized[i] != self.scaled[i]:
            said += [f"with penalties {self.penalized[i]:.4g}"]
        said += ["ended" if self.finished[i] else "cut off"]
        prompt = " ".join(str(self.records[i].prompt[-1]["content"]).split())
        title = f"response {i + 1} of {len(self)} to: {prompt}"
        return Table(title, "score: " + ", ".join(said), names, columns)


class Table:
    """Numbers of tokens, as text and, in a notebook, as HTML."""

    def __init__(self, title: str, said: str, names: list[str], columns: Mapping[str, np.ndarray]):
        self.title, self.said, self.names, self.columns = title, said, names, dict(columns)
        self.numbers = np.stack(list(self.columns.values()), axis=1)

    def __str__(self) -> str:
        rows = [("token", *self.columns), *self._cells(), ("sum", *(f"{x:.3f}" for x in self.numbers.sum(axis=0)))]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            f"{row[0]:<{widths[0]}}  {'  '.join(f'{x:>{w}}' for x, w in zip(row[1:], widths[1:]))}" for row in rows
        ]
        return "\n".join([self.title, *lines, self.said])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("token", *self.columns))
        advantages = self.columns["advantage"]
        limit = float(np.abs(advantages).max(initial=0.0)) or 1.0
        body = ""
        for cells, advantage in zip(self._cells(), advantages):
            hue = "46, 125, 50" if advantage > 0 else "198, 40, 40"  # green: made likelier, red: less likely
            colour = f"rgba({hue}, {0.5 * abs(advantage) / limit:.2f})"
            first = f'<td style="background: {colour}; text-align: left"><code>{html.escape(cells[0])}</code></td>'
            body += f"<tr>{first}{''.join(f'<td>{x}</td>' for x in cells[1:])}</tr>"
        return (
            f"<table><caption>{html.escape(self.title)}<br>{html.escape(self.said)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _cells(self) -> list[tuple[str, ...]]:
        return [(name, *(f"{x:.3f}" for x in row)) for name, row in zip(self.names, self.numbers, strict=True)]
