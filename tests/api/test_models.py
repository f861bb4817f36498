"""What load_model opens, what each kind of model can be asked, and scores of texts."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.training.forward import answer_scores


def test_a_run_s_folder_is_its_newest_finished_policy(finished, tmp_path):
    run, _ = finished
    newest, ppo = ice.load_model(run), ice.load_model(run / "ppo")
    jax.tree.map(np.testing.assert_array_equal, newest.params, ppo.params)
    part = tmp_path / "run"
    shutil.copytree(run / "tokenizer", part / "tokenizer")
    shutil.copytree(run / "sft", part / "sft")
    (part / "ppo").mkdir()  # begun
    jax.tree.map(np.testing.assert_array_equal, ice.load_model(part).params, ice.load_model(run / "sft").params)
    (part / "sft" / "done.json").unlink()
    with pytest.raises(
        ice.UserError, match="sft/done.json is gone; bring it back"
    ):  # else it would be another's policy
        ice.load_model(part)
    (part / "sft" / "checksums.json").unlink()
    with pytest.raises(ice.UserError, match="the run has no policy yet, none of its stages ppo, sft, pretrain has fin"):
        ice.load_model(part)


def test_reward_and_value_models_have_scores_and_values_and_no_logits(finished):
    run, _ = finished
    reward, value = ice.load_model(run / "reward"), ice.load_model(run / "ppo", role="value")
    tokens, mask = jnp.array([[0, 5, 6, 7], [5, 6, 0, 0]]), jnp.array([[0, 1, 1, 1], [1, 1, 0, 0]], bool)
    for model in (reward, value):
        values, scores = model.values(model.params, tokens, mask), model.scores(model.params, tokens, mask)
        assert values.shape == (2, 4) and jnp.allclose(scores, jnp.stack([values[0, 3], values[1, 1]]))
        assert jnp.allclose(scores, answer_scores(model.params, model.config, tokens, mask), atol=1e-6)
        with pytest.raises(ice.UserError, match="logits: this is a reward or value model, which has no logits"):
            model.logits(model.params, tokens, mask)
        with pytest.raises(ice.UserError, match="generate: this is a reward or value model"):
            ice.generate(model, ["a"], key=jax.random.key(0))
    assert reward.measured is not None and value.measured is None
    policy = ice.load_model(run / "sft")
    with pytest.raises(ice.UserError, match="scores: .*language model|values: this is a language model"):
        policy.scores(policy.params, tokens, mask)
    with pytest.raises(ice.UserError, match="holds policy, no value"):
        ice.load_model(run / "sft", role="value")


def test_a_role_that_is_none_or_is_not_there_is_refused(here):
    with pytest.raises(ice.UserError, match="role='critic'; expected one of 'policy', 'value', 'reward'"):
        ice.load_model("models/policy", role="critic")
    with pytest.raises(ice.UserError, match="models/policy: holds a language model, no reward"):
        ice.load_model("models/policy", role="reward")


def test_a_saved_reward_model_is_loaded_with_the_same_scores(here, tmp_path):
    model = ice.load_model("models/reward")
    kept = dataclasses.replace(model, params={**model.params, "head": {**model.params["head"], "bias": jnp.ones(1)}})
    ice.save_model(kept, tmp_path / "model")
    asked = (["the cat"], ["sat"])
    assert ice.score(ice.load_model(tmp_path / "model"), *asked) == pytest.approx(ice.score(model, *asked) + 1)
    assert "AutoModelForSequenceClassification" in (tmp_path / "model" / "README.md").read_text()


def test_scores_depend_neither_on_the_batch_nor_on_how_a_prompt_is_written(here):
    model = ice.load_model("models/reward")
    prompts, answers = ["the cat", "the end", "the mat"], ["sat", "is near the cat", "on the mat sat the cat"]
    together = ice.score(model, prompts, answers)
    alone = [ice.score(model, [[{"role": "user", "content": p}]], [a])[0] for p, a in zip(prompts, answers)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(
        ice.score(model, [{"prompt": p} for p in prompts], answers, batch_size=2), alone, atol=1e-6
    )
    cut = ice.score(model, prompts, answers, finished=[True, False, True])
    assert cut[0] == together[0] and cut[1] != together[1]


@pytest.mark.parametrize(
    "prompts, responses, keys, message",
    [
        (["a", "b"], ["x"] * 3, {}, "3 responses to 2 prompts; expected as many for each prompt"),
        (["a"], "x", {}, "responses: expected a list of texts"),
        (["a"], [1], {}, "responses: expected a list of texts"),
        ("a", ["x"], {}, "prompts='a'; expected a list"),
        ([3], ["x"], {}, r"prompts\[0\]: 3 is no prompt; expected a string"),
        ([{"promt": "a"}], ["x"], {}, r"prompts\[0\]: "),
        ([""], ["x"], {}, r"prompts\[0\]: field 'prompt' is empty"),
        (["a"], ["x"], {"finished": [True, False]}, "finished has 2 items for 1 responses"),
        (["a"], ["x"], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(here, prompts, responses, keys, message):
    with pytest.raises(ice.UserError, match=message):
        ice.score(ice.load_model("models/reward"), prompts, responses, **keys)


def test_scores_of_a_language_model_are_refused(here):
    with pytest.raises(ice.UserError, match="score: this is a language model, which has no scalar head"):
        ice.score(ice.load_model("models/policy"), ["a"], ["b"])
