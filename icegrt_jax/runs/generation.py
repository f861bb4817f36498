"""A stage's models on the run's mesh: what it does not split, and the layout they sample in."""

from collections.abc import Sequence

import jax

from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.hosts import memory
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.runs.kept import Place, identity
from icegrt_jax.runs.mesh_fit import undivided
from icegrt_jax.runs.session import Session
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import Generation, decode_responses, generate_batches
from icegrt_jax.sampling.layout import layout_bytes, lies_already, rollout_layout, to_rollout, ways_of
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.preemption import stop_if_asked

ARRAYS = ("prompts", "prompt_mask", "tokens", "mask", "finished", "logprobs")  # of a Generation
arrays_of = lambda out: {name: getattr(out, name) for name in ARRAYS}


def show_mesh(run: Session, stage: str, models: dict[str, ModelConfig]) -> None:
    """Says what of the roles' models the mesh does not split; refuses an axis that splits nothing of one."""
    for role, model in models.items():
        for sentence in undivided(role, model, run.mesh):
            print(f"{stage}  mesh: {sentence}", flush=True)


def show_layout(
    run: Session, stage: str, model: ModelConfig, params: dict, *, rows: int, length: int, cache_dtype: str
) -> None:
    """Says how the policy is split while it samples, where that is not how it is split for training."""
    if lies_already(params, model, run.mesh):
        return
    layout = rollout_layout(run.mesh, model, params, run.rollout_tensor)
    held = layout_bytes(params, model, run.mesh, layout, rows=rows, length=length, cache_dtype=cache_dtype)
    sizes = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in held.items())
    print(f"{stage}  rollout: one copy of the weights on {ways_of(layout)} devices; on each: {sizes}", flush=True)


def generate(
    run: Session,
    model: ModelConfig,
    params: dict,
    prompts: Sequence,
    key: jax.Array,
    sampler: SamplerConfig,
    *,
    batch_size: int,
    num_samples: int = 1,
    tokenizer: ChatTokenizer | None = None,
    keep: Place | None = None,
) -> Generation:
    """Answers of a policy whose parameters are placed as in training; `batch_size` prompts at a time.

    `keep`: where they are kept until the stage is finished, and taken from if it was stopped and goes on.
    """
    stop_if_asked()
    tokenizer = tokenizer or run.tokenizer

    params = shard_tree(params, run.mesh)

    def draw() -> Generation:
        layout = rollout_layout(run.mesh, model, params, run.rollout_tensor)
        with memory.explained(f"answers to {len(prompts)} prompts, {batch_size} at a time", "evaluate", "evaluate"):
            return generate_batches(
                key, to_rollout(params, model, run.mesh, layout), model, tokenizer, prompts, sampler,
                num_samples=num_samples, batch_size=batch_size, layout=layout,
            )  # fmt: skip

    if keep is None:
        return draw()
    asked = identity(params, model, key, sampler, prompts, num_samples, batch_size)
    arrays = keep.found(asked, ARRAYS, lambda: arrays_of(draw()))
    return Generation(**arrays, text=decode_responses(arrays["tokens"], arrays["mask"], tokenizer), sampler=sampler)
