"""The check before the first update finds each of the usual causes, and nothing in a sound run."""

import jax
import jax.numpy as jnp
import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.training.first_check import check_first_rollout, disagreement, likely_cause
from tests.training.examples import POLICY, B, T, make_prompts, make_rollout, make_state


@pytest.fixture(scope="module")
def state():
    return make_state(temperature=0.7)


@pytest.fixture(scope="module")
def rollout(state):
    return make_rollout(state, temperature=0.7)


def test_a_sound_run_passes_with_differences_of_rounding_only(state, rollout):
    found = check_first_rollout(state, rollout)
    assert found["trainer"] < 1e-5 and found["reference"] < 1e-5 and found["repeated"] == 0


def test_a_reference_with_other_weights_is_found(rollout):
    with pytest.raises(UserError, match="Likely cause: weights not shared"):
        check_first_rollout(make_state(temperature=0.7, reference_seed=5), rollout)


def test_a_sampler_at_another_temperature_is_found(state):
    with pytest.raises(UserError, match="Likely cause: temperature"):
        check_first_rollout(state, make_rollout(state, temperature=1.0))


def test_a_sampler_that_read_the_padding_is_found(state, rollout):
    prompts, mask = make_prompts()
    config = SamplerConfig(max_new_tokens=T, temperature=0.7)
    keys = sequence_keys(jax.random.key(1), 0, B)
    blind = compiled_sampler(
        keys, state.params["policy"], prompts, jnp.ones_like(mask), model=POLICY, config=config, num_samples=1
    )
    with pytest.raises(UserError, match="Likely cause: mask"):
        check_first_rollout(state, blind.replace(prompt_mask=mask))


def test_a_trainer_that_reads_other_prompts_is_found(state, rollout):
    first = rollout.prompt_mask & (jnp.cumsum(rollout.prompt_mask, axis=1) == 1)
    changed = jnp.where(first, 1, rollout.prompts)  # as another BOS would be
    with pytest.raises(UserError, match="Likely cause: template or BOS"):
        check_first_rollout(state, rollout.replace(prompts=changed))


def test_chance_in_the_forward_pass_is_named_first():
    found = {"trainer": 0.2, "reference": 0.2, "repeated": 0.1, "temperature": 0.2, "no_mask": 0.2}
    assert likely_cause(found, 1e-3).startswith("dropout")


def test_log_probs_that_are_not_numbers_do_not_pass(state, rollout):
    with pytest.raises(UserError, match="ratio must be 1"):
        check_first_rollout(state, rollout.replace(logprobs=rollout.logprobs * jnp.nan))


def test_the_message_says_how_far_apart_they_are(state, rollout):
    shifted = rollout.replace(logprobs=rollout.logprobs + 0.25)
    assert disagreement(state, shifted)["trainer"] == pytest.approx(0.25, abs=1e-4)
    with pytest.raises(UserError, match=r"differ by 0.25 \(policy\) and 0.25 \(reference\), tolerance 0.001"):
        check_first_rollout(state, shifted)
