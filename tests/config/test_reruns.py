"""What has been shaped by a key of the config, and so keeps it from being changed."""

import pathlib

import pytest

from icegrt_jax import commands
from icegrt_jax.config import default_config
from icegrt_jax.config import file as config_file
from icegrt_jax.config.reruns import ADDED, GONE, used_by
from icegrt_jax.errors import UserError


@pytest.fixture
def workdir(tmp_path):
    """As a run leaves it whose PPO has failed."""
    for part in ("pretrain", "sft", "reward", "ppo", "data"):
        (tmp_path / part).mkdir()
    (tmp_path / "data" / "own_rankings.jsonl").touch()
    config_file.save_resolved(default_config(), tmp_path)
    return tmp_path


def names(workdir, key):
    paths = used_by(commands.parts(), workdir, key)
    return None if paths is None else [str(path.relative_to(workdir)) for path in paths]


def test_a_key_has_shaped_its_own_part_and_those_after_it(workdir):
    own = "data/own_rankings.jsonl"
    assert names(workdir, "ppo.policy_optimizer.lr") == ["ppo"]
    assert names(workdir, "evaluate.limit") == [], "nothing has been evaluated"
    assert names(workdir, "reward.optimizer.lr") == ["reward", "ppo"]
    assert names(workdir, "sft.optimizer.lr") == ["sft", own, "reward", "ppo"]
    assert names(workdir, "seed") is None and names(workdir, "pretraining") is None


def test_a_stage_that_was_killed_before_it_made_anything_is_shaped_by_nothing(workdir):
    (workdir / "evaluate").mkdir()
    (workdir / "evaluate" / "times.jsonl").touch()
    assert names(workdir, "evaluate.limit") == []
    (workdir / "evaluate" / "by_prompt.jsonl").touch()
    assert names(workdir, "evaluate.limit") == ["evaluate"]


def test_what_an_earlier_part_has_read_of_a_later_section_counts_there(workdir):
    own = "data/own_rankings.jsonl"
    assert names(workdir, "ppo.temperature") == [own, "reward", "ppo"], "own answers are sampled at it"
    assert names(workdir, "reward.on_policy_k") == [own, "reward", "ppo"]
    assert names(workdir, "ppo.sources.prompts") == ["reward", "ppo"], "the scores are normalised on them"
    assert names(workdir, "evaluate.batch_size") == ["reward", "ppo"]


def test_every_section_of_a_stage_is_known():
    sections = {key for keys in commands.parts().values() for key in keys if "." not in key}
    groups = {name for name, value in default_config().items() if hasattr(value, "items")}
    assert groups - sections == {"domain_sizes", "mesh", "tokenizer", "model", "log"}, "shape all; mesh, log nothing"
    for keys in commands.parts().values():
        for key in keys:
            assert any(f"{flat}.".startswith(f"{key}.") for flat in config_file.flatten(default_config())), key


def check(workdir, **changes):
    config = default_config()
    config.update_from_flattened_dict(changes)
    config_file.check_same(config, workdir, used_by=lambda key: used_by(commands.parts(), workdir, key))


def test_a_failed_stage_begins_anew_with_other_values_once_it_is_deleted(workdir):
    with pytest.raises(UserError) as error:
        check(workdir, **{"ppo.policy_optimizer.lr": 1e-5})
    assert str(error.value).endswith(f"or delete what they have shaped and begin there anew: {workdir / 'ppo'}.")
    (workdir / "ppo").rmdir()
    check(workdir, **{"ppo.policy_optimizer.lr": 1e-5, "evaluate.limit": 3})
    with pytest.raises(UserError, match="delete what they have shaped .*/data/own_rankings.jsonl, .*/reward.$"):
        check(workdir, **{"ppo.policy_optimizer.lr": 1e-5, "ppo.temperature": 0.5})
    with pytest.raises(UserError, match="seed 0 → 1.* delete this one, or repeat its values.$"):
        check(workdir, **{"ppo.policy_optimizer.lr": 1e-5, "seed": 1})


def test_in_an_empty_workdir_only_what_shapes_everything_counts(tmp_path):
    config_file.save_resolved(default_config(), tmp_path)
    check(pathlib.Path(tmp_path), **{"sft.batch_size": 4})
    with pytest.raises(UserError, match="max_prompt_length"):
        check(pathlib.Path(tmp_path), max_prompt_length=7)


@pytest.mark.parametrize("key, value", GONE.items())
def test_a_run_made_when_a_key_was_there_goes_on_where_it_did_nothing(tmp_path, key, value):
    old = default_config().unlock()
    old.update_from_flattened_dict({key: value})
    config_file.save_resolved(old, tmp_path)
    config_file.check_same(default_config(), tmp_path, gone=GONE)
    old.update_from_flattened_dict({key: True})
    config_file.save_resolved(old, tmp_path)
    with pytest.raises(UserError, match=f"{key} true → "):
        config_file.check_same(default_config(), tmp_path, gone=GONE)


@pytest.mark.parametrize("key", ADDED)
def test_a_run_made_before_a_key_was_there_goes_on_where_it_does_nothing(tmp_path, key):
    old, new = default_config().unlock(), default_config()
    group, _, name = key.rpartition(".")
    holder = lambda config: config[group] if group else config
    del holder(old)[name]
    config_file.save_resolved(old, tmp_path)
    config_file.check_same(new, tmp_path, added=ADDED)
    if isinstance(ADDED[key], dict):
        holder(new)[name].mine, said = "exact", f'{key}.mine .absent. → "exact"'
    else:
        number = lambda value: not value if isinstance(value, bool) else type(value)(5)
        other = ("other",) if isinstance(ADDED[key], tuple) else number(ADDED[key])
        holder(new)[name], said = other, f"{key} .* → "
    with pytest.raises(UserError, match=said):
        config_file.check_same(new, tmp_path, added=ADDED)
