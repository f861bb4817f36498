"""A finished reward model, `reward.init=FOLDER` with `reward.steps=0`: used as it is, measured and normalised."""

import math
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import files, sums
from icegrt_jax.data.tokenizers import load_tokenizer, same_tokenizer
from icegrt_jax.models.hf.folder import load_hf, save_hf
from icegrt_jax.runs import reward_model
from icegrt_jax.training.metrics import read_metrics
from icegrt_jax.training.restore import load_role
from tests.commands.reward_folders import tiny_folder
from tests.commands.runs import call, copy_parts, inside
from tests.commands.test_reward_tokenizer import by_hand, normalised_on
from tests.data.second_tokenizer import second_tokenizer

KEYS = {"reward.steps": 0, "reward.normalize_on": 4, "reward.heldout_limit": 4, "ppo.iterations": 2}


def refused(capsys, stage, workdir, **keys):
    """The sentence of a command that must leave nothing."""
    assert call(stage, workdir, **{"ppo.num_minibatches": 1, **keys}) == 2
    assert not workdir.exists()
    return capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(False, id="the policy's tokenizer"),
        pytest.param(True, id="its own tokenizer", marks=pytest.mark.slow),
    ],
)
def test_a_whole_run_from_a_finished_reward_model(finished, tmp_path, own):
    workdir, folder = tmp_path / "run", tmp_path / "given"
    copy_parts(finished, workdir, "data", "tokenizer", "pretrain", "sft")
    policy = load_tokenizer(workdir / "tokenizer")
    tokenizer = second_tokenizer(tmp_path / "second") if own else policy
    tiny_folder(folder, tokenizer)
    keys = {**KEYS, "reward.init": folder, **({"value.init": "sft", "reward.length": 400} if own else {})}
    process = inside("run", workdir, **keys)
    assert process.returncode == 0, process.stderr

    config, given = load_hf(folder)
    kept_config, kept = load_role(workdir / "reward", "reward")
    assert kept_config == config
    chex.assert_trees_all_equal(kept, given)
    done = files.read_json(workdir / "reward" / "done.json")
    assert done["step"] == 0 and done["same_tokenizer"] is not own
    assert 0 <= done["heldout"]["made/accuracy"] <= 1 and not (workdir / "reward" / "metrics.jsonl").exists()
    assert same_tokenizer(load_tokenizer(workdir / "reward" / "tokenizer"), tokenizer)
    stage, asked = normalised_on(workdir)
    prompts, out = (
        asked.prompts,
        reward_model.sample_instruct(stage, "reward", asked, stage.key("normalize"), num_samples=1),
    )
    scores = by_hand(given, config, tokenizer, [prompt.prompt for prompt in prompts], out.text, out.finished)
    if own:  # of the policy's own, ids are scored, which the text need not give again
        assert done["ref_mean"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert done["ref_std"] == pytest.approx(np.std(scores), abs=1e-4)
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert len(rows) == 2 and all(math.isfinite(row["score_raw"]) for row in rows)
    if not own:  # the critic starts from it, in units of the normalised score
        assert files.read_json(workdir / "ppo" / "done.json")["models"]["value"] == done["models"]["reward"]
    table = files.read_json(workdir / "evaluate" / "results.json")
    assert table["order"] == ["base", "ICE-Instruct", "best-of-2", "ICE-GRT"]


@pytest.mark.parametrize("stage", ["run", "reward", "ppo"])
def test_what_scores_nothing_is_refused_before_anything_is_written(finished, tmp_path, capsys, stage):
    tiny_folder(tmp_path / "lm", load_tokenizer(finished[0] / "tokenizer"), scalar_head=False)
    error = refused(capsys, stage, tmp_path / "new", **KEYS, **{"reward.init": tmp_path / "lm", "value.init": "sft"})
    assert error.startswith(f"reward.init='{tmp_path / 'lm'}' with reward.steps=0: a language model, which scores")
    error = refused(capsys, stage, tmp_path / "new", **KEYS)
    assert error.startswith("reward.steps=0 with reward.init='sft': PPO would have no reward model")


@pytest.mark.parametrize("stage, first", [("ppo", "sft"), ("reward", "sft"), ("evaluate", "sft"), ("sft", "pretrain")])
def test_a_stage_in_a_fresh_workdir_says_what_comes_first(tmp_path, capsys, stage, first):
    error = refused(capsys, stage, tmp_path / "new")
    assert error == f"{tmp_path}/new/{first}: the {first} stage has not finished; run `icegrt {first}` first."


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    assert "nothing to report" in refused(capsys, "report", tmp_path / "new")


def test_ppo_without_a_reward_model_says_which_stage_comes_first(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft")
    assert call("ppo", workdir, **{"ppo.num_minibatches": 1}) == 2
    assert "the reward stage has not finished; run `icegrt reward` first." in capsys.readouterr().err


def test_a_reward_folder_smaller_than_its_tokenizer_is_refused_before_anything_is_written(tmp_path, capsys):
    tokenizer = second_tokenizer(tmp_path / "second")
    tiny_folder(tmp_path / "small", tokenizer, rows=tokenizer.vocab_size - 1)
    keys = {"reward.init": tmp_path / "small", "value.init": "sft"}
    error = refused(capsys, "run", tmp_path / "new", **keys)
    assert error.startswith(f"reward.init='{tmp_path / 'small'}': the tokenizer has {tokenizer.vocab_size} ids")


def test_weights_that_are_not_finite_end_the_stage_before_it_is_done(finished, tmp_path, capsys):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft")
    config, params = tiny_folder(tmp_path / "given", load_tokenizer(workdir / "tokenizer"))
    broken = {**params, "final_norm": {"scale": params["final_norm"]["scale"].at[0].set(jnp.nan)}}
    save_hf(tmp_path / "broken", config, broken, load_tokenizer(workdir / "tokenizer"))
    assert call("reward", workdir, **KEYS, **{"reward.init": tmp_path / "broken"}) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'broken'}: weights that are not finite: final_norm/scale; the model is damaged" in error
    assert not (workdir / "reward" / "done.json").exists()


@pytest.mark.parametrize("stage", ["sft", "ppo", "evaluate"])
def test_a_run_whose_tokenizer_has_grown_is_refused_in_every_stage(finished, tmp_path, capsys, stage):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "pretrain", "sft", "reward")
    if stage == "sft":
        shutil.rmtree(workdir / "sft")
    tokenizer = load_tokenizer(workdir / "tokenizer").tokenizer
    tokenizer.add_tokens(["supercalifragilistic"])
    tokenizer.save_pretrained(workdir / "tokenizer")
    sums.take(workdir / "tokenizer")
    assert call(stage, workdir, **{"ppo.num_minibatches": 1}) == 2
    error = capsys.readouterr().err
    assert "they do not belong together: 'supercalifragilistic' is id" in error
