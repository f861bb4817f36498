"""PPO's programs: to the rollout's layout, the sampler, what the roles read, score and update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from icegrt_jax.config.options import LengthOptions, PPOOptions
from icegrt_jax.plan import shapes
from icegrt_jax.plan.costs import Decoding
from icegrt_jax.plan.program import IDS, MASK, Program, held, lower_step, within
from icegrt_jax.runs import sections
from icegrt_jax.runs.scoring import compiled_scores
from icegrt_jax.sampling import compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import as_computed, lies_already, moved_to_rollout, rollout_layout
from icegrt_jax.sampling.sampler import prompts_at_a_time
from icegrt_jax.training.first_check import disagreement
from icegrt_jax.training.ppo import ppo_update, read_roles, read_scores, score
from icegrt_jax.training.state import Opinions, TrainState


def ppo_programs(
    ppo: PPOOptions, lengths: LengthOptions, mesh: Mesh, state: TrainState, *, rollout_tensor: int, text_length: int
) -> list[Program]:
    """All of them, as the stage runs them.

    Args:
      state: abstract, see `shapes.ppo_state`.
      rollout_tensor: of the mesh.
      text_length: tokens of prompt and answer that a reward model with a tokenizer of its own reads.
    """
    state = shapes.placed(state, mesh)
    rows = ppo.batch_size * ppo.samples_per_prompt
    minibatch = rows // ppo.num_minibatches
    like = functools.partial(
        Program, stage="ppo", batch_key="ppo.batch_size", rows=rows, params=held(state),
        model=state.model("policy"), block=ppo.score_batch or rows, length=lengths.max_response_length,
    )  # fmt: skip
    sampling, rollout = _sampling(ppo, lengths, rollout_tensor, mesh, state, like, rows)
    rollout = shapes.split_rows(rollout, mesh, rows)
    program = functools.partial(like, resident=(state, rollout))
    reading, read = _reading(text_length, mesh, state, rollout, program, redraw=bool(ppo.redraw))
    if ppo.score.baseline != "none":
        named, baseline = _references(ppo, lengths, text_length, mesh, state, rollout, program)
        reading, read = [*reading, named], (*(read or (None, None, None)), baseline)
    if state.source_stats:
        numbers = shapes.batch(mesh, numbers=(IDS, rows))["numbers"]
        read = (*read, *(None,) * (4 - len(read)), numbers)
    _, experience, _ = jax.eval_shape(score, state, rollout, *read)
    experience = shapes.split_rows(experience, mesh, rows)
    if ppo.ptx.coef:
        ids = (IDS, ppo.ptx.batch_size, ppo.ptx.length)
        experience = experience.replace(
            ptx=shapes.batch(mesh, tokens=ids, segment_ids=ids, positions=ids, loss_mask=(MASK, *ids[1:]))
        )
    return [
        *sampling,
        program(name="first check", lower=within(mesh, disagreement, state, rollout), repeats=0),
        *reading,
        program(name="score", lower=lower_step(score, mesh, state, rollout, *read)),
        program(
            name="ppo update", lower=lower_step(ppo_update, mesh, state, experience), resident=(state, experience),
            block=min(ppo.microbatch or minibatch, minibatch),
        ),
    ]  # fmt: skip


def _sampling(
    ppo: PPOOptions, lengths: LengthOptions, rollout_tensor: int, mesh: Mesh, state: TrainState,
    like: Callable[..., Program], rows: int,
) -> tuple[list[Program], Any]:  # fmt: skip
    """The programs of a rollout of `rows` responses, and the abstract rollout."""
    model, new = state.model("policy"), lengths.max_response_length
    policy = shapes.placed(jax.eval_shape(lambda state: state.full("policy"), state), mesh)
    layout = rollout_layout(mesh, model, policy, rollout_tensor)
    copy, programs, held_too = policy, [], ()
    if not lies_already(policy, model, mesh):
        copy = jax.eval_shape(functools.partial(as_computed, dtype=model.dtype), policy)
        copy = held_too = shapes.placed(copy, layout)
        move = functools.partial(moved_to_rollout.lower, policy, dtype=model.dtype, mesh=mesh, rollout=layout)
        programs.append(like(name="to rollout", batch_key="", lower=move, resident=(state,), model=None))
    asked = shapes.split_rows({
        "keys": jax.eval_shape(lambda key: sequence_keys(key, 0, rows), jax.random.key(0)),
        "tokens": jax.ShapeDtypeStruct((ppo.batch_size, lengths.max_prompt_length), IDS),
        "mask": jax.ShapeDtypeStruct((ppo.batch_size, lengths.max_prompt_length), MASK),
    }, layout, None)  # fmt: skip
    # Which ids end and fill a response changes no program.
    static = {
        "model": model, "config": sections.sampler_config(ppo, new, eos_ids=(2,), pad_id=0),
        "num_samples": ppo.samples_per_prompt, "slots": ppo.rollout_slots,
    }  # fmt: skip
    arguments = (asked["keys"], copy, asked["tokens"], asked["mask"])
    with jax.set_mesh(layout):
        rollout = jax.eval_shape(functools.partial(compiled_sampler, **static), *arguments)
    slots = min(ppo.rollout_slots or rows, rows)
    at_a_time = prompts_at_a_time(ppo.batch_size, ppo.samples_per_prompt, slots)
    # Every response has its full length, so a round of slots ends at once; its first tokens are drawn by the prefill.
    decoding = Decoding(steps=-(-rows // slots) * (new - 1), refills=-(-ppo.batch_size // at_a_time))
    programs.append(like(
        name="rollout", lower=within(layout, compiled_sampler, *arguments, **static),
        resident=(state, held_too, asked), weights=copy, decoding=decoding, model=None,
    ))  # fmt: skip
    return programs, rollout


def _reading(
    length: int, mesh: Mesh, state: TrainState, rollout, program, *, redraw: bool
) -> tuple[list[Program], tuple]:
    """What runs before `score` where text is read, by a reward model or functions, and what it hands over.

    With `redraw` the reward model has read the responses before they are chosen, and the other roles read in `score`.
    """
    models, rows = dict(state.models), rollout.mask.shape[0]
    by_text = "reward" in models and models["reward"].vocab_size != models["policy"].vocab_size
    if not (by_text or state.ppo.rewards or redraw):
        return [], ()
    by_ids = "reward" in models and not by_text
    verdicts = shapes.batch(mesh, scores=(jnp.float32, rows, *_members(state)))["scores"]
    if redraw:
        read, lower = None, within(mesh, jax.jit(read_scores), state, rollout)
        programs = [program(name="reward scores", lower=lower)] if by_ids else []
    else:
        found = jax.eval_shape(functools.partial(read_roles, reward=by_ids), state, rollout)
        read, of_roles = shapes.split_rows(found, mesh, rows), jax.jit(read_roles, static_argnames="reward")
        programs = [program(name="read roles", lower=within(mesh, of_roles, state, rollout, reward=by_ids))]
    said = {
        name: Opinions(**shapes.batch(mesh, values=(jnp.float32, rows), known=(MASK, rows)))
        for name, _ in state.ppo.rewards
    }
    if not by_text:
        return programs, (verdicts if redraw and by_ids else None, read, said)
    texts = shapes.batch(mesh, tokens=(IDS, rows, length), mask=(MASK, rows, length))
    reward = shapes.placed(jax.eval_shape(lambda state: state.full("reward"), state), mesh)
    of_texts = program(
        name="read texts", lower=within(mesh, compiled_scores, reward, config=state.model("reward"), **texts),
        resident=(state, rollout, texts, read), model=None,
    )  # fmt: skip
    return [*programs, of_texts], (verdicts, read, said)


def _references(
    ppo: PPOOptions, lengths: LengthOptions, text_length: int, mesh: Mesh, state: TrainState, rollout, program
) -> tuple[Program, jax.Array]:
    """What scores the prompts' reference answers, and the abstract scores f32[prompts]."""
    models, rows = dict(state.models), ppo.batch_size
    same = models["reward"].vocab_size == models["policy"].vocab_size
    ids = (rows, lengths.total if same else text_length)
    texts = shapes.batch(mesh, tokens=(IDS, *ids), mask=(MASK, *ids))
    reward = shapes.placed(jax.eval_shape(lambda state: state.full("reward"), state), mesh)
    named = program(
        name="read references", lower=within(mesh, compiled_scores, reward, config=models["reward"], **texts),
        resident=(state, rollout, texts), model=None,
    )  # fmt: skip
    return named, shapes.batch(mesh, scores=(jnp.float32, rows, *_members(state)))["scores"]


def _members(state: TrainState) -> tuple[int, ...]:
    """Of the scores the axis of reward models, where there are several."""
    return state.members["mean"].shape if state.members else ()
