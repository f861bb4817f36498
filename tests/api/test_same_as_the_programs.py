"""What a program does in a run's folder the same call does in memory: bit for bit, from the same keys."""

import dataclasses

import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.config.convert import read
from icegrt_jax.config.file import from_json
from icegrt_jax.training.metrics import read_metrics
from tests.commands.runs import call, copy_parts, one_of_the_devices

SHORT = {"ppo.iterations": 3, "sft.steps": 3, "reward.steps": 3, "log.every": 1, "ppo.num_minibatches": 1,
         "reward.lm_coef": 0.2}  # fmt: skip
PARTS = ("data", "tokenizer", "pretrain")


@pytest.fixture(scope="module", autouse=True)
def device():
    """What trains in memory has the device of a command that is called here."""
    with one_of_the_devices():
        yield


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """The options and the folder of a run whose stages were trained in this process."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("same") / "run", *PARTS)
    for stage in ("sft", "reward", "ppo"):
        assert call(stage, workdir, **SHORT) == 0
    return read(from_json((workdir / "config.json").read_text())), workdir


def specs(sources, workdir):
    return {name: spec.replace("{workdir}", str(workdir)) for name, spec in sources.items()}


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def rows(workdir, stage, training):
    """The stage's rows, of what a training in memory says as well: not how many tokens a second."""
    theirs = read_metrics(workdir / stage / "metrics.jsonl")
    return [{name: row.get(name) for name in ours} for row, ours in zip(theirs, training.metrics, strict=True)]


def test_sft_in_memory_is_the_stage(run):
    options, workdir = run
    base = ice.load_model(workdir / "pretrain")
    training = ice.sft(base, specs(options.sft.sources, workdir), options=options.sft, seed=options.seed)
    same(training.finish().params, ice.load_model(workdir / "sft").params)
    assert training.metrics == rows(workdir, "sft", training)


def test_train_reward_in_memory_is_the_stage_its_measurements_included(run):
    options, workdir = run
    training = ice.train_reward(
        ice.load_model(workdir / "sft"), specs(options.reward.sources, workdir),
        options=dataclasses.replace(options.reward), heldout=specs(options.reward.heldout, workdir),
        prompts=specs(options.ppo.sources, workdir)["ads"], draw=ice.options.DrawOptions(),
        max_prompt_length=options.max_prompt_length, max_response_length=options.max_response_length, seed=options.seed,
    )  # fmt: skip
    ours, theirs = training.finish(), ice.load_model(workdir / "reward")
    same(ours.params, theirs.params)
    assert ours.measured == pytest.approx(theirs.measured, rel=1e-4)  # other batches: other sums
    done = files.read_json(workdir / "reward" / "done.json")
    assert {name: training.metrics[-1].get(name) for name in done["heldout"]} == done["heldout"]


def test_ppo_in_memory_has_the_metrics_of_the_stage_bit_for_bit_and_its_policy(run):
    options, workdir = run
    policy = ice.load_model(workdir / "sft")
    training = ice.ppo(
        policy, specs(options.ppo.sources, workdir), reward=ice.load_model(workdir / "reward"), options=options.ppo,
        replay=specs(options.ppo.ptx.sources, workdir), value=options.value, seed=options.seed,
        max_prompt_length=options.max_prompt_length, max_response_length=options.max_response_length,
    )  # fmt: skip
    seen = [(step, metrics, len(rollout)) for step, metrics, rollout in training]
    assert [metrics for _, metrics, _ in seen] == training.metrics == rows(workdir, "ppo", training)
    assert [(step, count) for step, _, count in seen] == [(1, 8), (2, 8), (3, 8)]
    same(training.model.params, ice.load_model(workdir / "ppo").params)
    same(policy.params, ice.load_model(workdir / "sft").params)  # the caller's model is as it was
