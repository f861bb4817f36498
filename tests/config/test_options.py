"""The defaults are complete, and what cannot work together is refused before any device is touched."""

import dataclasses
import functools
import operator
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

from icegrt_jax.config import checks, default_config, read
from icegrt_jax.config.checks import check_given_reward
from icegrt_jax.config.file import load_config
from icegrt_jax.errors import UserError
from icegrt_jax.plan.shapes import models_of
from icegrt_jax.runs.roles import ppo_config
from icegrt_jax.training.state import PPOConfig

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
QUICKSTART = f"{CONFIGS / 'quickstart.py'}:smoke"


def check(config):
    checks.check(read(config))


def doubts(config):
    options = read(config)
    return checks.doubts(options.reward, options.ppo, longest=options.total, weight=options.reward_model)


def test_the_defaults_are_a_locked_config_that_passes():
    config = default_config()
    check(config)
    with pytest.raises(AttributeError, match="lam"):
        config.ppo.lambd = 0.9
    config.sft.sources.mine = "jsonl:rows.jsonl"  # groups that a config file names are open


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.name)
def test_every_config_that_ships_passes(path):
    switches = runpy.run_path(str(path))["SWITCHES"]
    assert "" in switches and "smoke" in switches
    for switch in switches:
        config = load_config(f"{path}:{switch}" if switch else str(path))
        check(config)
        assert doubts(config) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ("reward.steps=0", "reward.steps=0 with reward.init='sft': PPO would have no reward model"),
        ("reward.steps=0 reward.init=scratch", "reward.steps=0 with reward.init='scratch': PPO would have no reward"),
        ("reward.steps=0 reward.init=my/reward reward.lora.rank=4", "reward.lora.rank=4 with reward.steps=0"),
    ],
)
def test_a_run_without_a_reward_model_is_refused_and_a_plan_of_its_ppo_is_not(changes, message):
    config = load_config(QUICKSTART, [f"--config.{change}" for change in changes.split()])
    check(config)
    with pytest.raises(UserError, match=f"^{message}"):
        check_given_reward(read(config).reward, config.ppo.iterations)
    config.ppo.iterations, config.reward.lora.rank = 0, 0
    check_given_reward(read(config).reward, config.ppo.iterations)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ("reward.length=87", r"length=87 is below .*=88: the longest answers are left out .*set reward.length=88\.$"),
        ("reward.length=87 reward.overlong=cut", "the longest answers lose their end"),
        ("reward.length=88", None),
        ("max_prompt_length=105", "=129"),
        ("reward.length=87 reward.init=scratch", "=88"),
        ("reward.length=87 reward.init=some/folder", None),  # its tokenizer may count otherwise
        ("reward.init=some/folder reward.length=300 reward.score_length=301", "set reward.length=301"),
        ("reward.length=87 reward.steps=0 ppo.iterations=0", None),
        ("reward.length=87 ppo.iterations=0", None),
    ],
)
def test_answers_that_ppo_scores_and_the_reward_model_never_saw_are_a_doubt(changes, expected):
    config = load_config(QUICKSTART, [f"--config.{change}" for change in changes.split()])
    check(config)
    found = doubts(config)
    assert len(found) == (expected is not None)
    assert not found or re.search(expected, found[0])


@pytest.mark.parametrize("warmup, doubted", [(3, False), (4, True), (5, True)])
def test_an_actor_that_would_never_learn_is_a_doubt(warmup, doubted):
    found = doubts(load_config(QUICKSTART, [f"--config.ppo.value_warmup={warmup}"]))
    assert [text.split(" with ")[0] for text in found] == [f"ppo.value_warmup={warmup}"] * doubted


@pytest.mark.parametrize("name, params", [("llama2_13b_v5p", 13_015_864_320), ("qwen3_1p7b_v5e1", 1_720_574_976)])
def test_a_big_config_has_the_shape_of_its_model_without_the_model(monkeypatch, name, params):
    monkeypatch.chdir(CONFIGS.parent)
    options = read(load_config(str(CONFIGS / f"{name}.py"), ["--config.model.path=not/here"]))
    assert options.model.dtype == "bfloat16"
    shape = models_of(options.model, options.reward, vocab_size=0, max_length=0).policy
    assert shape.num_params == params
    assert (shape.scan_layers, shape.remat, shape.dtype) == (True, "full", "bfloat16")


def test_the_checks_need_no_device():
    code = "import sys, icegrt_jax.config as c; c.check(c.read(c.default_config())); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def ppo_and_value(config):
    options = read(config)
    return options.ppo, options.value


def test_every_ppo_option_reaches_the_update_steps():
    """A value other than the default in every key must come out as something other than the default."""
    config = default_config()
    changed = {
        "num_ppo_epochs": 3, "num_minibatches": 4, "temperature": 0.7, "gamma": 0.9, "lam": 0.8, "cliprange": 0.1,
        "cliprange_high": 0.3, "cliprange_value": 0.4, "dual_clip": 3.0,
        "value_warmup": 2, "value_flat": 1,
        "whiten_rewards": True, "advantages": "mean", "advantage_clip": 4.0, "ptx.coef": 0.5,
        "kl.kind": "k3", "kl.into": "loss", "kl.early_stop": 0.2,
        "kl.reference_temperature": 0.6, "score.scale": "none", "score.clip": 2.0,
        "score.eos_penalty": 0.5, "score_batch": 8, "recompute_logprobs": True,
        "score.length_penalty": 0.1, "score.length_target": 9,
        "estimator": "grpo", "samples_per_prompt": 4, "loss_aggregation": "constant", "filter_groups": True,
        "filter_overlong": True, "entropy_coef": 0.01, "score.baseline": "reference",
        "score.shape": "sigmoid", "lam_alpha": 0.05, "value_lam": 1.0, "ema": 0.75,
        "score.ensemble": "uncertainty", "score.ensemble_coef": 0.4,
    }  # fmt: skip
    for key, value in changed.items():
        *groups, name = key.split(".")
        section = config.ppo
        for group in groups:
            section = section[group]
        section[name] = value
    config.value.trunk, config.value.vf_coef = "policy", 0.7
    config.ppo.rewards.update({"exact": "own.py:exact", "brief": "own.py:brief"})
    config.ppo.reward_weights.exact, config.ppo.reward_scales.brief = 0.5, "running_std"
    got = dataclasses.asdict(ppo_config(*ppo_and_value(config), reward_model=0.3))
    names = {"ptx.coef": "ptx_coef", "kl.kind": "kl_kind", "kl.into": "kl_in", "kl.early_stop": "kl_early_stop",
             "kl.reference_temperature": "reference_temperature",
             "samples_per_prompt": "group_size", "score.ensemble": "score_ensemble",
             "score.ensemble_coef": "score_ensemble_coef"}  # fmt: skip
    expected = {names.get(key, key.replace(".", "_").replace("score_e", "e").replace("score_l", "l")): value
                for key, value in changed.items()}  # fmt: skip
    rewards = ("brief", {"weight": 1.0, "scale": "running_std"}), ("exact", {"weight": 0.5, "scale": "none"})
    assert got == {**expected, "vf_coef": 0.7, "reward_model": 0.3, "rewards": rewards}
    assert ppo_config(*ppo_and_value(default_config())).vf_coef == 0.0, "a critic of its own has a loss of its own"
    unread = set(dataclasses.asdict(PPOConfig())) - set(got)
    assert not unread


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("domain=adverts", "domain='adverts'; expected one of '', 'adreview', or FILE.py:NAME."),
        ("domain=adverts.py", "domain='adverts.py'; expected one of '', 'adreview', or FILE.py:NAME."),
        ("domain=adverts:", "domain='adverts:'; expected FILE.py:NAME, or package.module:NAME."),
        ("ppo.judge=a/judge.txt:f", "ppo.judge='a/judge.txt:f'; expected FILE.py:NAME, or package.module:NAME."),
        ("domain= ppo.judge=domain", "ppo.judge='domain', but domain is empty; name a domain, or another judge."),
        ("overlong_prompts=crop", "overlong_prompts='crop'; expected one of 'drop', 'cut', 'keep'."),
        ("sft.overlong=keep", "sft.overlong='keep'; expected one of 'drop', 'cut'."),
        ("reward.ensemble=2 reward.steps=0", "reward.ensemble=2 with reward.steps=0: none is trained; name"),
        ("reward.ensemble_with=('a',)", "reward.ensemble_with names finished reward models beside that of reward.init"),
        (
            "reward.steps=0 reward.init=a reward.ensemble_with=('b','a')",
            "reward.ensemble_with: 'a' is named twice; several models that are one agree always.",
        ),
        ("reward.ensemble_as=weights", "reward.ensemble_as='weights' is a mean of several models, and there is one"),
        ("ppo.score.ensemble=worst", "ppo.score.ensemble='worst' puts together what several reward models say, and"),
        (
            "reward.ensemble=2 reward.ensemble_as=weights ppo.score.ensemble=uncertainty",
            "ppo.score.ensemble='uncertainty' puts together what several reward models say, and there is one that",
        ),
        ("reward.ensemble=2 ppo.score.ensemble_coef=0.5", "ppo.score.ensemble_coef=0.5 is of ppo.score.ensemble='unc"),
        ("ppo.score.by_source=true ppo.score.scale=none", "ppo.score.by_source=true with ppo.score.scale='none'"),
        ("max_prompt_length=0", "max_prompt_length=0; expected 1 or more."),
        ("log.every=0", "log.every=0; expected 1 or more."),
        ("log.ppo_checkpoint_every=0", "log.ppo_checkpoint_every=0; expected 1 or more."),
        ("reward.steps=-1", "reward.steps=-1; expected 0 or more."),
        ("sft.batch_size=0", "sft.batch_size=0; expected 1 or more."),
        ("sft.optimizer.schedule=cosin", "sft.optimizer.schedule='cosin'; expected one of 'constant', 'linear'"),
        ("ppo.value_optimizer.schedule=step", "ppo.value_optimizer.schedule='step'; expected one of"),
        ("sft.sources.domain=rows.jsonl", "sft.sources.domain='rows.jsonl'; expected FORMAT:PATH, such as"),
        ("reward.heldout.made=rows", "reward.heldout.made='rows'; expected FORMAT:PATH"),
        ("evaluate.domain.ads=rows", "evaluate.domain.ads='rows'; expected FORMAT:PATH"),
        ("model.path=some/model", "pretrain.steps is for models trained from scratch; set it to 0 or"),
        ("value.init=scratch", "value.init='scratch'; expected one of 'reward', 'sft'."),
        ("value.trunk=both", "value.trunk='both'; expected one of 'own', 'policy'."),
        ("value.trunk=policy value.vf_coef=0.0", "value.vf_coef=0.0; with value.trunk='policy' expected"),
        ("value.trunk=policy value.init=sft", "value.init='sft' is for a critic with a trunk of its own"),
        ("model.param_dtype=bfloat16", "model.param_dtype='bfloat16' with model.dtype='float32' and ppo.lora.rank=0"),
        ("model.param_dtype=int4", "model.param_dtype='int4'; expected one of 'float32', 'bfloat16', 'int8'."),
        ("model.param_dtype=int8", "model.param_dtype='int8' with ppo.lora.rank=0: the actor would not start as the"),
        ("roles.shared_base=true ppo.lora.rank=4", "roles.shared_base needs adapters: reward.lora.rank=0 and ppo"),
        ("roles.shared_base=true ppo.lora.rank=4 reward.lora.rank=4 reward.init=scratch",
         "reward.init='scratch': with roles.shared_base the reward model is an adapter on ICE-Instruct"),
        ("ppo.lora.rank=-1", "ppo.lora.rank=-1; expected 0 or more."),
        ("sft.lora.alpha=0.0", "sft.lora.alpha=0.0; expected a number above 0."),
        ("reward.lora.targets=('q','qkv')", "reward.lora.targets=('q', 'qkv'); expected some of q, k, v"),
        ("reward.lora.rank=2 reward.init=scratch", "reward.lora.rank is for a trunk that exists"),
        ("model.adapter=some", "model.adapter='some' belongs to a model; set model.path as well."),
        ("model.hf_config=some", "model.hf_config='some' belongs to a model; set model.path as well."),
        ("evaluate.temperature=nan", "evaluate.temperature=nan; expected a finite number."),
        ("ppo.temperature=nan", "ppo.temperature=nan; expected a finite number."),
        ("ppo.policy_optimizer.lr=inf", "ppo.policy_optimizer.lr=inf; expected a finite number."),
        ("reward.lm_coef=-0.1", "reward.lm_coef=-0.1; expected 0 or more."),
        ("reward.lm_coef=0.1 reward.init=scratch", "reward.lm_coef is for a trunk that knows a language"),
        ("reward.score_length=-1", "reward.score_length=-1; expected 0 or more."),
        ("ppo.judge=gold", "ppo.judge='gold'; expected one of"),
        ("evaluate.judge=", "evaluate.judge is empty, but evaluate.domain names prompts; expected one of adreview"),
        ("evaluate.general_judge=", "evaluate.general_judge is empty, but evaluate.general names prompts"),
        ("evaluate.temperature=-1.0", "evaluate.temperature=-1.0; expected 0 or more."),
        ("evaluate.samples=0", "evaluate.samples=0; expected 1 or more."),
        ("evaluate.temperature_limit=-1", "evaluate.temperature_limit=-1; expected 0 or more."),
        ("evaluate.temperatures=(0.5,)", "evaluate.temperatures=(0.5,), but evaluate.temperature_prompts names none"),
        ("evaluate.temperatures=(0.5,-1.0) evaluate.temperature_prompts.d=jsonl:d",
         "evaluate.temperatures=-1.0; expected 0 or more."),
        ("evaluate.temperatures=(0.5,0.5) evaluate.temperature_prompts.d=jsonl:d",
         "evaluate.temperatures=(0.5, 0.5); expected different ones"),
        ("evaluate.temperature_prompts.d=jsonl:d",
         "evaluate.temperature_prompts names prompts, but evaluate.temperatures is empty; set both or neither."),
        ("evaluate.temperature_prompts.d=d", "evaluate.temperature_prompts.d='d'; expected FORMAT:PATH"),
        ("ppo.kl.kind=k4", "ppo.kl.kind='k4'; expected one of 'k1', 'k2', 'k3', 'exact'."),
        ("ppo.kl.into=both", "ppo.kl.into='both'; expected one of 'reward', 'loss'."),
        ("ppo.score.scale=std", "ppo.score.scale='std'; expected one of 'none', 'reference', 'running_std'"),
        ("ppo.advantages=norm", "ppo.advantages='norm'; expected one of 'whiten', 'mean', 'none'."),
        ("ppo.kl.into=loss", "ppo.kl.kind='k1' with ppo.kl.into='loss': the expected gradient of k1 is zero"),
        ("ppo.kl.kind=exact", "ppo.kl.kind='exact' with ppo.kl.into='reward': the exact KL is the same whichever"),
        ("ppo.kl.kind=k2", "ppo.kl.kind='k2' with ppo.kl.into='reward': k2 there has not the gradient of a KL"),
        ("ppo.kl.kind=k3", "ppo.kl.kind='k3' with ppo.kl.into='reward': k3 there has not the gradient of a KL"),
        ("ppo.temperature=0.0", "ppo.temperature=0.0; sampling needs a temperature above 0."),
        ("ppo.cache_dtype=int4", "ppo.cache_dtype='int4'; expected one of 'compute', 'int8'"),
        ("ppo.rollout_slots=-1", "ppo.rollout_slots=-1; expected 0 or more."),
        ("ppo.top_p=0.0", "ppo.top_p=0.0; expected a number above 0, 1 at most."),
        ("ppo.num_minibatches=0", "ppo.num_minibatches=0; expected 1 or more."),
        ("ppo.num_ppo_epochs=0", "ppo.num_ppo_epochs=0; expected 1 or more."),
        ("ppo.batch_size=16 ppo.num_minibatches=3",
         "ppo.batch_size * samples_per_prompt=16 does not divide over ppo.num_minibatches=3; use a multiple of 3."),
        ("ppo.batch_size=15 ppo.num_minibatches=3 ppo.ptx.batch_size=8",
         "ppo.ptx.batch_size=8 does not divide over ppo.num_minibatches=3; use a multiple of 3."),
        ("sft.microbatch=3", "sft.batch_size=4 does not divide over sft.microbatch=3; use a multiple of 3."),
        ("reward.microbatch=-1", "reward.microbatch=-1; expected 0 or more."),
        ("ppo.microbatch=5", "a minibatch of ppo.batch_size * samples_per_prompt=8 does not divide over ppo.micro"),
        ("ppo.score_batch=6", "ppo.batch_size * samples_per_prompt=16 does not divide over ppo.score_batch=6"),
        ("ppo.microbatch=2 ppo.ptx.batch_size=4",
         "ppo.ptx.batch_size / num_minibatches=2 does not divide over the blocks of ppo.microbatch in a minibatch=4"),
        ("ppo.value_flat=3 ppo.value_warmup=5",
         "ppo.value_flat=3 with ppo.value_warmup=5: two windows are compared, and value_warmup is the most; make it"),
        ("ppo.value_flat=-1", "ppo.value_flat=-1; expected 0 or more."),
        ("ppo.redraw=2", "ppo.redraw=2 with ppo.filter_groups=false: others are drawn in the place of prompts"),
        ("ppo.dual_clip=0.5", "ppo.dual_clip=0.5; expected 0, or a number above 1."),
        ("ppo.kl.adaptive=true ppo.kl.coef=0.0",
         "ppo.kl.coef=0.0: an adaptive coefficient begins above 0; for a fixed one, or none, set"),
        ("ppo.kl.band=(1.5,0.5)", "ppo.kl.band=(1.5, 0.5); expected the smaller share of the target first."),
        ("ppo.kl.adaptive=true ppo.kl.horizon=3.0", "ppo.kl.horizon=3.0 is too short for 16 responses"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_key_and_what_to_do(overrides, message):
    config = load_config(QUICKSTART, [f"--config.{override}" for override in overrides.split()])
    with pytest.raises(UserError) as refused:
        check(config)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "gone, message",
    [
        (["sft.sources.general"], "sft.weights.general has no source of that name; the sources are decisions, domain"),
        (["sft.weights.general"], "sft.weights has no 'general'; give each source a weight."),
        (["reward.sources.made", "reward.sources.own", "reward.weights.made", "reward.weights.own"],
         "reward.steps=12, but reward.sources is empty; name a source."),
        (["ppo.sources.ads", "ppo.weights.ads"], "ppo.iterations=4, but ppo.sources is empty; name a source"),
        (["ppo.ptx.sources.general", "ppo.ptx.weights.general"],
         "ppo.ptx.coef=0.5, but ppo.ptx.sources is empty; name a source."),
    ],
)  # fmt: skip
def test_sources_and_weights_must_be_there_and_name_the_same(gone, message):
    overrides = ("reward.steps=12", "ppo.iterations=4", "ppo.ptx.coef=0.5")
    config = load_config(QUICKSTART, [f"--config.{override}" for override in overrides])
    with config.unlocked():
        for key in gone:
            group, name = key.rsplit(".", 1)
            del functools.reduce(lambda section, part: section[part], group.split("."), config)[name]
    with pytest.raises(UserError) as refused:
        check(config)
    assert str(refused.value).startswith(message)


def test_a_source_that_is_alone_needs_no_weight():
    config = load_config(QUICKSTART)
    with config.unlocked():
        del config.ppo.weights["ads"]
    check(config)
    options = read(config)
    assert options.ppo.weights == {"ads": 1.0} and options.pretrain.weights == {"corpus": 1.0}


REWARDS = {"ppo.rewards.exact": "own.py:exact", "value.init": "sft"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ppo.rewards.model": "own.py:exact"}, "ppo.rewards.model: 'model' is ICE-Reward's name; use another one"),
        ({"ppo.rewards.a b": "own.py:exact"}, "'a b' is no name; use another one, of letters"),
        ({"ppo.rewards.exact": "own.py"}, "ppo.rewards.exact='own.py'; expected FILE.py:FUNCTION."),
        ({"ppo.rewards.exact": "own py:exact"}, "ppo.rewards.exact='own py:exact'; expected FILE.py:NAME"),
        ({"ppo.reward_weights.exat": 1.0}, "ppo.reward_weights.exat: no function of that name; there are: exact, and"),
        ({"ppo.reward_scales.exat": "none"}, "ppo.reward_scales.exat: no function of that name; there are: exact."),
        ({"ppo.reward_scales.model": "none"}, "ICE-Reward's is ppo.score.scale"),
        ({"ppo.reward_scales.exact": "std"}, "ppo.reward_scales.exact='std'; expected one of 'none', 'reference'"),
        ({"ppo.reward_failed": "go on"}, "ppo.reward_failed='go on'; expected 'stop', 'none' or a number"),
        ({"ppo.reward_failed": "nan"}, "ppo.reward_failed='nan'; expected 'stop', 'none' or a number"),
        ({"ppo.reward_timeout": -1.0}, "ppo.reward_timeout=-1.0; expected 0 or more"),
        ({"ppo.reward_workers": -1}, "ppo.reward_workers=-1; expected 0 or more"),
        ({"ppo.reward_weights.model": 0.0, "ppo.reward_weights.exact": 0.0}, "every weight in ppo.reward_weights is 0"),
        ({"ppo.reward_weights.model": 0.0, "ppo.iterations": 1, "value.init": "reward"}, "set value.init='sft'"),
        ({"ppo.iterations": 1, "value.init": "reward"}, "PPO has no reward model .* so the critic cannot start from"),
    ],
)
def test_reward_functions_that_do_not_fit_are_one_sentence(values, message):
    config = with_prompts({**REWARDS, **values})
    with pytest.raises(UserError, match=message):
        check(config)


def with_prompts(values):
    config = default_config().unlock()
    config.ppo.sources.own, config.ppo.weights.own = "jsonl:own.jsonl", 1.0
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        functools.reduce(operator.getitem, group.split("."), config)[name] = value
    return config


def test_the_reward_model_counts_where_there_is_one_and_its_weight_is_not_zero():
    weight = lambda **values: read(with_prompts({key.replace("__", "."): v for key, v in values.items()})).reward_model
    exact = {"ppo__rewards__exact": "own.py:exact"}
    assert weight() == weight(reward__steps=1) == weight(**exact, reward__steps=1) == 1.0
    assert weight(**exact) == 0.0, "no reward stage"
    assert weight(**exact, reward__init="models/reward") == 1.0
    assert weight(**exact, reward__steps=1, ppo__reward_weights__model=0.25) == 0.25
    alone = read(with_prompts({**REWARDS, "ppo.iterations": 1}))
    checks.check(alone)
    check_given_reward(alone.reward, 1, alone.reward_model)
    wanted = read(with_prompts({**REWARDS, "ppo.iterations": 1, "ppo.reward_weights.model": 1.0}))
    with pytest.raises(UserError, match=r"PPO would have no reward model; .*ppo.reward_weights.model=0"):
        check_given_reward(wanted.reward, 1, wanted.reward_model)


def test_without_a_reward_model_a_shared_base_needs_the_actors_adapter_only():
    values = {**REWARDS, "ppo.iterations": 1, "roles.shared_base": True, "ppo.lora.rank": 2}
    check(with_prompts(values))
    with pytest.raises(UserError, match=r"roles.shared_base needs adapters: ppo.lora.rank=0 must be above 0"):
        check(with_prompts({**values, "ppo.lora.rank": 0}))
