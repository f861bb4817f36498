"""What the report shows of an evaluation's answers: ICE-Reward's score of each, and its KL to ICE-Instruct by token."""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.config.options import RewardOptions, ScoreOptions
from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import Prompt
from icegrt_jax.hosts import sync
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs import rundir, score_scale, scoring, stage_models
from icegrt_jax.runs.answers import Answers, Row
from icegrt_jax.runs.samples import rounded
from icegrt_jax.sampling.generate import prompt_arrays
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.forward import response_logprobs

FILE = "shown.jsonl"  # in WORKDIR/evaluate
INSTRUCT = "ICE-Instruct"
TEMPERATURE = 1.0  # at which log-probs are compared, however an answer was drawn

Stages = Sequence[tuple[str, ModelConfig, dict]]  # row, shape and parameters of a policy

compiled_logprobs = functools.partial(jax.jit, static_argnames=("config", "temperature"))(response_logprobs)


class Shown:
    """Some prompts, and what is measured of answers to them, all in batches of one size.

    Args:
      prompts: all in-domain ones. places: of them those that are shown.
      batch_size: answers at a time.
    """

    def __init__(self, run: rundir.Run, prompts: Sequence[Prompt], places: Sequence[int], batch_size: int):
        self.run, self.places, self.prompts = run, list(places), [prompts[i] for i in places]
        self._size = min(batch_size, len(self.places))
        self._asked = prompt_arrays([prompt.prompt for prompt in self.prompts], run.tokenizer)

    def ids(self, found: Answers) -> list[np.ndarray]:
        """Of the first answer to each prompt."""
        return [found.ids[0][i] for i in self.places]

    def logprobs(self, model: ModelConfig, params: dict, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of the tokens of each answer."""
        width = self.run.lengths.max_response_length
        responses, mask = right_pad([row.tolist() for row in ids], width, self.run.tokenizer.pad_id)
        given = (*self._asked, responses, mask)
        params, parts = shard_tree(params, self.run.mesh), []
        with jax.set_mesh(self.run.mesh):
            for begin in range(0, len(ids), self._size):
                rows = np.minimum(np.arange(begin, begin + self._size), len(ids) - 1)  # one shape, one program
                of_rows = (x[rows] for x in given)
                parts.append(compiled_logprobs(params, model, *of_rows, temperature=TEMPERATURE)[0])
        read = np.concatenate(sync.fetch(parts))
        return [read[i, : len(row)] for i, row in enumerate(ids)]

    def scores(self, reward: "Reward", found: Answers) -> np.ndarray:
        """ICE-Reward's score of each answer, f32[N]."""
        texts = [found.texts[0][i] for i in self.places]
        ended = [bool(found.finished[0][i]) for i in self.places]
        tokens, mask, _ = reward.reader.read([prompt.prompt for prompt in self.prompts], texts, ended)
        with jax.set_mesh(self.run.mesh):
            scores = scoring.scores_of(reward.params, reward.config, tokens, mask, self._size)
        return scoring.mean_scores(scores) if reward.scale is None else reward.scale.together(scores, reward.rule)


class Reward:
    """The finished reward model of a run, as it scores answers that are texts."""

    @classmethod
    def of(cls, run: rundir.Run, section: RewardOptions, rule: ScoreOptions) -> "Reward | None":
        """That of the run; None where it has none."""
        return cls(run, section, rule) if rundir.known_finished(run, "reward") else None

    def __init__(self, run: rundir.Run, section: RewardOptions, rule: ScoreOptions):
        self.config, params = stage_models.stage_params(run, "reward", "reward")
        self.params, self.rule, self.scale = params, rule, score_scale.read_scale(run.folder("reward"))
        self.reader = scoring.load_reader(run, section) or scoring.Reader(run.tokenizer, run.lengths.total)


def measured(
    run: rundir.Run, prompts: Sequence[Prompt], places: Sequence[int], batch_size: int, rows: Mapping[str, Row],
    stages: Stages, reward: Reward | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for the prompt at each of some places, with the first answer of every row and decoding.

    Args:
      stages: the policies of the rows; those after ICE-Instruct have a KL to it.
      reward: None where the run has none.
    """
    if not places:
        return []
    shown = Shown(run, prompts, places, batch_size)
    names = [name for name, *_ in stages]
    later = names[names.index(INSTRUCT) + 1 :] if INSTRUCT in names else []
    policies = {name: (model, params) for name, model, params in stages}
    lines = [_line(place, prompt) for place, prompt in zip(shown.places, shown.prompts, strict=True)]
    for name, row in rows.items():
        for group, decoding, found in row.answers:
            if group != "domain":
                continue
            ids, kl, scores = shown.ids(found), None, None
            if name in later:
                own, instruct = (shown.logprobs(*policies[of], ids) for of in (name, INSTRUCT))
                kl = [ours - theirs for ours, theirs in zip(own, instruct, strict=True)]
            if reward is not None:
                scores = shown.scores(reward, found)
            for i, line in enumerate(lines):
                told: dict[str, Any] = {} if scores is None else {"score": float(scores[i])}
                if kl is not None:
                    told |= {"kl": rounded(kl[i]), "tokens": shown.run.tokenizer.pieces(ids[i])}
                place = shown.places[i]
                line["answers"].append(
                    {
                        "row": name, "decoding": decoding, "temperature": found.temperature,
                        "answer": found.texts[0][place], "grades": found.grades[0][place], "length": len(ids[i]),
                        **told,
                    }
                )  # fmt: skip
    return lines


def _line(place: int, prompt: Prompt) -> dict[str, Any]:
    split = {"split": prompt.meta["split"]} if "split" in prompt.meta else {}
    reference = {"reference": prompt.reference} if prompt.reference else {}
    return {"place": place, "prompt": list(prompt.prompt), **reference, **split, "answers": []}


def write(folder: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes the file; without a line what an earlier evaluation has left goes."""
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    files.write_text_atomic(folder / FILE, text)
