"""A model of ours for lm-evaluation-harness, under the name `icegrt`. Imports lm_eval, of the extra `eval`.

`python -m icegrt_jax.runs.harness` is the harness's own command with that name in it.

What is read of a context and a continuation - BOS, the prefix of an empty context, what is cut of a long text - is what
the harness's own `hf` backend reads of the same folder.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jinja2
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from icegrt_jax.config.choices import Dtype
from icegrt_jax.data import template
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation.harness import generate, score, stops
from icegrt_jax.models.api import Model
from icegrt_jax.runs.opened import open_model
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.layout import as_computed, rollout_layout, to_rollout
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.rules import row_parts

NAME = "icegrt"
IN_FLIGHT = 16  # responses generated at a time for each device that has rows of its own
# Names that tasks have for how many tokens a response may have, the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@register_model(NAME)
class HarnessModel(TemplateLM):
    """`--model icegrt --model_args checkpoint=FOLDER,dtype=bfloat16`, or of a `Model` that a program holds.

    Args:
      checkpoint: a Hugging Face folder or a name on the hub, a .gguf file, the folder of a finished stage or of a run.
      model: in place of a checkpoint.
      dtype: of the computation.
      batch_size: responses in flight at a time, "auto" for as many as suits the devices.
      batch_tokens: tokens scored at a time; 0: as many as suits the devices.
      max_length: tokens of a sequence at most; 0: those that the model was made for.
      max_gen_toks: tokens of a response where the task does not say.
      add_bos_token: whether BOS comes first; None: as the tokenizer does it.
      prefix_token_id: what comes before a text without a context; None: BOS, else EOS.
      seed: of responses that are drawn.
      data, fsdp, tensor: the devices as a grid, as in a config's `mesh`.
      device, max_batch_size: given by the harness; JAX's devices are used, and batches need no trying out.
    """

    def __init__(
        self,
        checkpoint: str | pathlib.Path = "",
        *,
        model: Model | None = None,
        dtype: Dtype = "float32",
        batch_size: int | str = "auto",
        batch_tokens: int = 0,
        max_length: int = 0,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        seed: int = 0,
        data: int = -1,
        fsdp: int = 1,
        tensor: int = 1,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        del device, max_batch_size
        if (model is None) == (not checkpoint):
            raise UserError("model_args: expected checkpoint=FOLDER, of a model or of a finished stage.")
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype={dtype!r}; expected 'float32' or 'bfloat16'.")
        self.name = str(checkpoint) or "model"
        model = model or open_model(checkpoint, chat=False)
        model.need_logits(self.name)
        self.chat_tokenizer, self.tokenizer = model.tokenizer, model.tokenizer.tokenizer
        self.config = dataclasses.replace(model.config, dtype=dtype)
        self.mesh = _mesh(data, fsdp, tensor)
        self.params = as_computed(model.params, dtype=dtype)
        if self.mesh is not None:
            self.params = shard_tree(self.params, self.mesh)
        parts = 1 if self.mesh is None else row_parts(self.mesh)
        self.in_flight = IN_FLIGHT * parts if str(batch_size).startswith("auto") else int(batch_size)
        self.batch_tokens = int(batch_tokens) or score.batch_tokens() * parts
        self.max_length, self.max_gen_toks = int(max_length) or self.config.max_length, int(max_gen_toks)
        self.add_bos_token, self.given_prefix, self.seed = add_bos_token, prefix_token_id, int(seed)
        self._encoded = functools.lru_cache(maxsize=8)(self._encode)  # a question is asked with each of its choices

    @property
    def eot_token_id(self) -> int:
        return self.chat_tokenizer.eos_id if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        if self.given_prefix is not None:
            return int(self.given_prefix)
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.chat_tokenizer.fingerprint

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, without its system message where the template takes none."""
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name}: no chat template; add chat_template.jinja, or ask without one.")

        def render(messages):
            return self.tokenizer.apply_chat_template(
                template.as_read(self.tokenizer, messages), tokenize=False,
                add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt,
            )  # fmt: skip

        try:
            return render(chat_history)
        except jinja2.TemplateError:
            return render([message for message in chat_history if message["role"] != "system"])

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results."""
        config = self.config
        return {"model_num_parameters": config.num_params, "model_dtype": config.dtype, "checkpoint": self.name}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """Ids, BOS first where the tokenizer puts it there or `add_bos_token` says so, but not twice."""
        return list(self._encoded(string, add_special_tokens))

    def _encode(self, string: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        how = self.add_bos_token if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            how = False
        given = {} if how is None else {"add_special_tokens": how}
        return tuple(self.tokenizer.encode(string, **given))

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **kwargs) -> list[tuple[float, bool]]:
        asked = []
        for said, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise UserError(
                    f"{self.name}: a continuation of {len(continuation)} tokens, {str(said)[-80:]!r}; expected 1 to "
                    f"{self.max_length}, the most that the model reads."
                )
            asked.append(score.request(context, continuation, self.max_length))
        with self._devices(), tqdm(total=len(asked), desc="loglikelihood", disable=disable_tqdm) as bar:
            found = score.loglikelihoods(
                self.params, self.config, asked, tokens=self.batch_tokens, place=self._place, done=bar.update
            )
        for (said, *_), answer in zip(requests, found, strict=True):
            if said is not None:
                self.cache_hook.add_partial("loglikelihood", said, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the most tokens that the model reads."""
        windows, texts = [], [request.args[0] for request in requests]
        for i, text in enumerate(texts):
            rolled = get_rolling_token_windows(
                token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length,
                context_len=1,
            )  # fmt: skip
            windows += [(i, make_disjoint_window(window)) for window in rolled]
        found = self._loglikelihood_tokens([(None, *window) for _, window in windows], disable_tqdm=disable_tqdm)
        totals = [0.0] * len(texts)
        for (i, _), (logprob, _) in zip(windows, found, strict=True):
            totals[i] += logprob
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Responses, each up to its first stop string."""
        texts = [""] * len(requests)
        groups: dict[Drawing, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(_drawing(request.args[1], self.max_gen_toks), []).append(i)
        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as bar:
            for number, (drawing, places) in enumerate(groups.items()):
                answers = self._respond(number, drawing, [requests[i].args[0] for i in places], bar.update)
                for i, answer in zip(places, answers, strict=True):
                    texts[i] = answer
                    self.cache_hook.add_partial("generate_until", requests[i].args, answer)
        return texts

    def _respond(self, number: int, drawing: "Drawing", contexts: Sequence[str], done) -> list[str]:
        longest = self.max_length - drawing.max_new_tokens
        if longest < 1:
            raise UserError(
                f"max_gen_toks={drawing.max_new_tokens} leaves no room for a prompt in the {self.max_length} tokens "
                "that the model reads; ask for fewer."
            )
        prompts = [(self.tok_encode(text) or [self.prefix_token_id])[-longest:] for text in contexts]
        sampler = SamplerConfig(
            max_new_tokens=drawing.max_new_tokens, temperature=drawing.temperature, top_k=drawing.top_k,
            top_p=drawing.top_p, min_p=drawing.min_p, eos_ids=self.chat_tokenizer.eos_ids,
            pad_id=self.chat_tokenizer.pad_id,
        )  # fmt: skip
        until = [*drawing.until, self.tokenizer.decode([self.eot_token_id])]
        with self._devices(self._layout):
            found = generate.responses(
                jax.random.fold_in(jax.random.key(self.seed), number), self._sampling_params, self.config, prompts,
                sampler, stops.table(self._token_texts, until), batch_size=self.in_flight, done=done,
                place=functools.partial(self._place, mesh=self._layout),
            )  # fmt: skip
        return [stops.cut(self.chat_tokenizer.decode(tokens), until) for tokens in found]

    @functools.cached_property
    def _token_texts(self) -> list[bytes]:
        return stops.token_texts(self.tokenizer, self.config.vocab_size)

    @functools.cached_property
    def _layout(self):
        return None if self.mesh is None else rollout_layout(self.mesh, self.config, self.params)

    @functools.cached_property
    def _sampling_params(self) -> dict:
        if self.mesh is None:
            return self.params
        return to_rollout(self.params, self.config, self.mesh, self._layout)

    def _devices(self, mesh=None):
        mesh = mesh or self.mesh
        return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)

    def _place(self, batch, mesh=None):
        mesh = mesh or self.mesh
        return jax.tree.map(jnp.asarray, batch) if mesh is None else shard_batch(batch, mesh)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How responses are drawn, up to which strings."""

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def _drawing(given: dict[str, Any], max_new_tokens: int) -> Drawing:
    """What a task's `generation_kwargs` ask for; what we do not have is refused."""
    rest = dict(given)
    lengths = [value for name in LENGTHS if (value := rest.pop(name, None)) is not None]
    until = rest.pop("until", None) or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    temperature, sample = float(rest.pop("temperature", 0.0) or 0.0), rest.pop("do_sample", None)
    if sample and temperature == 0.0:
        temperature = 1.0
    restrictions = {name: rest.pop(name) for name in ("top_k", "top_p", "min_p") if rest.get(name) is not None}
    if rest:
        raise UserError(
            f"generation_kwargs: {', '.join(rest)} is not known here; expected until, {LENGTHS[0]}, do_sample, "
            "temperature, top_k, top_p and min_p."
        )
    if sample is False:
        temperature = 0.0
    return Drawing(until, int(lengths[0] if lengths else max_new_tokens), temperature, **restrictions)


def _mesh(data: int, fsdp: int, tensor: int):
    """The devices as a grid; None: one device."""
    sizes = (int(data), int(fsdp), int(tensor))
    count = None if -1 in sizes else math.prod(sizes)
    mesh = make_mesh(*sizes, devices=jax.devices()[:count])
    return None if mesh.size == 1 else mesh


if __name__ == "__main__":  # the harness's own command, which knows no models but its own
    cli_evaluate()
