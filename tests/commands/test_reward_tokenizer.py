"""A reward model with its own tokenizer and chat template, from its folder to PPO and best-of-n."""

import dataclasses
import functools
import itertools
import signal
import types

import chex
import jax
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.config import read
from icegrt_jax.config.convert import with_values
from icegrt_jax.config.file import from_json
from icegrt_jax.config.options import LengthOptions, RewardOptions
from icegrt_jax.data.encode import cut_prompt
from icegrt_jax.data.packing import left_pad, right_pad
from icegrt_jax.data.records import Prompt, Ranking, read_jsonl, user
from icegrt_jax.data.tokenizers import load_tokenizer, train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.runs import reward_model, rundir, scoring, stage_models
from icegrt_jax.runs.scoring import Reader, make_reader, score_generation
from icegrt_jax.sampling import Rollout
from icegrt_jax.sampling.generate import Generation
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.forward import answer_scores
from icegrt_jax.training.metrics import read_metrics
from tests.commands.reward_folders import tiny_folder
from tests.commands.runs import call, copy_parts, inside, run
from tests.data.second_tokenizer import TEXTS, second_tokenizer

PROMPTS = [Prompt(user("review this ad. ad: true lamp.")), Prompt(user("<s>old</s> price?"))]
ANSWERS = ["verdict: accept.", "verdict: rej", "", "<|im_end|> and on"]
FINISHED = np.array([True, False, False, True])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return train_bpe([*TEXTS, "12 + 7"], 300, tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return second_tokenizer(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def folder(second, tmp_path_factory):
    """A ...ForSequenceClassification with the second tokenizer."""
    path = tmp_path_factory.mktemp("models") / "reward"
    tiny_folder(path, second)
    return path


def started(options, workdir):
    return rundir.start(options, options.lengths, options.mesh, workdir, compile_cache=True)


def a_run(tmp_path, tokenizer, **reward_keys):
    """A run in its first moment, and its reward section."""
    section = with_values(RewardOptions(), reward_keys)
    run = rundir.Run(
        workdir=tmp_path, mesh=make_mesh(), tokenizer=tokenizer, seed=0, data_dir="", lengths=LengthOptions(),
        rollout_tensor=0,
    )  # fmt: skip
    return run, section


def generation(tokenizer) -> Generation:
    """What a policy with this tokenizer has written: two answers to each prompt."""
    ids = [tokenizer.encode_prompt(prompt.prompt) for prompt in PROMPTS for _ in range(2)]
    prompts, prompt_mask = left_pad(ids, 64, tokenizer.pad_id)
    answers = [tokenizer.encode_text(text) + [tokenizer.eos_id] * int(end) for text, end in zip(ANSWERS, FINISHED)]
    tokens, mask = right_pad(answers, 32, tokenizer.pad_id)
    return Generation(prompts, prompt_mask, tokens, mask, FINISHED, np.zeros(mask.shape, np.float32), ANSWERS)


def normalised_on(workdir):
    """The run in a workdir, and what its scores were normalised on."""
    options = read(from_json((workdir / "config.json").read_text()))
    stage = started(options, workdir)
    prompts = reward_model.normalization_prompts(stage, options.ppo.sources, options.reward.normalize_on)
    return stage, reward_model.Asked(prompts, options.ppo, options.evaluate.batch_size)


def by_hand(params, config, tokenizer, prompts, texts, finished):
    """Scores of one row after another, padded to a width that no run uses."""
    score, scores = jax.jit(functools.partial(answer_scores, config=config)), []
    for prompt, text, ended in zip(prompts, texts, finished):
        ids, _ = tokenizer.encode_answer(prompt, text, finished=bool(ended))
        tokens, mask = right_pad([ids], 401, tokenizer.pad_id)
        scores.append(float(score(params, tokens=tokens, mask=mask)[0]))
    return np.array(scores)


def test_a_copy_of_the_policys_tokenizer_gives_equal_scores_by_both_ways(policy, tmp_path):
    config, params = tiny_folder(tmp_path / "reward", policy)
    copy = load_tokenizer(tmp_path / "reward")
    run, section = a_run(tmp_path, policy)
    assert make_reader(run, copy, section) is None, "ids pass straight through"
    out = generation(policy)
    as_ids = score_generation(None, params, config, PROMPTS, out, 2)
    as_text = score_generation(Reader(copy, 200), params, config, PROMPTS, out, 2)
    np.testing.assert_allclose(as_text, as_ids, atol=1e-5)
    assert np.ptp(as_ids) > 0.05


def test_another_tokenizer_reads_the_texts_and_counts_what_it_cuts(policy, second, folder, tmp_path, capsys):
    run, section = a_run(tmp_path, policy, score_length=150)
    config, params = stage_models.load_folder(run, str(folder), section.model)
    reader = make_reader(run, load_tokenizer(folder), section)
    assert reader.length == 150 and reader.tokenizer.eos_ids == second.eos_ids
    scores = score_generation(reader, params, config, PROMPTS, generation(policy), 3)
    messages = [prompt.prompt for prompt in PROMPTS for _ in range(2)]
    np.testing.assert_allclose(scores, by_hand(params, config, second, messages, ANSWERS, FINISHED), atol=1e-5)
    assert capsys.readouterr().out == ""
    shorter = Reader(second, len(second.encode_answer(PROMPTS[0].prompt, ANSWERS[1], finished=False)[0]))
    cut = score_generation(shorter, params, config, PROMPTS, generation(policy), 3)
    assert cut[1] == pytest.approx(scores[1], abs=1e-5) and abs(cut[0] - scores[0]) > 1e-4
    assert f"of 4 answers lost their end at {shorter.length} tokens" in capsys.readouterr().out


def test_a_rollout_is_read_as_the_policy_has_read_it_in_few_programs(policy, second, tmp_path):
    run, _ = a_run(tmp_path, policy)
    limit = len(policy.encode_prompt(PROMPTS[0].prompt)) - 4
    run = dataclasses.replace(run, lengths=LengthOptions(overlong_prompts="cut", max_prompt_length=limit))
    config, params = tiny_folder(tmp_path / "reward", second)
    state = types.SimpleNamespace(full=lambda role: params, model=lambda role: config)
    prompts, finished = [PROMPTS[0]] * 8, np.arange(8) % 2 == 0
    read = [cut_prompt(prompt.prompt, policy, limit) for prompt in prompts]
    assert 0 < len(read[0][0]["content"]) < len(PROMPTS[0].prompt[0]["content"])

    def scored(texts, length):
        ids = [policy.encode_text(text) + [policy.eos_id] * int(end) for text, end in zip(texts, finished)]
        responses, mask = right_pad(ids, 32, policy.pad_id)
        rollout = Rollout(None, None, responses, mask, None, finished)
        assert scoring.texts_of(run, rollout) == texts
        scores, counts = scoring.score_as_text(run, Reader(second, length), state, rollout, prompts, texts)
        return np.asarray(scores), counts["score_cut"]

    texts = ["verdict: accept"[: 2 + i] for i in range(8)]
    scores, cut = scored(texts, 256)
    np.testing.assert_allclose(scores, by_hand(params, config, second, read, texts, finished), atol=1e-5)
    assert cut == 0
    programs = scoring.compiled_scores._cache_size()
    assert scored([text + "." for text in texts], 256)[1] == 0
    assert scoring.compiled_scores._cache_size() == programs
    longest = max(len(second.encode_answer(read[0], text, finished=bool(end))[0]) for text, end in zip(texts, finished))
    assert scored(texts, longest - 1)[1] >= 1


def test_the_length_is_that_of_training_unless_given(policy, second, tmp_path):
    run, section = a_run(tmp_path, policy, length=77)
    assert make_reader(run, second, section).length == 77
    counts = Reader(second, 40).count([user("a"), user("a" * 60)])
    assert counts == {"prompts": 2, "longest": len(second.encode_prompt(user("a" * 60))), "no_room": 1}


def test_a_folder_brings_its_head_or_gets_a_new_one(policy, second, folder, tmp_path):
    run, section = a_run(tmp_path, policy, init=str(folder))
    config, params, _ = reward_model.initial_reward_model(run, second, section)
    expected, stored = tiny_folder(tmp_path / "again", second)
    assert (config.d_model, config.vocab_size) == (expected.d_model, expected.vocab_size)
    chex.assert_trees_all_close(jax.device_get(params), jax.device_get(stored))

    _, language_model = tiny_folder(tmp_path / "lm", second, scalar_head=False)
    keys = {"init": str(tmp_path / "lm"), "model.dtype": "bfloat16", "model.scan_layers": True}
    run, section = a_run(tmp_path, policy, **keys)
    config, params, _ = reward_model.initial_reward_model(run, second, section)
    assert config.dtype == "bfloat16" and config.scan_layers and "lm_head" not in params
    np.testing.assert_array_equal(params["embed"]["embedding"], language_model["embed"]["embedding"])
    assert params["head"]["kernel"].shape == (24, 1) and np.ptp(params["head"]["kernel"]) > 0

    tiny_folder(tmp_path / "small", second, rows=200)
    run, section = a_run(tmp_path, policy, init=str(tmp_path / "small"))
    with pytest.raises(UserError, match="the tokenizer has 310 ids, the embedding 200 rows; they do not belong"):
        reward_model.initial_reward_model(run, second, section)


# What cannot work is said before anything is written.


def refused(capsys, stage, workdir, **keys):
    assert call(stage, workdir, **{"ppo.num_minibatches": 1, **keys}) == 2
    assert not workdir.exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("stage", ["run", "pretrain", "sft", "reward", "ppo"])
def test_a_critic_cannot_start_from_a_reward_model_with_another_tokenizer(stage, folder, tmp_path, capsys):
    error = refused(capsys, stage, tmp_path / "new", **{"reward.init": folder})
    assert error == (
        f"error: reward.init='{folder}' has another tokenizer or chat template than the policy; the critic values the "
        "policy's tokens, so it cannot start from that model: set value.init='sft' or value.trunk='policy'.\n"
    )


def test_a_folder_without_tokenizer_or_without_anything_is_refused(tmp_path, capsys):
    error = refused(capsys, "run", tmp_path / "new", **{"reward.init": tmp_path / "none"})
    assert "no such folder; expected sft, scratch or a Hugging Face folder." in error
    (tmp_path / "empty").mkdir()
    error = refused(capsys, "run", tmp_path / "new", **{"reward.init": tmp_path / "empty", "value.init": "sft"})
    assert f"{tmp_path / 'empty'}: no tokenizer here" in error


def test_a_folder_with_the_policys_tokenizer_is_accepted_for_the_critic(finished, tmp_path):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft")
    tiny_folder(tmp_path / "elsewhere", load_tokenizer(workdir / "tokenizer"))
    assert call("reward", workdir, **{"reward.init": tmp_path / "elsewhere"}) == 0
    assert files.read_json(workdir / "reward" / "done.json")["same_tokenizer"] is True
    config = from_json((workdir / "config.json").read_text())
    assert scoring.load_reader(started(read(config), workdir), read(config).reward) is None


@pytest.mark.slow
def test_a_critic_from_ice_instruct_starts_at_zero(finished, tmp_path):
    workdir = copy_parts(finished, tmp_path / "run", "data", "tokenizer", "sft", "reward")
    assert call("ppo", workdir, **{"value.init": "sft", "ppo.iterations": 2, "ppo.num_minibatches": 1}) == 0
    rows = read_metrics(workdir / "ppo" / "metrics.jsonl")
    assert rows[0]["explained_variance"] == pytest.approx(0.0, abs=1e-4), "values of 0 explain nothing"
    assert rows[1]["value"] != 0 and rows[0]["value_loss"] > 0
    done = files.read_json(workdir / "ppo" / "done.json")
    assert done["models"]["value"] == done["models"]["policy"]


@pytest.fixture(scope="module")
def keys(folder):
    return {
        "reward.init": folder, "value.init": "sft", "reward.length": 400, "reward.score_length": 330,
        "reward.normalize_on": 4, "reward.heldout_limit": 4, "ppo.iterations": 4, "ppo.samples_per_prompt": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def rewarded(finished, keys, tmp_path_factory):
    """A workdir in which ICE-Reward has been trained from the folder."""
    workdir = copy_parts(finished, tmp_path_factory.mktemp("own") / "run", "data", "tokenizer", "sft")
    process = inside("reward", workdir, **keys)
    assert process.returncode == 0, process.stderr
    return workdir


@pytest.mark.slow
def test_ice_reward_is_trained_measured_and_normalised_with_its_own_tokenizer(rewarded, second, keys):
    done = files.read_json(rewarded / "reward" / "done.json")
    assert done["same_tokenizer"] is False and done["models"]["reward"]["vocab_size"] == second.vocab_size + 7
    assert 0 <= done["heldout"]["made/accuracy"] <= 1
    counts = files.read_json(rewarded / "reward" / "data.json")
    rankings = read_jsonl(rewarded / "data" / "rankings.jsonl", Ranking)
    sizes = [len(second.encode_answer(r.prompt, answer)[0]) for r in rankings for answer in r.responses]
    too_long = sum(size > keys["reward.length"] for size in sizes)
    assert counts["made"]["kept"] == len(rankings) and counts["made"]["answers_dropped"] == too_long
    assert counts["made"]["tokens"] == sum(size for size in sizes if size <= keys["reward.length"])
    assert counts["reward tokenizer"]["prompts"] == 4 and counts["reward tokenizer"]["no_room"] == 0
    kept = load_tokenizer(rewarded / "reward" / "tokenizer")
    assert scoring.same_tokenizer(kept, second)

    stage, asked = normalised_on(rewarded)
    config, params = stage_models.stage_params(stage, "reward", "reward")
    prompts, out = (
        asked.prompts,
        reward_model.sample_instruct(stage, "reward", asked, stage.key("normalize"), num_samples=1),
    )
    scores = by_hand(params, config, second, [prompt.prompt for prompt in prompts], out.text, out.finished)
    assert done["ref_mean"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert done["ref_std"] == pytest.approx(np.std(scores), abs=1e-4)


@pytest.fixture(scope="module")
def trained(rewarded, keys, tmp_path_factory):
    """A finished PPO run after `rewarded`."""
    workdir = copy_parts((rewarded,), tmp_path_factory.mktemp("ppo") / "run", *PARTS)
    process = run("ppo", workdir, **keys)
    assert process.returncode == 0, process.stderr
    return workdir


PARTS = ("data", "tokenizer", "sft", "reward")


@pytest.mark.slow
def test_ppo_is_scored_by_a_reward_model_that_reads_text(trained, second):
    rows = read_metrics(trained / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["first_ratio_error"] < 1e-4 and abs(rows[0]["kl"]) < 1e-3
    assert all(np.isfinite(row["score_raw"]) and row["score_cut"] == 0 for row in rows)
    assert files.read_json(trained / "ppo" / "data.json")["reward tokenizer"]["no_room"] == 0
    stage = started(read(from_json((trained / "config.json").read_text())), trained)
    config, params = stage_models.stage_params(stage, "reward", "reward")
    samples = files.read_jsonl(trained / "ppo" / "samples.jsonl")
    prompts, texts = [row["prompt"] for row in samples], [row["response"] for row in samples]
    ways = [by_hand(params, config, second, prompts, texts, [ended] * len(texts)) for ended in (True, False)]
    assert np.abs(np.array([row["score"] for row in samples]) - ways).min(axis=0).max() < 1e-4


@pytest.mark.slow
def test_ppo_with_another_tokenizer_killed_midway_ends_as_if_it_had_not_been(trained, keys, tmp_path):
    workdir = copy_parts((trained,), tmp_path / "run", *PARTS)
    assert run("ppo", workdir, stop=("ppo", 3, int(signal.SIGKILL)), **keys).returncode == -9
    assert run("ppo", workdir, **keys).returncode == 0
    for name in ("ppo/metrics.jsonl", "ppo/samples.jsonl", "ppo/done.json"):
        assert (workdir / name).read_bytes() == (trained / name).read_bytes(), name


@pytest.mark.slow
def test_best_of_n_is_chosen_by_a_reward_model_that_reads_text(rewarded, second, keys, tmp_path, monkeypatch):
    workdir = copy_parts((rewarded,), tmp_path / "run", "data", "tokenizer", "sft", "reward")
    prompts = read_jsonl(workdir / "data" / "eval_prompts.jsonl", Prompt)
    read, scored = [], scoring.compiled_scores

    def compiled_scores(params, *, config, tokens, mask):
        read.extend(row[keep].tolist() for row, keep in zip(tokens, mask))
        return scored(params, config=config, tokens=tokens, mask=mask)

    monkeypatch.setattr(scoring, "compiled_scores", compiled_scores)
    assert call("evaluate", workdir, **keys, **{"pretrain.steps": 0, "log.browsed": 0}) == 0
    starts = [second.encode_answer(prompt.prompt, "", finished=False)[0][:-1] for prompt in prompts]
    for ids, start in zip(read, itertools.chain.from_iterable((start, start) for start in starts), strict=True):
        assert ids[: len(start)] == start
