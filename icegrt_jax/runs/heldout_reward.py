"""What a reward model that training never saw makes of every row's answers: a judge that PPO did not learn from.

Of another base, from rankings that the run has not used, it is the nearest to people that costs nothing: what it
prefers was not trained for. One of the same lineage may share ICE-Reward's mistakes, which is said.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax.config.options import EvaluateOptions
from icegrt_jax.data.records import Prompt
from icegrt_jax.evaluation import paired
from icegrt_jax.hosts import sync
from icegrt_jax.models.api import Model
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.members import Members
from icegrt_jax.runs import lineage, rundir, stage_models
from icegrt_jax.runs.answers import Answers, Row
from icegrt_jax.runs.opened import open_model
from icegrt_jax.runs.scoring import Reader, mean_scores, scores_of
from icegrt_jax.sharding.put import shard_tree

LONGEST = 4096  # tokens of prompt and answer, where it was made for more
INSTRUCT = "ICE-Instruct"

Stages = Sequence[tuple[str, ModelConfig, dict]]  # row, shape and parameters of a policy


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model of the run."""

    config: ModelConfig
    params: Any


def measure(
    run: rundir.Run, section: EvaluateOptions, rows: Mapping[str, Row], prompts: Sequence[Prompt], stages: Stages
) -> dict[str, Any]:
    """Adds its scores to the rows, and how often each is preferred to ICE-Instruct; returns what results.json says.

    Nothing where no reward model is named.

    Args:
      prompts: in-domain ones.
      stages: those after the base, with which its lineage is compared.
    """
    if not section.reward_model:
        return {}
    model = open_model(section.reward_model, "reward")
    kin = list(_kin(run, model, section.reward_model, stages))
    for warning in kin:
        if sync.is_main():
            print(f"warning: {warning}", flush=True)
    reader = Reader(model.tokenizer, min(model.config.max_length, LONGEST))
    # Several are whole wherever they are read: the rules of the mesh are for one.
    params = model.params if isinstance(model.params, Members) else shard_tree(model.params, run.mesh)
    cut = 0
    for row in rows.values():
        for at, (group, decoding, found) in enumerate(row.answers):
            if group == "domain":
                scored, lost = _scored(run, reader, params, model.config, prompts, found, section.batch_size)
                cut += lost
                row.answers[at] = (group, decoding, scored)
                _add(row, _name("heldout_reward", decoding), np.mean(_of(scored), axis=0), compared=True)
    if cut:
        print(f"evaluate  {cut} answers lost their end at the {reader.length} tokens of {section.reward_model}")
    for name, row in rows.items():
        for _, decoding, found in row.answers if name != INSTRUCT and INSTRUCT in rows else ():
            other = _answers(rows[INSTRUCT], decoding)
            if found.scores is not None and other is not None:
                _add(row, _name("heldout_wins", decoding), wins(_of(found), _of(other)), compared=False)
    return {"path": section.reward_model, "length": reader.length, "warnings": kin}


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """f64[N], of each prompt the share of pairs whose score of ours is the higher one, ties half; scores f64[K, N].

    The k-th answer is compared with the k-th: they are drawn with the same key.
    """
    draws = min(len(ours), len(theirs))
    ours, theirs = ours[:draws], theirs[:draws]
    return np.mean((ours > theirs) + 0.5 * (ours == theirs), axis=0)


def _scored(
    run: rundir.Run, reader: Reader, params: Any, model: ModelConfig, prompts: Sequence[Prompt], found: Answers,
    batch_size: int,
) -> tuple[Answers, int]:  # fmt: skip
    """The answers with their scores, and how many lost their end."""
    messages, cut = [prompt.prompt for prompt in prompts], 0
    scores: list[np.ndarray] = []
    for texts, finished in zip(found.texts, found.finished, strict=True):
        tokens, mask, lost = reader.read(messages, texts, np.asarray(finished).tolist())
        with jax.set_mesh(run.mesh):
            given: np.ndarray = scores_of(params, model, tokens, mask, batch_size).astype(np.float64)
        scores.append(mean_scores(given))
        cut += lost
    return dataclasses.replace(found, scores=scores), cut


def _add(row: Row, name: str, values: np.ndarray, *, compared: bool) -> None:
    """Takes a number of every prompt as a metric; `compared`: its differences to other rows are a result as well."""
    row.metrics[name], row.intervals[name] = float(values.mean()), list(paired.bootstrap([values]))
    if compared:
        row.numbers[name] = values


def _kin(run: rundir.Run, model: Model, path: str, stages: Stages) -> Iterator[str]:
    """A warning for each model of the run that it goes back to the same one with."""
    own = [(f"the policy {name}", config, params) for name, config, params in stages[-1:]]
    if rundir.known_finished(run, "reward"):
        own.append(("ICE-Reward, which trained it,", *stage_models.stage_params(run, "reward", "reward")))
    for what, config, params in own:
        found = lineage.compare(model, Weights(config, sync.fetch(params)))
        if found.same:
            yield (
                f"evaluate.reward_model={path!r} goes back to the same model as {what} ({found.why}): it may share "
                "what that gets wrong; take one of another base."
            )


def _of(found: Answers) -> np.ndarray:
    assert found.scores is not None
    return np.stack(found.scores)


def _answers(row: Row, decoding: str) -> Answers | None:
    return next((found for group, way, found in row.answers if (group, way) == ("domain", decoding)), None)


def _name(metric: str, decoding: str) -> str:
    return metric if decoding == "sampled" else f"{metric}_{decoding}"


def check(section: EvaluateOptions) -> None:
    """Refuses a folder in which there is no reward model, before anything is trained."""
    if section.reward_model:
        open_model(section.reward_model, "reward")
