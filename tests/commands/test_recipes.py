"""The recipes as a user takes them: with a model folder and data they pass the checks of the inputs and are planned."""

import json
import pathlib

import pytest

from icegrt_jax import commands
from icegrt_jax.commands.planned import Planned
from icegrt_jax.config import read
from icegrt_jax.config.file import load_config
from icegrt_jax.config.recipes import NAMES
from icegrt_jax.data.tokenizers import load_tokenizer, train_bpe
from icegrt_jax.plan.plan import make_target
from icegrt_jax.plan.topology import parse_topology
from icegrt_jax.runs import inputs
from tests.commands.reward_folders import tiny_folder

FOLDER = pathlib.Path(__file__).parents[2] / "configs" / "recipes"
STAGES = tuple(command.get("STAGE") for command in commands.in_run())
ROWS = {
    **dict.fromkeys(("instructions", "instructions_domain", "instructions_general"), {"prompt": "a", "response": "b"}),
    "rankings": {"prompt": "a", "chosen": "b", "rejected": "c"},
    **dict.fromkeys(("prompts", "eval_prompts"), {"prompt": "a", "reference": "b"}),
}
RULE = "def reward(prompts, responses, records):\n    return [1.0 for _ in responses]\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Where a user's files are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ICEGRT_DATA", raising=False)
    train_bpe(["a b c"], 280, tmp_path / "bpe")
    tiny_folder(tmp_path / "models" / "base", load_tokenizer(tmp_path / "bpe"), scalar_head=False)
    for name, row in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "my_reward.py").write_text(RULE)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_with_a_users_model_and_data_is_ready_to_run(name, here):
    options = read(load_config(str(FOLDER / f"{name}.py")))
    assert inputs.check(options, here / "run", *STAGES) == []
    names = [program.name for program in Planned(options, make_target(parse_topology("cpu:8")), 4).all_programs()[1]]
    assert {"sft update", "ppo update"} <= set(names)
    assert ("reward update" in names) == (name not in ("dapo", "vapo")), "a rule needs no reward model"
