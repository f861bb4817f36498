"""Every key that a run derives, from the run's own calls: no two purposes share one."""

import sys
import zlib
from collections import defaultdict

import jax
import numpy as np
import pytest

from icegrt_jax.data import pipeline
from icegrt_jax.models.tree import flatten
from icegrt_jax.runs import reward_model, roles, rollouts, rundir, stage_models, supervised
from icegrt_jax.sampling import generate
from icegrt_jax.training.ppo import epoch_keys
from tests.commands.runs import KEYS, call

SMALL = {
    "pretrain.steps": 1, "sft.steps": 1, "reward.steps": 1, "ppo.iterations": 3, "ppo.num_ppo_epochs": 2,
    "ppo.batch_size": 16, "ppo.ptx.batch_size": 16,
    "sft.lora.rank": 2, "reward.lora.rank": 2, "ppo.lora.rank": 2, "evaluate.temperature": 1.0,
    "evaluate.samples": 2, "evaluate.temperatures": "(1.0,)",
    "evaluate.temperature_prompts.others": "jsonl:{workdir}/data/ranking_prompts.jsonl",
}  # fmt: skip
LENGTH = KEYS["max_response_length"]


class Keys:
    """The purposes of each key, by its words, and of each state of NumPy's generator."""

    def __init__(self, patch):
        self.purposes, self.orders, self._patch = defaultdict(set), defaultdict(list), patch

    def add(self, purpose: str, keys: jax.Array) -> None:
        for words in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist():
            self.purposes[tuple(words)].add(purpose)

    def watch(self, module, name: str, see) -> None:
        """Has `see` look at the arguments of `module.name` before it is called."""
        call = getattr(module, name)

        def watched(*args, **kwargs):
            see(*args, **kwargs)
            return call(*args, **kwargs)

        self._patch.setattr(module, name, watched)


def callers() -> list[str]:
    """Names of the functions that this call is within."""
    frame, names = sys._getframe(1), []
    while frame:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Of a whole run with adapters, in which everything that draws is watched."""
    with pytest.MonkeyPatch.context() as patch:
        keys = Keys(patch)

        def sampled(drawn, *_, config, **__):
            if not config.temperature:
                return
            asked_by = (
                "rank_own_answers", "fit_normalization", "_best_of", "gold_by_temperature", "_evaluate", "sample"
            )  # fmt: skip
            purpose = next(name for name in callers() if name in asked_by)  # the innermost
            keys.add(f"{purpose} sequence", drawn)
            tokens = jax.vmap(lambda key: jax.vmap(lambda t: jax.random.fold_in(key, t))(np.arange(LENGTH)))(drawn)
            keys.add(f"{purpose} token", tokens)

        def new_parameters(run, config, key, **_):
            keys.add("parameters", key)
            keys.add("parameters", jax.random.split(key))

        def new_adapter(key, base, *_, **__):
            purpose = f"adapter {'value' if '_add_critic' in callers() else callers()[2:5]}"
            keys.add(purpose, key)
            for path in flatten(base):
                keys.add(purpose, jax.random.fold_in(key, zlib.crc32(path.encode())))

        def packed(state, *_, **__):
            keys.add("iteration's order", jax.random.fold_in(state.key, state.step))
            keys.add("epoch's order", epoch_keys(state.key, state.step, state.ppo.num_ppo_epochs))

        def ordered(seed):
            if "bootstrap" in callers():  # the same draws at every call, and of no data
                return
            stage = next(name for name in callers() if name in ("sft_batches", "mixture", "__getitem__"))
            keys.orders[tuple(np.random.SeedSequence(seed).generate_state(4).tolist())].append((stage, tuple(seed)))

        keys.watch(rollouts, "compiled_sampler", sampled)
        keys.watch(generate, "compiled_sampler", sampled)
        keys.watch(stage_models, "placed_init", new_parameters)
        keys.watch(reward_model, "with_scalar_head", lambda key, *_: keys.add("head", key))
        keys.watch(roles, "init_adapter", new_adapter)
        keys.watch(rollouts, "fitted", packed)
        keys.watch(pipeline.np.random, "default_rng", ordered)
        for module in (supervised, reward_model, roles):
            keys.watch(module, "create_state", lambda key, trees, *_, **__: keys.add(f"state of {list(trees)}", key))
        of_stream = rundir.Run.key

        def stream_key(run, stream):
            key = of_stream(run, stream)
            keys.add(f"stream {stream}", key)
            return key

        patch.setattr(rundir.Run, "key", stream_key)
        assert call("run", tmp_path_factory.mktemp("keys") / "run", **SMALL) == 0
        return keys


@pytest.mark.slow
def test_no_two_purposes_share_a_key(keys):
    met = set().union(*keys.purposes.values())
    expected = {
        "parameters", "head", "sample token", "rank_own_answers token", "fit_normalization token", "_evaluate token",
        "_best_of token", "gold_by_temperature token", "iteration's order", "epoch's order",
    }  # fmt: skip
    assert expected <= met and sum(name.startswith("adapter") for name in met) == 4, met
    # A stream may be the key of what is drawn from it, or of a state that only folds into it.
    drawn = lambda names: {name for name in names if not name.startswith(("stream", "state"))}
    shared = {key: names for key, names in keys.purposes.items() if len(drawn(names)) > 1}
    assert not shared
    streams = [names for names in keys.purposes.values() if any(name.startswith("stream") for name in names)]
    assert all(sum(name.startswith("stream") for name in names) == 1 for names in streams)
    assert all(len(names) <= 2 for names in streams), "the key of a state and that of a draw are two"


@pytest.mark.slow
def test_no_two_orders_of_data_come_from_one_seed(keys):
    sources = {entry[1][1] for entries in keys.orders.values() for entry in entries}
    assert len(sources) >= 5
    assert not {seed: made for seed, made in keys.orders.items() if len(set(made)) > 1}
