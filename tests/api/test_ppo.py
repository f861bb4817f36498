"""PPO from Python: rewards in every form, what is refused before anything is sampled, and what a rollout shows."""

import dataclasses
import inspect
import signal
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.api import settings, supervised
from icegrt_jax.config import options as sections
from icegrt_jax.models.api import Model
from icegrt_jax.models.heads import init_params
from icegrt_jax.rl import gae
from icegrt_jax.training.state import TrainState

SMALL = dict(iterations=2, batch_size=8, max_prompt_length=16, max_response_length=4)
PROMPTS = [{"prompt": "the cat", "reference": "sat", "meta": {"n": 1}}, {"prompt": "the end", "reference": "near"}]


def count_a(prompts, responses, records):
    return [float(text.count("a")) if record.meta else None for text, record in zip(responses, records)]


@pytest.fixture(scope="module")
def trained(models):
    """The model before, and a finished training on a function and a reward model."""
    policy, reward = (ice.load_model(models / "models" / name) for name in ("policy", "reward"))
    weights = {"model": 0.5, "letters": 2.0}
    training = ice.ppo(
        policy, PROMPTS, reward={"letters": count_a, "model": reward}, reward_weights=weights,
        reward_scales={"letters": "reference"}, normalize_on=2, score={"clip": 0.0}, **SMALL,
    )  # fmt: skip
    steps = list(training)
    return policy, reward, training, steps


def test_a_function_and_a_reward_model_are_weighted_and_shown_by_name(trained):
    policy, reward, training, steps = trained
    for step, metrics, rollout in steps:
        own = rollout.opinions["letters"]
        assert [value is None for value in own] == [not record.meta for record in rollout.records]
        assert metrics["reward/letters/known"] == sum(value is not None for value in own) / 8
        assert rollout.scores.shape == rollout.scaled.shape == (8,)
        assert metrics["score_raw"] == pytest.approx(rollout.scores.mean(), rel=1e-5) and metrics["step"] == step
    assert [row["step"] for row in training.metrics] == [1, 2] and len(training) == 2


def test_the_models_that_were_given_are_as_they_were_and_the_result_is_another(trained, models):
    policy, reward, training, _ = trained
    for model, name in ((policy, "policy"), (reward, "reward")):
        again = ice.load_model(models / "models" / name)
        jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), training.model.params, policy.params)
    assert max(jax.tree.leaves(moved)) > 0
    assert ice.generate(training.model, ["the cat"], key=jax.random.key(0), max_new_tokens=2).text
    assert training.model is training.model and isinstance(training.state, TrainState)


def test_a_rollout_s_rewards_are_those_that_the_returns_were_made_of(trained):
    for _, _, rollout in trained[3]:
        advantages, returns = gae(rollout.rewards, rollout.values, rollout.mask, gamma=1.0, lam=0.95)
        np.testing.assert_allclose(returns, rollout.returns, atol=1e-5)
        assert rollout.logprobs.shape == rollout.ref_logprobs.shape == rollout.advantages.shape == (8, 4)
    first = trained[3][0][2]
    np.testing.assert_allclose(first.logprobs, first.ref_logprobs, atol=1e-3)


def test_show_is_a_table_of_tokens_as_text_and_as_html(trained):
    rollout = trained[3][0][2]
    lines, length = str(rollout.show(1)).splitlines(), int(rollout.mask[1].sum())
    assert lines[0].startswith("response 2 of 8 to: the ") and len(lines) == length + 4
    assert lines[1].split() == ["token", "log-prob", "reference", "value", "advantage", "reward"]
    assert lines[2].split()[-1] == f"{rollout.rewards[1][0]:.3f}" and lines[-2].split()[0] == "sum"
    assert "reward model " in lines[-1] and "letters " in lines[-1] and "scaled " in lines[-1]
    # Whatever the last token is given, the line says it: the score, and one less for an answer that was cut off.
    for i in range(8):
        said, last = str(rollout.show(i)).splitlines()[-1], rollout.scaled[i] - (not rollout.finished[i])
        np.testing.assert_allclose(rollout.penalized[i], last, atol=1e-6)
        assert ("cut off" in said) == (f"with penalties {last:.4g}" in said) == (not rollout.finished[i])
    drawn = rollout.show(1)._repr_html_()
    assert drawn.startswith("<table>") and drawn.count("<tr>") == length + 1
    assert str(rollout.show(-1)) == str(rollout.show(7))
    with pytest.raises(ice.UserError, match="i=8; the rollout has 8 responses, 0 to 7"):
        rollout.show(8)


def test_a_failing_function_stops_with_a_sentence_and_its_traceback(here):
    def broken(prompts, responses, records):
        raise KeyError("price")

    with pytest.raises(ice.UserError, match="reward function broken .*KeyError: 'price'") as stopped:
        ice.ppo(ice.load_model("models/policy"), PROMPTS, reward=broken, **SMALL)
    assert 'raise KeyError("price")' in "".join(stopped.value.__notes__)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"iterations": 0}, "ppo.iterations=0; say how many"),
        ({"batchsize": 8}, "unknown key ppo.batchsize; did you mean ppo.batch_size"),
        ({"kl": {"coeff": 1.0}}, "unknown key ppo.kl.coeff; did you mean ppo.kl.coef"),
        ({"gamma": "1"}, "ppo.gamma='1'; expected a number"),
        ({"temperature": 0.0}, "ppo.temperature=0.0; sampling needs a temperature above 0"),
        ({"batch_size": 6}, "ppo.batch_size=6 does not divide over 8 devices"),
        ({"reward": {}}, "reward is empty"),
        ({"reward": 3}, "reward=3; expected a function of .prompts, responses, records.|reward: reward=3"),
        ({"reward": {"model": count_a}}, "'model' is the reward model's name"),
        ({"reward": lambda texts: [0.0]}, "cannot be called as"),
        ({"reward_weights": {"model": 1.0}}, "ppo.reward_weights.model, but reward has no model"),
        ({"reward_weights": {"other": 1.0}}, "ppo.reward_weights.other: no function of that name"),
        ({"value": {"init": "reward"}}, "value.init='reward': the reward model is not given"),
        ({"value": {"trunk": "both"}}, "value.trunk='both'; expected one of"),
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": ["the cat", 3]}, r"prompts\[1\]: 3 is no prompt"),
        ({"prompts": "the cat"}, "prompts='the cat'; expected a list, a file"),
        ({"prompts": "jsonl:/nowhere/rows.jsonl"}, "/nowhere/rows.jsonl: no such file"),
        ({"ptx": {"coef": 1.0}}, "ppo.ptx.coef=1.0 and no replay is"),
        ({"replay": [{"prompt": "a", "response": "b"}]}, "ppo.ptx.coef=0.0 and replay is given"),
        ({"judge": "nobody"}, "ppo.judge='nobody'; expected one of"),
        ({"seed": 0.5}, "seed=0.5; expected a whole number"),
        ({"max_response_length": 0}, "max_response_length=0; expected 1 or more"),
        ({"options": sections.RewardOptions()}, "expected ice.options.PPOOptions"),
        ({"sources": {"a": "b"}}, "sources is for configs; here it is the argument with the data"),
    ],
)
def test_what_cannot_work_is_one_sentence_before_anything_is_sampled(here, keys, message):
    given = {"prompts": PROMPTS, "reward": count_a, **SMALL, **keys}
    with pytest.raises(ice.UserError, match=message) as refused:
        ice.ppo(ice.load_model("models/policy"), given.pop("prompts"), **given)
    assert "\n" not in str(refused.value)


def test_models_of_the_wrong_kind_are_refused(here):
    policy, reward = ice.load_model("models/policy"), ice.load_model("models/reward")
    with pytest.raises(ice.UserError, match="ppo: this is a reward or value model"):
        ice.ppo(reward, PROMPTS, reward=count_a, **SMALL)
    with pytest.raises(ice.UserError, match="reward: this is a language model"):
        ice.ppo(policy, PROMPTS, reward=policy, **SMALL)
    with pytest.raises(ice.UserError, match="sft: this is a reward or value model"):
        ice.sft(reward, [{"prompt": "a", "response": "b"}], steps=1)
    for name in ("init", "on_policy_k"):
        with pytest.raises(ice.UserError, match=f"{name} is for runs of the command line"):
            ice.train_reward(policy, [{"prompt": "a", "chosen": "b", "rejected": "c"}], **{name: "sft"})


def test_answers_are_read_as_trees_unless_that_is_not_wanted(here, monkeypatch):
    model = ice.load_model("models/policy")
    rows = [{"prompt": f"the {x}", "chosen": "cat sat", "rejected": "end is near"} for x in "abcdefgh"]
    batches, built = [], supervised.ranking_batches
    monkeypatch.setattr(supervised, "ranking_batches", lambda *a, **k: batches.append(built(*a, **k)) or batches[-1])
    shapes, losses = [], []
    for share in (True, False):
        training = ice.train_reward(model, rows, steps=2, batch_size=8, length=32, share_prefixes=share)
        losses.append([metrics["loss"] for _, metrics in training])
        shapes.append(batches[-1][0]["tokens"].shape)
    assert shapes == [(8, 32), (8, 2, 32)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_reward_model_with_a_language_loss_keeps_its_output_matrix_out_of_what_is_trained(here):
    tied = ice.load_model("models/policy")
    config = dataclasses.replace(tied.config, tie_embeddings=False)
    untied = lambda **head: Model(config, init_params(jax.random.key(1), config, **head), tied.tokenizer)
    policy, rows = (
        untied(),
        [{"prompt": f"the {x}", "chosen": "cat sat", "rejected": "end is near"} for x in "abcdefgh"],
    )
    keys = {"steps": 4, "batch_size": 8, "length": 32, "lm_coef": 1.0, "optimizer": {"lr": 0.03}}
    training = ice.train_reward(policy, rows, **keys)
    model = training.finish()
    losses = [metrics["lm_loss"] for metrics in training.metrics]
    assert losses[-1] < losses[0] and set(model.params) == {"embed", "layers", "final_norm", "head"}
    matrix = {"lm_head": policy.params["lm_head"]}
    jax.tree.map(np.testing.assert_array_equal, training.state.params["unembedding"], matrix)
    with pytest.raises(ice.UserError, match="reward.lm_coef=1: the model has no output matrix"):
        ice.train_reward(untied(scalar_head=True), rows, **keys)


def test_a_rollout_of_another_temperature_is_refused_by_the_update_steps(here, trained):
    out = ice.generate(ice.load_model("models/policy"), ["the cat"] * 8, key=jax.random.key(0), max_new_tokens=4,
                       temperature=0.5)  # fmt: skip
    assert (out.sampler.temperature, out.sampler.top_k, out.sampler.top_p) == (0.5, 0, 1.0)
    opinion = ice.training.Opinions(jnp.zeros(8), jnp.ones(8, bool))
    state = trained[2].state
    with pytest.raises(ice.UserError, match="sampled at temperature 0.5 and PPO is at 1: their log-probs"):
        ice.training.score(state, out.rollout(), opinions={"letters": opinion})


@pytest.mark.parametrize(
    "call, section",
    [
        (ice.ppo, sections.PPOOptions),
        (ice.sft, sections.SFTOptions),
        (ice.train_reward, sections.RewardOptions),
        (ice.pretrain, sections.SupervisedOptions),
    ],
)
def test_the_defaults_are_those_of_the_command_line(call, section):
    """The section of an empty config, and of what stands beside it the defaults of the keys of the same name."""
    config = sections.Options()
    group = {"ppo": "ppo", "sft": "sft", "train_reward": "reward", "pretrain": "pretrain"}[call.__name__]
    assert settings.section(section(), None, {}, group) == getattr(config, group)
    keys = {**vars(config), "param_dtype": config.model.param_dtype, "normalize_on": config.reward.normalize_on,
            "reward_length": config.reward.length}  # fmt: skip
    # What is no key of a config, or has another default there for a reason that its docstring gives.
    own = {"options", "value", "replay", "donate", "progress", "heldout", "prompts", "reference", "draw", "data_dir"}
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in own:
            assert parameter.default == keys[name], name
        # No argument hides an option, but for the data and models that stand in its place.
        assert name not in typing.get_type_hints(section) or name in ("heldout", "model"), name


def test_donated_parameters_are_given_out_as_they_are_once_and_others_never(here):
    model = ice.load_model("models/policy")
    leaves = lambda parameters: jax.tree.leaves(parameters.take())
    ours, donated = jax.tree.leaves(model.params), settings.Parameters(model, donate=True)
    assert all(a is b for a, b in zip(leaves(donated), ours))
    for copies in (leaves(donated), leaves(settings.Parameters(model, donate=False))):
        for copy, own in zip(copies, ours):
            assert copy is not own and copy.unsafe_buffer_pointer() != own.unsafe_buffer_pointer()
            np.testing.assert_array_equal(copy, own)


def test_ctrl_c_waits_for_the_end_of_a_step_after_which_training_goes_on(here):
    def interrupted(prompts, responses, records):
        if not calls:
            signal.raise_signal(signal.SIGINT)
        calls.append(1)
        return [0.0] * len(responses)

    calls = []
    examples = {**SMALL, "max_prompt_length": 128}  # the sizes of the examples: nothing new is compiled
    training = ice.ppo(ice.load_model("models/policy"), PROMPTS, reward=interrupted, reward_failed="none", **examples)
    with pytest.raises(KeyboardInterrupt):
        training.finish()
    done = len(training.metrics)
    assert done == 1 and training.model.params
    assert training.finish() is training.model and [row["step"] for row in training.metrics] == [1, 2]


def test_an_average_over_the_iterations_is_the_model_that_comes_out(models):
    policy = ice.load_model(models / "models" / "policy")
    training = ice.ppo(policy, PROMPTS, reward=count_a, ema=0.5, **{**SMALL, "iterations": 1})
    found = training.finish()
    actor, average = training.state.params["policy"], training.state.ema["policy"]
    jax.tree.map(np.testing.assert_array_equal, found.params, average)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), actor, average)
    assert max(jax.tree.leaves(moved)) > 0
    with pytest.raises(ice.UserError, match="ppo.average is for configs"):
        ice.ppo(policy, PROMPTS, reward=count_a, average=(0.5,), **SMALL)
