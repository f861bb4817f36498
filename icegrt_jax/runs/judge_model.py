"""The judge `model`: a language model at an endpoint, or one that is opened here, asked by `evaluation.asked`."""

import functools
import hashlib
import pathlib
import weakref
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from icegrt_jax.config.choices import MODEL
from icegrt_jax.config.options import JudgeModelOptions
from icegrt_jax.data.fields import Messages
from icegrt_jax.data.records import Prompt
from icegrt_jax.evaluation import judges
from icegrt_jax.evaluation.asked import wording
from icegrt_jax.evaluation.asked.endpoint import Endpoint
from icegrt_jax.evaluation.asked.panel import Asker, Panel, Unjudged
from icegrt_jax.evaluation.asked.replies import Replies
from icegrt_jax.evaluation.judges import Judge
from icegrt_jax.hosts import sync
from icegrt_jax.models.api import Model
from icegrt_jax.models.tree import flatten
from icegrt_jax.runs.opened import open_model
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import generate_batches

DAY = 86_400.0  # seconds that other processes wait for the main one, which asks
LOOKED_AT = 256  # numbers of each parameter that tell one model from another


class LocalModel:
    """A model in a folder, answering greedily."""

    def __init__(self, model: Model, name: str, *, max_tokens: int, at_once: int):
        model.need_logits(name)
        self._model, self._name, self._at_once = model, name, at_once
        tokenizer = model.tokenizer
        self._sampler = SamplerConfig(
            max_new_tokens=max_tokens, temperature=0.0, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id
        )
        self.identity: Mapping[str, Any] = {
            "weights": fingerprint(model), "tokenizer": tokenizer.fingerprint, "max_tokens": max_tokens
        }  # fmt: skip

    def ask_all(self, conversations: Sequence[Messages]) -> Generator[tuple[int, str | Unjudged], None, None]:
        """Replies, so many at a time; a conversation that the model cannot read whole has none."""
        tokenizer, longest = self._model.tokenizer, self._model.config.max_length - self._sampler.max_new_tokens
        asked = {i: tokenizer.encode_prompt(tokenizer.disarmed(one)) for i, one in enumerate(conversations)}
        for i, ids in asked.items():
            if len(ids) > longest:
                room = f"has {max(longest, 0)} tokens of room for a question, and it has {len(ids)}"
                yield i, Unjudged(f"{room}; use one that reads more, or a smaller max_tokens")
        places = sorted((i for i, ids in asked.items() if len(ids) <= longest), key=lambda i: len(asked[i]))
        for start in range(0, len(places), self._at_once):
            batch = places[start : start + self._at_once]
            out = generate_batches(
                jax.random.key(0), self._model.params, self._model.config, tokenizer, [asked[i] for i in batch],
                self._sampler, batch_size=len(batch),
            )  # fmt: skip
            yield from zip(batch, out.text, strict=True)


_opened: weakref.WeakValueDictionary[JudgeModelOptions, LocalModel] = weakref.WeakValueDictionary()


def panel(section: JudgeModelOptions) -> Panel:
    """The judge that a section names, with its memory. A local model is held as long as anybody holds it."""
    asker: Asker
    if section.url:
        asker = Endpoint(section)
    elif (local := _opened.get(section)) is not None:
        asker = local
    else:
        path = pathlib.Path(section.model).expanduser()
        model = open_model(path if path.exists() else section.model, "policy")
        asker = local = LocalModel(model, section.model, max_tokens=section.max_tokens, at_once=section.at_once)
        _opened[section] = local
    return Panel(section.model, asker, Replies(section.cache))


def load(key: str, name: str, domain: str = "", model: JudgeModelOptions | None = None) -> Judge:
    """As `judges.load`, with the judge that `model` says under its name; it is opened when it is first asked."""
    if name != MODEL or model is None:
        return judges.load(key, name, domain)
    opened = functools.cache(lambda: panel(model))
    titles = {criterion: criterion for criterion in wording.CRITERIA}
    batch = lambda records, answers: opened().grades(records, answers)
    return Judge(name, lambda record, answer: batch([record], [answer])[0], metrics=titles, batch=batch)


def grade_all(judges_: Sequence[Judge], records: Sequence[Prompt], answers: Sequence[str]) -> list[dict[str, float]]:
    """As `judges.grade_all`; of several processes the main one asks a judge that is a model, once for all of them."""
    grade = functools.partial(judges.grade_all, judges_, records, answers)
    if all(judge.batch is None for judge in judges_):
        return grade()
    return sync.from_main("answers are judged by a model", grade, DAY)


def fingerprint(model: Model) -> str:
    """Tells one set of weights from another by some numbers of each parameter, spread over it."""
    digest = hashlib.sha256(repr(model.config).encode())
    for path, leaf in sorted(flatten(model.params).items()):
        flat = np.asarray(leaf).reshape(-1)
        digest.update(path.encode() + repr(leaf.shape).encode())
        digest.update(np.ascontiguousarray(flat[:: max(1, len(flat) // LOOKED_AT)]).tobytes())
    return digest.hexdigest()
