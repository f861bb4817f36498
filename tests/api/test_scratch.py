"""A model from nothing, and its training on plain text."""

import jax
import numpy as np
import pytest

import icegrt_jax as ice

SHAPE = dict(d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16)
TEXTS = ["the cat sat on the mat", "the end is near"] * 4


def test_a_new_model_reads_with_a_tokenizer_of_its_texts():
    model = ice.new_model(TEXTS, vocab_size=280, max_length=48, **SHAPE)
    assert (model.config.d_model, model.config.max_length, model.config.vocab_size) == (
        16,
        48,
        len(model.tokenizer.tokenizer),
    )
    assert len(model.tokenizer.encode_text("the mat")) < len("the mat")
    again, other = (ice.new_model(TEXTS, vocab_size=280, seed=seed, **SHAPE) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(other.params)))


def test_a_misspelt_shape_and_a_single_text_are_refused():
    with pytest.raises(ice.UserError, match="unknown key model.d_modle; did you mean model.d_model"):
        ice.new_model(TEXTS, d_modle=16)
    with pytest.raises(ice.UserError, match="texts: expected several texts, got one"):
        ice.new_model("the cat")


def test_pretraining_learns_the_texts(here):
    model = ice.load_model("models/policy")
    training = ice.pretrain(model, {"a": TEXTS, "b": [{"text": "on the mat"}]}, weights={"a": 3.0, "b": 1.0},
                            steps=8, batch_size=8, length=32, optimizer={"lr": 3e-2})  # fmt: skip
    losses = [metrics["loss"] for _, metrics in training]
    assert losses[-1] < 0.8 * losses[0]
    with pytest.raises(ice.UserError, match="texts\\[1\\]: 3 is no text; expected a string or"):
        ice.pretrain(model, ["a", 3], steps=1)
