"""The sampler against forward passes without a cache, and against the distribution it claims to draw from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from icegrt_jax.errors import UserError
from icegrt_jax.models.cache import empty_cache
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import unembed
from icegrt_jax.models.transformer import hidden_states
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, draw, sample_responses, sampler, sequence_keys
from icegrt_jax.training.forward import response_logprobs
from tests.models.examples import CONFIG as TIED
from tests.models.examples import make_params, make_tokens, stacked

# Tied, a small model repeats itself, which would hide mistakes.
CONFIG = dataclasses.replace(TIED, tie_embeddings=False)
PARAMS = make_params(CONFIG)
SCANNED, SCANNED_PARAMS = stacked(CONFIG, PARAMS)
T = 10
K = 8  # samples of each prompt
EOS_IDS = (4, 17, 33)
LENGTHS = (6, 4, 1, 5)  # of the prompts
PROMPTS = make_tokens(len(LENGTHS), 6)
PROMPT_MASK = jnp.arange(6)[None, :] >= 6 - jnp.array(LENGTHS)[:, None]


def sample(
    config=CONFIG, params=PARAMS, *, prompts=PROMPTS, mask=PROMPT_MASK, start=0, num_samples=K, slots=0, count=None,
    **options,
):  # fmt: skip
    """Most tests call this with one set of options, and so share one compiled program."""
    keys = sequence_keys(jax.random.key(3), start, len(prompts) * num_samples)
    options = SamplerConfig(**{"max_new_tokens": T, "temperature": 0.8, "eos_ids": EOS_IDS, "pad_id": 1, **options})
    return compiled_sampler(
        keys, params, prompts, mask,
        model=config, config=options, num_samples=num_samples, slots=slots, count=count,
    )  # fmt: skip


def forward_logprobs(out, temperature, config=CONFIG):
    """Log-probs of what was sampled, by a forward pass over prompt and response."""
    forward = jax.jit(response_logprobs, static_argnames=("config", "temperature"))
    args = (out.prompts, out.prompt_mask, out.responses, out.mask)
    return forward(PARAMS, config, *args, temperature=temperature)[0]


def repeated(x):
    return jnp.repeat(x, K, axis=0)


@jax.jit
def all_logits(tokens, mask):
    """Logits of whole sequences, without a cache."""
    return unembed(PARAMS, CONFIG, hidden_states(PARAMS, CONFIG, tokens, mask))


@pytest.mark.parametrize("config, params", [(CONFIG, PARAMS), (SCANNED, SCANNED_PARAMS)], ids=["unrolled", "scanned"])
def test_greedy_with_a_cache_equals_greedy_without(config, params):
    cached = sample(config, params, temperature=0.0, eos_ids=(), num_samples=1)
    width = PROMPTS.shape[1]
    tokens = jnp.pad(PROMPTS, ((0, 0), (0, T)))
    mask = jnp.pad(PROMPT_MASK, ((0, 0), (0, T)))
    for t in range(T):  # the whole sequence again for every token
        chosen = jnp.argmax(all_logits(tokens, mask)[:, width + t - 1], axis=-1)
        tokens, mask = tokens.at[:, width + t].set(chosen), mask.at[:, width + t].set(True)
    np.testing.assert_array_equal(cached.responses, tokens[:, width:])
    np.testing.assert_allclose(cached.logprobs, forward_logprobs(cached, 1.0), atol=1e-4)
    assert cached.mask.all() and not cached.finished.any()
    assert len(set(np.asarray(cached.responses).ravel())) > 10, "too dull a model to tell a broken cache"


@pytest.mark.parametrize("options", [{}, {"temperature": 1.7, "top_k": 5}])
def test_logprobs_equal_a_forward_pass_with_the_full_softmax_at_that_temperature(options):
    out = sample(**options)
    assert out.logprobs.dtype == jnp.float32
    np.testing.assert_allclose(out.logprobs, forward_logprobs(out, options.get("temperature", 0.8)), atol=1e-4)
    assert jnp.abs(out.logprobs - forward_logprobs(out, 1.0)).max() > 0.1


# A vocabulary so small that every pair of tokens is drawn often.
SMALL = ModelConfig(
    vocab_size=8, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, d_ff=16, max_length=16
)
SMALL_PARAMS = make_params(SMALL, seed=2)
DRAWS = 8192


def restricted(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """What is drawn from, float64[V], the restrictions applied one after the other."""
    probs = np.exp(np.asarray(logits, np.float64) / temperature)
    probs /= probs.sum()
    likeliest = np.argsort(-probs)
    if top_k:
        probs[likeliest[top_k:]] = 0
        probs /= probs.sum()
    if top_p < 1:
        keep = np.searchsorted(np.cumsum(probs[likeliest]), top_p) + 1
        probs[likeliest[keep:]] = 0
        probs /= probs.sum()
    probs[probs < min_p * probs.max()] = 0
    return probs / probs.sum()


def two_token_probabilities(prompt, **options):
    """float64[V, V], probability of each two-token response."""

    @jax.jit
    def logits(tokens):
        return unembed(
            SMALL_PARAMS, SMALL, hidden_states(SMALL_PARAMS, SMALL, tokens, jnp.ones(tokens.shape, jnp.bool_))
        )

    first = restricted(logits(prompt)[0, -1], **options)
    extended = jnp.concatenate([jnp.tile(prompt, (8, 1)), jnp.arange(8)[:, None]], axis=1)
    second = np.stack([restricted(row, **options) for row in logits(extended)[:, -1]])
    return first[:, None] * second


def p_value(observed, probabilities):
    """Of a chi-square test; cells that expect fewer than five draws are counted together."""
    expected = probabilities.ravel() * observed.sum()
    rare = expected < 5
    cells = [np.append(x[~rare], x[rare].sum()) for x in (observed.ravel(), expected)]
    cells = [x[:-1] if cells[1][-1] == 0 else x for x in cells]
    return scipy.stats.chisquare(*cells).pvalue


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 6, "top_p": 0.8, "min_p": 0.1}])
def test_sampled_pairs_of_tokens_match_the_softmax(options):
    prompt = make_tokens(1, 4, vocab_size=8)
    out = sample(
        SMALL, SMALL_PARAMS, prompts=prompt, mask=jnp.ones((1, 4), jnp.bool_), num_samples=DRAWS, max_new_tokens=2,
        **{"temperature": 1.0, "eos_ids": (), **options},
    )  # fmt: skip
    observed = np.zeros((8, 8))
    np.add.at(observed, tuple(np.asarray(out.responses).T), 1)
    probabilities = two_token_probabilities(prompt, **options)
    assert observed[probabilities == 0].sum() == 0
    assert p_value(observed, probabilities) > 1e-3
    if options:
        assert (probabilities == 0).sum() >= 16, "the restrictions should leave something out"


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.35}, {"top_p": 0.9, "top_k": 4}]
)
def test_drawn_frequencies_match_the_restricted_softmax(options):
    logits = jnp.array([0.1, 1.5, -0.8, 0.9, 1.2, -2.0, 0.3, 0.6])
    keys = sequence_keys(jax.random.key(5), 0, DRAWS)
    tokens, logprobs = draw.draw(keys, jnp.tile(logits, (DRAWS, 1)), SamplerConfig(max_new_tokens=1, **options))
    observed, expected = np.bincount(tokens, minlength=8), restricted(logits, **options)
    assert observed[expected == 0].sum() == 0
    assert p_value(observed, expected) > 1e-3
    if options:  # the test has the power to see them ignored
        assert (expected == 0).any() or p_value(observed, restricted(logits)) < 1e-9
    full = np.log(restricted(logits, temperature=options.get("temperature", 1.0)))
    np.testing.assert_allclose(logprobs, full[np.asarray(tokens)], atol=1e-5)


def test_a_response_ends_with_any_eos_which_is_kept_and_nothing_follows():
    free, out = sample(eos_ids=()), sample()
    endings = set()
    for full, tokens, mask, logprobs, full_logprobs, finished in zip(
        *map(np.asarray, (free.responses, out.responses, out.mask, out.logprobs, free.logprobs, out.finished))
    ):
        hits = np.flatnonzero(np.isin(full, EOS_IDS))
        length = hits[0] + 1 if len(hits) else T
        np.testing.assert_array_equal(mask, np.arange(T) < length)
        np.testing.assert_array_equal(tokens[:length], full[:length])
        np.testing.assert_allclose(logprobs[:length], full_logprobs[:length], atol=1e-5)
        assert (tokens[length:] == 1).all() and (logprobs[length:] == 0).all()
        assert finished == bool(len(hits))
        endings.add(int(tokens[length - 1]) if finished else None)
    assert endings == {*EOS_IDS, None}, "each way of ending should occur"


def test_left_padding_changes_neither_tokens_nor_logprobs():
    wide = jnp.pad(PROMPTS, ((0, 0), (5, 0)), constant_values=13)
    padded, bare = sample(prompts=wide, mask=jnp.pad(PROMPT_MASK, ((0, 0), (5, 0)))), sample()
    np.testing.assert_array_equal(padded.responses, bare.responses)
    np.testing.assert_allclose(padded.logprobs, bare.logprobs, atol=1e-5)


def test_what_lies_in_the_padding_is_never_read():
    soiled, clean = sample(prompts=jnp.where(PROMPT_MASK, PROMPTS, 29)), sample()
    np.testing.assert_array_equal(soiled.responses, clean.responses)
    np.testing.assert_array_equal(soiled.logprobs, clean.logprobs)


def test_samples_of_one_prompt_equal_those_of_the_prompt_repeated():
    shared = sample()
    apart = sample(prompts=repeated(PROMPTS), mask=repeated(PROMPT_MASK), num_samples=1)
    np.testing.assert_array_equal(shared.responses, apart.responses)
    np.testing.assert_allclose(shared.logprobs, apart.logprobs, atol=1e-5)
    np.testing.assert_array_equal(shared.prompts, apart.prompts)
    np.testing.assert_array_equal(shared.prompt_mask, apart.prompt_mask)
    assert len({tuple(row) for row in np.asarray(shared.responses)}) > 3 * K, "samples of a prompt should differ"


def test_a_response_depends_neither_on_its_batch_nor_on_the_batch_size():
    together = sample()
    alone = sample(prompts=PROMPTS[2:3], mask=PROMPT_MASK[2:3], start=2 * K, num_samples=1)
    np.testing.assert_array_equal(alone.responses[0], together.responses[2 * K])
    np.testing.assert_allclose(alone.logprobs[0], together.logprobs[2 * K], atol=1e-5)
    order = jax.random.permutation(jax.random.key(0), 4 * K)
    keys = sequence_keys(jax.random.key(3), 0, 4 * K)[order]
    config = SamplerConfig(max_new_tokens=T, temperature=0.8, eos_ids=EOS_IDS, pad_id=1)
    shuffled = compiled_sampler(
        keys, PARAMS, repeated(PROMPTS)[order], repeated(PROMPT_MASK)[order], model=CONFIG, config=config, num_samples=1
    )
    np.testing.assert_array_equal(shuffled.responses, together.responses[order])


@pytest.mark.parametrize("config, params", [(CONFIG, PARAMS), (SCANNED, SCANNED_PARAMS)], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("slots", [1, 3, 8, 20])
def test_a_response_does_not_depend_on_the_number_of_slots(config, params, slots):
    prompts, mask = jnp.concatenate([PROMPTS] * 5), jnp.concatenate([PROMPT_MASK] * 5)
    together = sample(config, params, prompts=prompts, mask=mask, num_samples=1)
    apart = sample(config, params, prompts=prompts, mask=mask, num_samples=1, slots=slots)
    for name in ("prompts", "prompt_mask", "responses", "mask", "finished"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name))
    np.testing.assert_allclose(apart.logprobs, together.logprobs, atol=1e-5)
    assert len(set(np.asarray(together.mask.sum(axis=1)))) > 3, "lengths should differ"


def test_samples_of_a_prompt_wait_for_slots_together():
    together, apart = sample(), sample(slots=2 * K)
    np.testing.assert_array_equal(apart.responses, together.responses)
    with pytest.raises(UserError, match="slots=12 is not a multiple of the 8 samples"):
        sample(slots=12)


@pytest.mark.parametrize("slots", [0, 3])
def test_prompts_beyond_the_count_are_not_answered(slots):
    all_of_them = sample(num_samples=1)
    some = sample(num_samples=1, slots=slots, count=2)
    np.testing.assert_array_equal(some.responses[:2], all_of_them.responses[:2])
    np.testing.assert_array_equal(some.mask[:2], all_of_them.mask[:2])
    assert not some.mask[2:].any() and not some.finished[2:].any() and (some.responses[2:] == 1).all()


def test_a_free_slot_is_filled_while_others_go_on(monkeypatch):
    """Steps of continuous batching: fewer than batches that each wait for their longest row."""
    decode_step, calls = sampler.decode_step, []

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return decode_step(*args)

    monkeypatch.setattr(sampler, "decode_step", counted)
    prompts, mask = jnp.concatenate([PROMPTS] * 10), jnp.concatenate([PROMPT_MASK] * 10)
    keys, config = sequence_keys(jax.random.key(3), 0, 40), SamplerConfig(max_new_tokens=40, eos_ids=EOS_IDS)
    run = lambda keys: sample_responses(keys, PARAMS, prompts, mask, model=CONFIG, config=config, slots=4)
    lengths = np.asarray(jax.block_until_ready(jax.jit(run)(keys)).mask.sum(axis=1))
    jax.effects_barrier()
    in_batches = (lengths.reshape(10, 4).max(axis=1) - 1).sum()
    assert (lengths - 1).sum() / 4 <= len(calls) < 0.75 * in_batches


@pytest.mark.parametrize("slots", [0, 4])
def test_windows_are_counted_in_positions_whatever_the_slots(slots):
    config = dataclasses.replace(CONFIG, layer_windows=(3,) * CONFIG.num_layers)
    prompts, mask = jnp.concatenate([PROMPTS] * 3), jnp.concatenate([PROMPT_MASK] * 3)
    out = sample(config, prompts=prompts, mask=mask, num_samples=1, slots=slots)
    np.testing.assert_allclose(out.logprobs, forward_logprobs(out, 0.8, config), atol=1e-4)
    assert jnp.abs(out.logprobs - forward_logprobs(out, 0.8)).max() > 0.01, "the window should matter"


@pytest.mark.parametrize("slots", [0, 4])
def test_an_int8_cache_is_near_the_forward_pass(slots):
    out = sample(slots=slots and 8, cache_dtype="int8", num_samples=2)
    difference = jnp.abs(out.logprobs - forward_logprobs(out, 0.8))
    assert 1e-5 < difference.max() < 0.1 and difference.mean() < 0.02
    cache = empty_cache(CONFIG, 3, 5, "int8")["0"]
    assert cache["k"].dtype == jnp.int8 and cache["k_scale"].shape == cache["k"].shape[:-1]


def test_a_cache_dtype_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="cache_dtype='int4'; expected one of 'compute', 'int8'"):
        SamplerConfig(max_new_tokens=1, cache_dtype="int4")


@pytest.mark.parametrize("vocab_size", [7, 61, 90, 257])
def test_two_draws_by_blocks_are_one_draw_from_the_softmax(vocab_size):
    rng = np.random.default_rng(vocab_size)
    logits = rng.normal(0, 2, vocab_size).astype(np.float32)
    logits[rng.permutation(vocab_size)[:3]] = draw.EXCLUDED
    keys = sequence_keys(jax.random.key(7), 0, DRAWS)
    tokens, log_z = draw.categorical(keys, jnp.tile(logits, (DRAWS, 1)))
    observed, expected = np.bincount(tokens, minlength=vocab_size), restricted(logits)
    assert observed[logits == draw.EXCLUDED].sum() == 0
    assert p_value(observed, expected) > 1e-3
    np.testing.assert_allclose(log_z, np.log(np.exp(logits.astype(np.float64)).sum()), rtol=1e-6)


def test_another_key_gives_another_response():
    assert (sample().responses != sample(start=100).responses).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("restriction", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.05}])
def test_a_temperature_that_is_traced_draws_as_the_same_one_in_the_config(restriction):
    keys = sequence_keys(jax.random.key(3), 0, len(PROMPTS))
    how = lambda temperature: SamplerConfig(max_new_tokens=T, eos_ids=EOS_IDS, temperature=temperature, **restriction)
    ask = lambda config, **more: compiled_sampler(
        keys, PARAMS, PROMPTS, PROMPT_MASK, model=CONFIG, config=config, **more
    )
    before, drawn = compiled_sampler._cache_size(), {}
    for temperature in (0.3, 0.7, 2.0):
        drawn[temperature] = ask(how(1.0), temperature=np.float32(temperature))
    assert compiled_sampler._cache_size() == before + 1, "each temperature is a program of its own"
    known = ask(how(0.7))
    np.testing.assert_array_equal(drawn[0.7].responses, known.responses)
    np.testing.assert_allclose(drawn[0.7].logprobs, known.logprobs, atol=1e-5)
    assert (drawn[0.3].responses != drawn[2.0].responses).any()
    assert drawn[0.7].temperature is None and known.temperature == 0.7


def test_samples_of_one_prompt_share_its_prefill(monkeypatch):
    prefill, seen = sampler.prefill, []

    def spy(params, config, tokens, *rest):
        seen.append(tokens.shape)
        return prefill(params, config, tokens, *rest)

    monkeypatch.setattr(sampler, "prefill", spy)
    config = SamplerConfig(max_new_tokens=2)
    trace = lambda keys: sample_responses(
        keys, PARAMS, PROMPTS, PROMPT_MASK, model=CONFIG, config=config, num_samples=3
    )
    assert jax.eval_shape(trace, sequence_keys(jax.random.key(0), 0, 12)).responses.shape == (12, 2)
    assert seen == [PROMPTS.shape]


def test_scanned_layers_sample_as_unrolled_ones():
    unrolled, scanned = sample(), sample(SCANNED, SCANNED_PARAMS)
    np.testing.assert_array_equal(scanned.responses, unrolled.responses)
    np.testing.assert_allclose(scanned.logprobs, unrolled.logprobs, atol=1e-5)


@pytest.mark.parametrize("eos_ids, steps", [((), T - 1), (tuple(range(CONFIG.vocab_size)), 0)])
def test_decoding_stops_when_every_row_has(monkeypatch, eos_ids, steps):
    decode_step, calls = sampler.decode_step, []

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return decode_step(*args)

    monkeypatch.setattr(sampler, "decode_step", counted)
    keys, config = sequence_keys(jax.random.key(0), 0, 4), SamplerConfig(max_new_tokens=T, eos_ids=eos_ids)
    out = jax.jit(lambda keys: sample_responses(keys, PARAMS, PROMPTS, PROMPT_MASK, model=CONFIG, config=config))(keys)
    jax.block_until_ready(out)
    jax.effects_barrier()
    assert len(calls) == steps
    assert out.finished.all() == bool(eos_ids) and (out.mask.sum(axis=1) == steps + 1).all()


def test_bfloat16_compute_still_gives_float32_logprobs_of_what_it_sampled():
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    out = sample(config)
    assert out.logprobs.dtype == jnp.float32
    assert jnp.abs(out.logprobs - forward_logprobs(out, 0.8, config)).mean() < 0.05


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0; expected 1 or more"),
        ({"temperature": -1.0}, r"temperature=-1.0; expected 0 \(greedy\) or more"),
        ({"top_p": 0.0}, "top_p=0.0.*0 < top_p <= 1"),
        ({"top_k": -1}, "top_k=-1.*top_k >= 0"),
        ({"min_p": 1.5}, "min_p=1.5.*0 <= min_p <= 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SamplerConfig(**{"max_new_tokens": 4, **options})
