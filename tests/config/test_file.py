"""Config files: what they may be, how they are overridden, and what a rerun may change."""

import json

import pytest
from ml_collections import ConfigDict

from icegrt_jax.config import file as config_file
from icegrt_jax.errors import UserError

CONFIG = """
from ml_collections import config_dict

SWITCHES = ("", "smoke")

def get_config(switch=""):
    config = config_dict.ConfigDict()
    config.seed = 0
    config.name = "toy"
    config.ppo = config_dict.ConfigDict()
    config.ppo.lr = 0.5
    config.ppo.steps = 2 if switch == "smoke" else 100
    config.ppo.whiten = True
    config.ppo.betas = (0.9, 0.95)
    config.ppo.limit = config_dict.placeholder(int)
    config.ppo.kl = config_dict.ConfigDict({"target": 6.0})
    config.sources = (("jsonl:a.jsonl", 1.0), ("jsonl:b.jsonl", 0.5))
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


def load(tmp_path, text, spec=""):
    (tmp_path / "other.py").write_text(text)
    return config_file.load_config(f"{tmp_path}/other.py{spec}")


def test_a_switch_picks_the_variant(file):
    assert config_file.load_config(file).ppo.steps == 100
    assert config_file.load_config(f"{file}:smoke").ppo.steps == 2


def test_overrides_have_the_type_of_the_key_and_the_last_one_wins(file):
    overrides = (
        "--config.seed=3 --config.seed=4 --config.name=1 --config.ppo.lr=2 --config.ppo.whiten=false "
        "--config.ppo.betas=(0.8,0.9) --config.ppo.limit=7 --config.ppo.kl.target=-1e-3"
    ).split()
    config = config_file.load_config(file, overrides)
    assert (config.seed, config.name, config.ppo.whiten, config.ppo.betas) == (4, "1", False, (0.8, 0.9))
    assert (config.ppo.lr, config.ppo.limit, config.ppo.kl.target) == (2.0, 7, -0.001)
    assert type(config.ppo.lr) is float


def test_booleans_may_be_given_without_a_value(file):
    assert config_file.load_config(file, ["--noconfig.ppo.whiten"]).ppo.whiten is False
    assert config_file.load_config(file, ["--config.ppo.whiten=0", "--config.ppo.whiten"]).ppo.whiten is True


def test_one_load_leaves_no_trace_in_the_next(file):
    config_file.load_config(file, ["--config.seed=3"])
    assert config_file.load_config(file).seed == 0


def test_the_config_is_locked(file):
    with pytest.raises(AttributeError):
        config_file.load_config(file).sede = 1


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.ppo.kl.targt=1", "unknown key --config.ppo.kl.targt; did you mean --config.ppo.kl.target?"),
        ("--config.target=1", "unknown key --config.target; did you mean --config.ppo.kl.target?"),
        ("--config.ppo.steps=1.5", "--config.ppo.steps expects an integer, got '1.5'"),
        ("--config.ppo.limit=many", "--config.ppo.limit expects an integer, got 'many'"),
        ("--config.ppo.lr=fast", "--config.ppo.lr expects a number, got 'fast'"),
        ("--config.ppo.whiten=perhaps", "--config.ppo.whiten expects true or false, got 'perhaps'"),
        ("--config.ppo.betas=(0.8", "--config.ppo.betas expects a tuple"),
        ("--config.ppo.lr", "--config.ppo.lr has no value"),
        ("--noconfig.ppo.lr", "--config.ppo.lr has no value"),
        ("--config.ppo.kl=1", "--config.ppo.kl is a group of keys; set one of --config.ppo.kl.target"),
    ],
)
def test_a_bad_override_is_one_sentence(file, override, message):
    with pytest.raises(UserError) as error:
        config_file.load_config(file, [override])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ppo.lr", "ppo.policy.lr"),  # the word in another group, before ppo.lam, which is spelt more alike
        ("ppo.lan", "ppo.lam"),
        ("pop.lam", "ppo.lam"),
        ("lm", "ppo.lam"),
        ("horizon", None),
    ],
)
def test_the_nearest_name_has_the_same_last_word_if_one_has(name, expected):
    assert config_file.nearest(name, ["ppo.policy.lr", "sft.lr", "ppo.lam", "seed"]) == expected


def test_a_key_like_no_other_gets_no_suggestion(file):
    with pytest.raises(UserError, match=r"^unknown key --config.zzzzqqqq$"):
        config_file.load_config(file, ["--config.zzzzqqqq=1"])


def test_an_unknown_switch_is_answered_with_the_known_ones(file):
    with pytest.raises(UserError, match=r"toy.py has no switch 'smoek'; it has: smoke\."):
        config_file.load_config(f"{file}:smoek")


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match="config file nowhere/no.py does not exist"):
        config_file.load_config("nowhere/no.py")


def test_a_file_that_is_not_python_is_refused():
    with pytest.raises(UserError, match="config.yaml is not a Python file"):
        config_file.load_config("config.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1", r"other.py defines no get_config\(\)"),
        ("def get_config():\n  return {}", r"get_config\(\) returned dict, expected an ml_collections ConfigDict"),
        ("def get_config():\n  return", r"get_config\(\) returned NoneType"),
        ("\nx = = 1", r"other.py, line 2: invalid syntax"),
        ("def get_config():\n  x = 1\n  return y", r"other.py, line 3: NameError: name 'y' is not defined"),
        ("import nowhere_at_all", r"other.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_broken_file_is_explained_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "line, key, nearest",
    [
        ("config.ppo.targt = 2.0", "ppo.targt", "ppo.target"),
        ("print(config.ppo.targt)", "ppo.targt", "ppo.target"),
        ("config.ppo['targt'] = 2.0", "ppo.targt", "ppo.target"),
        ("print(config.ppo['targt'])", "ppo.targt", "ppo.target"),
        ("config.ppo.update({'targt': 2.0})", "ppo.targt", "ppo.target"),
        ("kl = config.ppo.kl; kl.horizn = 2.0", "ppo.kl.horizn", "ppo.kl.horizon"),
        ("config.pppo.target = 2.0", "pppo", "ppo"),
        ("config.target = 2.0", "target", "ppo.target"),
    ],
)
def test_a_misspelt_key_in_the_file_gets_its_line_and_the_nearest_name(tmp_path, line, key, nearest):
    text = f"""
from ml_collections import ConfigDict
def get_config():
    config = ConfigDict({{"ppo": {{"target": 1.0, "kl": {{"horizon": 1.0}}}}}}).lock()
    {line}
"""
    with pytest.raises(UserError) as refused:
        load(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 'other.py'}, line 5: unknown key {key}; did you mean {nearest}?"


def test_another_missing_key_is_not_taken_for_one_of_the_config(tmp_path):
    for line in ("{'a': 1}['b']", "'text'.lerp()"):
        text = f"""
from ml_collections import ConfigDict
def get_config():
    config = ConfigDict({{"ppo": {{"target": 1.0}}}}).lock()
    {line}
"""
        with pytest.raises(UserError, match="line 5: (KeyError|AttributeError): "):
            load(tmp_path, text)


def test_a_file_without_switches_takes_none(tmp_path):
    text = "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'seed': 1})"
    assert load(tmp_path, text).seed == 1
    with pytest.raises(UserError, match="no switch 'smoke'; it has none"):
        load(tmp_path, text, ":smoke")


def test_json_gives_the_config_back(file):
    config = config_file.load_config(file)
    restored = config_file.from_json(config_file.to_json(config))
    assert restored == config
    assert restored.sources == config.sources == (("jsonl:a.jsonl", 1.0), ("jsonl:b.jsonl", 0.5))


def test_flatten_names_every_leaf_and_keeps_empty_groups():
    config = ConfigDict({"a": 1, "b": {"c": (2, 3), "d": {}}})
    assert config_file.flatten(config) == {"a": 1, "b.c": (2, 3), "b.d": ConfigDict()}


def test_the_same_config_may_run_again(file, tmp_path):
    config = config_file.load_config(file)
    config_file.check_same(config, tmp_path / "run")
    assert config_file.save_resolved(config, tmp_path / "run") is True
    config_file.check_same(config, tmp_path / "run")
    assert config_file.save_resolved(config, tmp_path / "run") is False
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "checksums.json"}


def test_another_config_is_refused_with_the_difference(file, tmp_path):
    config_file.save_resolved(config_file.load_config(file), tmp_path)
    other = config_file.load_config(file, ["--config.ppo.lr=0.25", "--config.ppo.betas=(0.9,)", "--config.name=x"])
    with pytest.raises(UserError) as error:
        config_file.check_same(other, tmp_path)
    assert 'name "toy" → "x"; ppo.betas [0.9, 0.95] → [0.9]; ppo.lr 0.5 → 0.25' in str(error.value)
    assert "choose another --workdir" in str(error.value)


def test_added_and_removed_keys_count_as_differences(tmp_path):
    config_file.save_resolved(ConfigDict({"old": 1}), tmp_path)
    with pytest.raises(UserError, match=r"new \(absent\) → 1; old 1 → \(absent\)"):
        config_file.check_same(ConfigDict({"new": 1}), tmp_path)


def test_free_keys_may_differ_and_only_those(file, tmp_path):
    config_file.save_resolved(config_file.load_config(file), tmp_path)
    other = config_file.load_config(file, ["--config.ppo.kl.target=1", "--config.name=x"])
    config_file.check_same(other, tmp_path, free=("ppo.kl", "name"))
    with pytest.raises(UserError, match="ppo.kl.target 6.0 → 1.0"):
        config_file.check_same(other, tmp_path, free=("name", "ppo.k", "ppo.kl.targe"))


def test_a_damaged_config_json_is_named(file, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not the config of a run"):
        config_file.check_same(config_file.load_config(file), tmp_path)


def test_a_workdir_that_cannot_be_made_is_named(file, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*taken"):
        config_file.save_resolved(config_file.load_config(file), tmp_path / "taken" / "run")


def test_an_unused_workdir_is_taken_back_and_a_used_one_kept(tmp_path):
    for name, used in (("unused", False), ("used", True)):
        config_file.save_resolved(ConfigDict({"a": 1}), tmp_path / name)
        if used:
            (tmp_path / name / "sft").mkdir()
        config_file.forget_if_unused(tmp_path / name)
    assert not (tmp_path / "unused").exists()
    assert json.loads((tmp_path / "used" / "config.json").read_text()) == {"a": 1}


def test_a_group_named_freely_takes_new_names_on_the_command_line(tmp_path):
    (tmp_path / "c.py").write_text("from icegrt_jax.config import default_config as get_config\n")
    overrides = ("ppo.rewards.exact=own.py:exact", "ppo.reward_weights.exact=2", "ppo.reward_weights.model=-0.5",
                 "domain_sizes.asked=40", "ppo.rewards.exact=other.py:exact")  # fmt: skip
    config = config_file.load_config(f"{tmp_path / 'c.py'}", [f"--config.{override}" for override in overrides])
    assert config.ppo.rewards.to_dict() == {"exact": "other.py:exact"} and config.domain_sizes.asked == 40
    assert config.ppo.reward_weights.to_dict() == {"exact": 2, "model": -0.5}
    for bad in ("ppo.rewards.exact", "ppo.reward=1", "ppo.kl.targets=1", "ppo.rewards=1", "ppo.rewards.=1"):
        with pytest.raises(UserError, match=f"--config.{bad.partition('=')[0]}"):
            config_file.load_config(f"{tmp_path / 'c.py'}", [f"--config.{bad}"])
