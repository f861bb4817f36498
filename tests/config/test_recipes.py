"""The published recipes: each sets the values that it names, with their sources, and nothing else."""

import json
import pathlib
import runpy

import pytest

from icegrt_jax.config import checks, default_config, read, recipes
from icegrt_jax.config.file import flatten, load_config
from icegrt_jax.config.recipes import NAMES, apply, settings

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "recipes"
QUICKSTART = flatten(load_config(str(ROOT / "configs" / "quickstart.py")))
WARM = {"ppo.value_warmup", "ppo.value_flat"}
of_recipe = pytest.mark.parametrize("name", NAMES)


def path(name):
    return str(FOLDER / f"{name}.py")


def test_every_file_is_one_of_the_recipes():
    assert {file.stem for file in FOLDER.glob("*.py")} == set(NAMES)


@of_recipe
def test_every_switch_loads_locked_and_passes_the_checks(name):
    switches = runpy.run_path(path(name))["SWITCHES"]
    assert switches == ("", "quickstart", "smoke")
    for switch in switches:
        config = load_config(f"{path(name)}:{switch}" if switch else path(name))
        assert config.is_locked
        options = read(config)
        checks.check(options)
        checks.check_given_reward(options.reward, options.ppo.iterations, options.reward_model)
        weight = options.reward_model
        assert checks.doubts(options.reward, options.ppo, longest=options.total, weight=weight) == []


@of_recipe
def test_a_recipe_sets_exactly_what_it_names_and_says_where_each_value_is_from(name):
    config, named, module = default_config(), settings(path(name)), runpy.run_path(path(name))
    before = flatten(config)
    module["recipe"](config)
    method = flatten(config)
    module["scale"](config)
    after = flatten(config)
    for part, old, new in (("recipe", before, method), ("scale", method, after)):
        keys = {setting.key for setting in named if setting.part == part}
        assert {key for key in new if new[key] != old[key]} <= keys <= set(new)
    assert len({setting.key for setting in named}) == len(named), "a key has one value and one source"
    assert [setting.key for setting in named if len(setting.source) < 4] == []
    for setting in named:
        if setting.key not in ("ppo.score.length_penalty", "ppo.score.length_target"):
            assert json.loads(setting.value) == after[setting.key], setting.key


def test_all_recipes_name_the_same_keys():
    keys = {name: {setting.key for setting in settings(path(name))} for name in NAMES}
    assert keys["icegrt"] == keys["n_plus"] == keys["ppo_max"] == keys["dapo"] == keys["vapo"]


@of_recipe
def test_on_the_embedded_domain_only_the_method_is_another_at_as_many_responses(name):
    found = flatten(load_config(f"{path(name)}:quickstart"))
    responses = lambda config: config["ppo.batch_size"] * config["ppo.samples_per_prompt"]
    assert responses(found) == responses(QUICKSTART)
    method = {setting.key for setting in settings(path(name)) if setting.part == "recipe"}
    changed = {key for key in found if found[key] != QUICKSTART[key]}
    assert changed <= method | {"ppo.batch_size"} | (WARM if name == "vapo" else set())
    assert bool(changed) == (name != "icegrt"), "which is what the quickstart does"


def test_a_config_of_ones_own_takes_a_method_and_keeps_its_sizes():
    config = load_config(str(ROOT / "configs" / "own.py"))
    before = flatten(config)
    apply(path("dapo"), config)
    after = flatten(config)
    assert after["ppo.estimator"] == "grpo" and after["ppo.cliprange_high"] == 0.28
    for key in ("ppo.batch_size", "ppo.policy_optimizer.lr", "model.path", "ppo.rewards.mine", "ppo.lora.rank"):
        assert after[key] == before[key]
    checks.check(read(config))


def test_the_soft_punishment_of_dapo_is_the_papers_at_its_lengths():
    config = default_config()
    config.max_response_length = 20480
    apply(path("dapo"), config)
    assert config.ppo.score.length_target == 16384 and config.ppo.score.length_penalty == 1 / 4096


def test_the_page_is_made_from_the_files():
    assert (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8") == recipes.page(FOLDER)
