"""One source of defaults: the config of the command line, the typed options and what the maths takes say the same."""

import dataclasses
import json
import pathlib
import typing

import pytest
from ml_collections import ConfigDict

from icegrt_jax.config import check, default_config, page, read
from icegrt_jax.config import file as config_file
from icegrt_jax.config import options as sections
from icegrt_jax.config.reruns import ADDED, GONE
from icegrt_jax.errors import UserError
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.lora import LoRAConfig
from icegrt_jax.rl import AdaptiveKL
from icegrt_jax.runs.roles import ppo_config
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import PPOConfig

ROOT = pathlib.Path(__file__).parents[2]
SAVED = pathlib.Path(__file__).parent / "saved"  # by the code before there were typed options
CONFIGS = json.loads((SAVED / "configs.json").read_text())


def shown(value):
    """A value as config.json has it, with its type: 1 and 1.0 are two values."""
    return json.dumps(list(value) if isinstance(value, tuple) else value.to_dict() if hasattr(value, "keys") else value)


def saved_config(name="config.json"):
    return config_file.from_json((SAVED / name).read_text())


def test_every_default_is_what_it_was_and_of_its_type():
    now = config_file.flatten(default_config())
    for key, value in config_file.flatten(saved_config()).items():
        assert (type(now[key]), shown(now[key])) == (type(value), shown(value)), key


@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_of_a_config_that_ships_is_what_it_was(name):
    now = config_file.flatten(config_file.load_config(f"{ROOT / 'configs' / name}"))
    before = config_file.flatten(saved_config())
    kept = {key: shown(value) for key, value in before.items() if not hasattr(value, "keys")}
    expected = {**kept, **{key: json.dumps(value) for key, value in CONFIGS[name].items()}}
    assert {key: shown(now[key]) for key in expected} == expected


def test_a_run_with_a_config_saved_before_goes_on(tmp_path):
    config_file.save_resolved(saved_config(), tmp_path)
    config_file.check_same(default_config(), tmp_path, gone=GONE, added=ADDED)
    check(read(saved_config()))
    assert read(saved_config()) == sections.Options()


def test_reading_the_default_config_gives_the_default_options():
    assert read(default_config()) == sections.Options()
    assert config_file.to_json(default_config()) == config_file.to_json(
        config_file.from_json(config_file.to_json(default_config()))
    )


def test_what_a_config_sets_is_read_in_the_type_of_its_key():
    config = default_config()
    config.sft.sources.b, config.sft.sources.a = "jsonl:b", "jsonl:a"
    config.sft.weights.update({"a": 1, "b": 0.5})
    config.ppo.lora.targets = ["q", "v"]
    config.ppo.kl.target = 2
    options = read(config)
    assert list(options.sft.sources.items()) == [("a", "jsonl:a"), ("b", "jsonl:b")], "the order of the records"
    assert options.sft.weights == {"a": 1.0, "b": 0.5} and options.ppo.lora.targets == ("q", "v")
    assert shown(options.ppo.kl.target) == "2.0" and options.pretrain.sources == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.ppo.lam = 0.9


@pytest.mark.parametrize(
    "values, message",
    [
        ({"ppo": {"lambd": 0.9}}, "unknown key ppo.lambd; did you mean ppo.lam?"),
        ({"seed": "one"}, "seed='one'; expected a whole number."),
        ({"seed": True}, "seed=True; expected a whole number."),
        ({"sft": {"packing": 1}}, "sft.packing=1; expected true or false."),
        ({"sft": {"weights": {"mine": "half"}}}, "sft.weights.mine='half'; expected a number."),
        ({"sft": {"sources": "jsonl:rows"}}, "sft.sources='jsonl:rows'; expected a group of names."),
        ({"model": "llama"}, "model='llama'; expected a group of keys."),
        ({"model": {"remat": "all"}}, "model.remat='all'; expected one of 'none', 'dots', 'full'."),
        ({"ppo": {"kl": {"band": (0.5,)}}}, "ppo.kl.band=(0.5,); expected 2 values."),
        ({"ppo": {"lora": {"targets": ()}}}, "ppo.lora.targets=(); expected some of q, k, v, o, gate, up, down."),
    ],
)
def test_what_no_option_can_be_is_one_sentence(values, message):
    with pytest.raises(UserError) as error:
        read(ConfigDict(values))
    assert str(error.value) == message


def test_a_key_that_a_config_does_not_have_has_its_default():
    assert read(ConfigDict({"ppo": {"kl": {"coef": 0.1}}})).ppo.kl == sections.KLOptions(coef=0.1)


def test_python_has_the_defaults_of_the_command_line():
    flat = config_file.flatten(default_config())
    model = ModelConfig(vocab_size=8)
    assert {name: getattr(model, name) for name in shape_keys()} == {
        name: flat[f"model.{name}"] for name in shape_keys()
    }
    for group in ("sft.optimizer", "reward.optimizer", "ppo.policy_optimizer", "ppo.value_optimizer"):
        made = dataclasses.asdict(OptimizerConfig(lr=flat[f"{group}.lr"], total_steps=9))
        assert made == {**default_config_group(group), "total_steps": 9}
    for group in ("sft.lora", "reward.lora", "ppo.lora"):
        assert dataclasses.asdict(LoRAConfig(rank=8)) == {**default_config_group(group), "rank": 8}
    sampler = dataclasses.asdict(SamplerConfig(max_new_tokens=flat["max_response_length"]))
    drawn = {name: flat[f"ppo.{name}"] for name in ("temperature", "top_k", "top_p", "min_p", "cache_dtype")}
    assert sampler == {**drawn, "max_new_tokens": 64, "eos_ids": (), "pad_id": 0}
    assert PPOConfig() == ppo_config(sections.PPOOptions(), sections.ValueOptions())
    controller = AdaptiveKL.create(flat["ppo.kl.coef"])
    assert (controller.target, controller.horizon) == (flat["ppo.kl.target"], flat["ppo.kl.horizon"])
    assert controller.adaptive == flat["ppo.kl.adaptive"]


def shape_keys():
    return [field.name for field in dataclasses.fields(sections.ShapeOptions)]


def default_config_group(name):
    config = default_config()
    for part in name.split("."):
        config = config[part]
    return dict(config.items())


def test_every_option_says_what_it_means_in_few_words():
    for section in vars(sections).values():
        if isinstance(section, type) and section.__module__ == sections.__name__:
            said = page.comments(section)
            assert set(said) == {field.name for field in dataclasses.fields(section)} and all(said.values()), section
            assert section.__dataclass_params__.frozen and all(field.kw_only for field in dataclasses.fields(section))


def test_the_page_of_keys_is_what_the_options_say():
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == page.page(), (
        "make it again: python -m icegrt_jax.config.page > docs/config.md"
    )
    keys = [line.split("`")[1] for line in page.page().splitlines() if line.startswith("| `")]
    assert sorted(keys) == sorted(config_file.flatten(default_config()))


def test_a_choice_stands_once():
    """Every `Literal` of an option is a name of `choices.py`; where it is checked, its values are asked for."""
    for section in vars(sections).values():
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            for kind in typing.get_type_hints(section).values():
                assert typing.get_origin(kind) is not typing.Literal or kind in vars(sections).values()
