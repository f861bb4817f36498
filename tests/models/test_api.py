"""Loading a model with its tokenizer: what fits together and what does not."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.data.tokenizers import ChatTokenizer, train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model, load_hf_model, save_model
from icegrt_jax.models.hf.folder import save_hf
from tests.models.examples import CONFIG, make_params, make_tokens

FITTING = dataclasses.replace(CONFIG, vocab_size=300)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ChatTokenizer:
    return train_bpe(["12 apples and 30 pears"], 300, tmp_path_factory.mktemp("tokenizer"))


def test_a_saved_model_is_loaded_whole(tmp_path, tokenizer):
    model = Model(FITTING, make_params(FITTING), tokenizer)
    save_model(model, tmp_path / "model")
    loaded = load_hf_model(tmp_path / "model")
    assert loaded.config == FITTING
    chex.assert_trees_all_equal(loaded.params, model.params)
    messages = [{"role": "user", "content": "12 pears"}]
    assert loaded.tokenizer.encode_prompt(messages) == tokenizer.encode_prompt(messages)


def test_logits_ignore_padding_on_either_side_and_can_be_differentiated(tokenizer):
    model = Model(FITTING, make_params(FITTING), tokenizer)
    tokens = make_tokens(1, 4)
    bare = model.logits(model.params, tokens, jnp.ones((1, 4), jnp.bool_))
    pad = ((0, 0), (2, 2))
    mask = jnp.pad(jnp.ones((1, 4), jnp.bool_), pad)
    padded = model.logits(model.params, jnp.pad(tokens, pad), mask)
    assert padded.shape == (1, 8, 300) and padded.dtype == jnp.float32
    chex.assert_trees_all_close(padded[:, 2:6], bare, atol=1e-5)
    grads = jax.grad(lambda params: model.logits(params, tokens, mask[:, 2:6]).sum())(model.params)
    assert jnp.abs(grads["final_norm"]["scale"]).min() > 0.0


def test_what_is_no_language_model_with_its_tokenizer_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="no model here"):
        load_hf_model(tmp_path)
    save_hf(tmp_path / "reward", FITTING, make_params(FITTING, scalar_head=True), tokenizer)
    with pytest.raises(UserError, match="reward or value model"):
        load_hf_model(tmp_path / "reward")
    save_hf(tmp_path / "small", CONFIG, make_params(), tokenizer)
    with pytest.raises(UserError, match=f"{tokenizer.vocab_size} ids, the embedding 50 rows"):
        load_hf_model(tmp_path / "small")
    save_hf(tmp_path / "mute", FITTING, make_params(FITTING), None)
    with pytest.raises(UserError, match="no tokenizer"):
        load_hf_model(tmp_path / "mute")
