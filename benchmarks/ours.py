"""icegrt_jax as a contender, through its own samplers and steps. One function per contender, run by `worker.py`."""

import dataclasses
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import random_tokens
from icegrt_jax.data.packing import left_pad
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params, with_scalar_head
from icegrt_jax.models.quantize import stored_as
from icegrt_jax.rl import AdaptiveKL, ScoreStats
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sampler, sequence_keys
from icegrt_jax.sampling.layout import rollout_layout, to_rollout
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.put import shard_batch, shard_tree
from icegrt_jax.sharding.steps import jit_step
from icegrt_jax.training.buckets import fitted
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.ppo import ppo_update, score
from icegrt_jax.training.state import Experience, PPOConfig, TrainState, create_state
from icegrt_jax.training.updates import reward_update, sft_update

OPTIMIZER = OptimizerConfig(lr=1e-6, total_steps=1000)
KL = {"kl_coef": 0.05, "target": 6.0, "horizon": 2000.0, "adaptive": True}


def ppo_config(epochs: int) -> PPOConfig:
    """The default config's; a test compares them. A GPU machine need not have all that the stages import."""
    return PPOConfig(num_ppo_epochs=epochs, score_scale="reference", score_clip=5.0, eos_penalty=1.0)


class Phases:
    """Seconds of the phases of one repetition; each waits for the device."""

    def __init__(self):
        self.seconds = {}
        self.began = time.perf_counter()

    def end(self, name: str, tree):
        jax.block_until_ready(tree)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.began
        self.began = now
        return tree


def device_peak() -> int | None:
    """Peak of the accelerator's memory; None on a CPU, where the process's own counts."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats and stats["peak_bytes_in_use"]


def model_config(model: dict) -> ModelConfig:
    """Of a `cases.Model` that comes from no folder."""
    names = ("scan_layers", "remat", "dtype", "rope_theta")
    return ModelConfig(**model["shape"], **{name: model[name] for name in names})


def load(model: dict) -> tuple[ModelConfig, dict]:
    """Config and float32 parameters of a `cases.Model`."""
    if model["path"]:
        # A GPU machine with random weights needs none of what this imports.
        from icegrt_jax.models.hf.folder import load_hf

        config, params = load_hf(model["path"], scan_layers=model["scan_layers"], dtype=model["dtype"])
        return dataclasses.replace(config, remat=model["remat"]), params
    config = model_config(model)
    return config, jax.jit(init_params, static_argnames="config")(jax.random.key(0), config=config)


def static_batches(keys, params, tokens, mask, *, model, config, slots):
    """`slots` prompts at a time, each batch until its last row has ended."""
    parts = [
        compiled_sampler(
            keys[i : i + slots], params, tokens[i : i + slots], mask[i : i + slots], model=model, config=config
        )
        for i in range(0, len(tokens), slots)
    ]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


# Ways to answer more prompts than there are slots: (keys, params, tokens, mask, *, model, config, slots) -> Rollout.
WAYS = {"continuous": compiled_sampler, "static": static_batches}


def sample(turns, *, model: dict, batch: int, prompt: int, new: int, scanned: bool = False) -> None:
    """Generation at a fixed length. scanned: scan stacked layers also where the sampler takes them apart."""
    config, params = load(model)
    params = stored_as(params, model["dtype"])
    draw = SamplerConfig(max_new_tokens=new)
    tokens = random_tokens(model["shape"]["vocab_size"], batch, prompt)
    mask = np.ones_like(tokens, np.bool_)
    if scanned:
        mock.patch.object(sampler, "unstacked", lambda params, model: (params, model)).start()
    while turns.wait():
        phases = Phases()
        keys = sequence_keys(jax.random.key(turns.count), 0, batch)
        rollout = phases.end("generate", compiled_sampler(keys, params, tokens, mask, model=config, config=draw))
        assert rollout.responses.shape == (batch, new)
        turns.done(phases.seconds, peak=device_peak())


def sample_prompts(
    turns, *, model: dict, prompts: list, eos_ids: list, prompt: int, new: int, slots: int, way: str
) -> None:
    """Answers to real prompts, `slots` at a time, by one of WAYS; every way draws with the same keys."""
    config, params = load(model)
    draw = SamplerConfig(max_new_tokens=new, eos_ids=tuple(eos_ids))
    tokens, mask = left_pad(prompts, prompt, 0)
    keys = sequence_keys(jax.random.key(0), 0, len(prompts))
    while turns.wait():
        phases = Phases()
        rollout = WAYS[way](keys, params, tokens, mask, model=config, config=draw, slots=slots)
        rollout = jax.device_get(phases.end("generate", rollout))
        lengths = rollout.mask.sum(axis=1)
        words = np.where(rollout.mask, rollout.responses, 0).astype(np.int64)
        checksum = int((words * (1 + np.arange(words.size).reshape(words.shape))).sum() % (1 << 61))
        turns.done(phases.seconds, lengths=lengths.tolist(), checksum=checksum)


def ppo_state(model: dict, epochs: int, mesh, microbatch: int = 0) -> tuple[TrainState, ModelConfig]:
    """Four separate full models, put together as `runs/roles.py` does with the default config."""
    config, instruct = load(model)
    frozen = model["dtype"]
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    reward = with_scalar_head(jax.random.key(1), instruct, config)
    params = {
        "policy": copy(instruct),
        "value": copy(with_scalar_head(jax.random.key(2), instruct, config)),
        "reward": stored_as(copy(reward), frozen),
        "reference": stored_as(instruct, frozen),
    }
    state = create_state(
        jax.random.key(0), params, dict.fromkeys(("policy", "value", "reward"), config),
        dict.fromkeys(("policy", "value"), OPTIMIZER), ppo=ppo_config(epochs), kl=AdaptiveKL.create(**KL),
        score_stats=ScoreStats.create(0.0, 1.0), microbatch=microbatch,
    )  # fmt: skip
    return shard_tree(state, mesh), config


def ppo(
    turns,
    *,
    model: dict,
    batch: int,
    prompt: int,
    new: int,
    epochs: int,
    prompts: list | None = None,
    eos_ids: list = (),
    slots: int = 0,
    micro_batch: int = 0,
    pack: bool = True,
) -> None:
    """PPO iterations: rollout, score, learn, as `commands/ppo.py` runs them.

    prompts: ids of real ones; by default random ones of full length. eos_ids: empty for responses of full length.
    slots, micro_batch, pack: as `ppo.rollout_slots`, `ppo.microbatch` and `ppo.pack`.
    """
    mesh = make_mesh()
    state, config = ppo_state(model, epochs, mesh, micro_batch)
    draw = SamplerConfig(max_new_tokens=new, eos_ids=tuple(eos_ids))
    if prompts is None:
        tokens, mask = random_tokens(model["shape"]["vocab_size"], batch, prompt), np.ones((batch, prompt), np.bool_)
    else:
        tokens, mask = left_pad(prompts, prompt, 0)
    layout = rollout_layout(mesh, config, state.full("policy"))
    score_step, update_step = jit_step(score, mesh, state), jit_step(ppo_update, mesh, state)
    while turns.wait():
        phases = Phases()
        keys = sequence_keys(jax.random.key(3), turns.count * batch, batch)
        policy = to_rollout(state.full("policy"), config, mesh, layout)
        inputs = shard_batch((keys, tokens, mask), layout)
        with jax.set_mesh(layout):
            rollout = compiled_sampler(inputs[0], policy, *inputs[1:], model=config, config=draw, slots=slots)
        del policy  # a copy, where the rollout lies elsewhere than the training
        rollout = phases.end("rollout", fitted(state, shard_batch(rollout, mesh), pack=pack))
        state, experience, scored = phases.end("score", score_step(state, rollout))
        state, learned = phases.end("learn", update_step(state, experience))
        lengths = np.asarray(rollout.mask).sum(axis=1).tolist()
        assert float(learned["updates"]) == epochs and all(np.isfinite(x).all() for x in learned.values()), learned
        turns.done(phases.seconds, peak=device_peak(), lengths=lengths, kl=float(scored["kl"]))


def sft(turns, *, model: dict, rows: int, length: int) -> None:
    """Supervised steps on full rows, one conversation in each."""
    mesh = make_mesh()
    config, params = load(model)
    state = create_state(jax.random.key(0), {"policy": params}, {"policy": config}, {"policy": OPTIMIZER})
    tokens = random_tokens(model["shape"]["vocab_size"], rows, length)
    batch = {
        "tokens": tokens,
        "segment_ids": np.ones_like(tokens),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
        "loss_mask": np.ones_like(tokens, np.bool_),
    }
    _updates(turns, sft_update, shard_tree(state, mesh), batch, mesh)


def reward(turns, *, model: dict, rows: int, length: int) -> None:
    """Steps of the reward model on pairs of full-length answers."""
    mesh = make_mesh()
    config, params = load(model)
    params = with_scalar_head(jax.random.key(1), params, config)
    state = create_state(jax.random.key(0), {"reward": params}, {"reward": config}, {"reward": OPTIMIZER})
    tokens = random_tokens(model["shape"]["vocab_size"], rows, length).reshape(rows // 2, 2, length)
    batch = {
        "tokens": tokens,
        "mask": np.ones_like(tokens, np.bool_),
        "ranks": np.tile(np.array([1.0, 2.0], np.float32), (rows // 2, 1)),
        "valid": np.ones((rows // 2, 2), np.bool_),
    }
    _updates(turns, reward_update, shard_tree(state, mesh), batch, mesh)


def ranked(turns, *, model: dict, prompts: int, answers: int, prompt: int, answer: int, trees: bool) -> None:
    """Steps of the reward model on so many answers to each prompt, laid out as trees or each in a row of its own."""
    # As in `load`: not everywhere is there what these import.
    from icegrt_jax.data.encode import Ranked
    from icegrt_jax.data.pipeline import ranked_rows

    mesh = make_mesh()
    config, params = load(model)
    params = with_scalar_head(jax.random.key(1), params, config)
    state = create_state(jax.random.key(0), {"reward": params}, {"reward": config}, {"reward": OPTIMIZER})
    ids = random_tokens(model["shape"]["vocab_size"], prompts * (1 + answers), prompt + answer).tolist()
    rows = [
        [Ranked(ids[i][:prompt] + other[:answer], float(k), prompt) for k, other in enumerate(ids[i + 1 :][:answers])]
        for i in range(0, len(ids), 1 + answers)
    ]
    widths = [prompt + answers * answer] if trees else []
    batch = ranked_rows(rows, k=answers, length=prompt + answer, pad_id=0, starts=False, widths=widths)
    _updates(turns, reward_update, shard_tree(state, mesh), batch, mesh)


def _updates(turns, update, state: TrainState, batch: dict, mesh) -> None:
    step = jit_step(update, mesh, state)
    while turns.wait():
        phases = Phases()
        state, metrics = phases.end("update", step(state, shard_batch(batch, mesh)))
        assert np.isfinite(float(metrics["loss"])), metrics
        turns.done(phases.seconds, peak=device_peak(), loss=float(metrics["loss"]))


def update_memory(turns, *, model: dict, shapes: list, batches: list, length: int, update: str) -> None:
    """Temporary bytes of compiled update programs, by vocabulary and batch. Nothing is run."""
    found = []
    for shape in shapes:
        for batch in batches:
            step, state, data = _abstract_update({**model, "shape": shape}, batch, length, update)
            compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
            found.append((shape["vocab_size"], batch, compiled.memory_analysis().temp_size_in_bytes))
    while turns.wait():
        turns.done({}, programs=found)


def _abstract_update(model: dict, rows: int, length: int, update: str):
    """A step with the shapes of its state and its batch; of PPO's batch, half is prompt and half response."""
    config = model_config(model)

    def new_state() -> TrainState:
        policy = init_params(jax.random.key(0), config)
        trees = {"policy": policy}
        if update == "ppo_update":
            trees["value"] = with_scalar_head(jax.random.key(1), policy, config)
        return create_state(
            jax.random.key(0), trees, dict.fromkeys(trees, config), dict.fromkeys(trees, OPTIMIZER),
            ppo=ppo_config(1),
        )  # fmt: skip

    ints, bools, floats = (
        lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.bool_, jnp.float32)
    )
    if update == "sft_update":
        tokens = ints(rows, length)
        batch = {"tokens": tokens, "segment_ids": tokens, "positions": tokens, "loss_mask": bools(rows, length)}
        return sft_update, jax.eval_shape(new_state), batch
    half = length // 2
    numbers = dict.fromkeys(("old_logprobs", "ref_logprobs", "values", "advantages", "returns"), floats(rows, half))
    batch = Experience(ints(rows, half), bools(rows, half), ints(rows, half), bools(rows, half), **numbers)
    return ppo_update, jax.eval_shape(new_state), batch
