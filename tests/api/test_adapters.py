"""What a training of an adapter gives back: a whole model, which the next training may put an adapter onto."""

import jax
import jax.numpy as jnp
import numpy as np

import icegrt_jax as ice


def test_the_adapter_is_merged_into_the_model_that_comes_out(here):
    model = ice.load_model("models/policy")
    rows = [{"prompt": "the cat", "response": "sat"}] * 8
    training = ice.sft(model, rows, steps=2, batch_size=8, length=32, lora={"rank": 2}, optimizer={"lr": 1e-1})
    tuned = training.finish()
    assert jax.tree.structure(tuned.params) == jax.tree.structure(model.params), "no adapter is left in it"
    tokens, mask = jnp.array([[5, 6, 7]]), jnp.ones((1, 3), bool)
    full = training.state.full("policy")
    np.testing.assert_allclose(tuned.logits(tuned.params, tokens, mask), tuned.logits(full, tokens, mask), atol=1e-5)
    assert (
        float(jnp.abs(tuned.logits(tuned.params, tokens, mask) - model.logits(model.params, tokens, mask)).max()) > 1e-3
    )
    ice.save_model(tuned, "merged")
    again = ice.load_model("merged")
    jax.tree.map(np.testing.assert_array_equal, again.params, tuned.params)
