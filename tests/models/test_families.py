"""Every family against transformers and torch: logits, scores, there and back."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.models import transformer
from icegrt_jax.models.cache import empty_cache
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params, scalars, unembed
from icegrt_jax.models.hf.folder import load_hf, save_hf
from tests.models.examples_hf import CASES, LENGTH, each_family, make_theirs, padded_batch, relative, their_logits

hidden_states = jax.jit(transformer.hidden_states, static_argnames="config")
prefill = jax.jit(transformer.prefill, static_argnames="config")
decode_step = jax.jit(transformer.decode_step, static_argnames="config")
scanned_or_not = pytest.mark.parametrize("scan_layers", [False, True], ids=["unrolled", "scanned"])
PROMPT = 7  # tokens before the first decoded one


@pytest.fixture(scope="module")
def theirs():
    """Their language model of each case, made once."""
    made = {}

    def get(case):
        if case not in made:
            made[case] = make_theirs(case)
        return made[case]

    return get


@each_family
@scanned_or_not
def test_logits_equal_those_of_transformers(theirs, tmp_path, case, scan_layers):
    theirs(case).save_pretrained(tmp_path)
    config, params = load_hf(tmp_path, scan_layers=scan_layers)
    for side in ("right", "left"):
        tokens, mask, positions = padded_batch(side)
        expected = their_logits(theirs(case), tokens, mask, positions)
        got = unembed(params, config, hidden_states(params, config, tokens, mask))
        assert relative(got[mask], expected[mask]) <= 1e-5

    # Again with a cache, token by token, as the sampler does; `tokens` are the left-padded ones.
    slots = LENGTH + 2
    hidden, cache = prefill(params, config, tokens[:, :PROMPT], mask[:, :PROMPT], empty_cache(config, 3, slots))
    states, seen = [hidden], np.pad(mask, ((0, 0), (0, 2)))
    for i in range(PROMPT, LENGTH):
        slot_mask = seen & (np.arange(slots) <= i)[None]
        hidden, cache = decode_step(
            params, config, tokens[:, i], positions[:, i], slot_mask, cache, jnp.asarray(i, jnp.int32)
        )
        states.append(hidden[:, None])
    got = unembed(params, config, jnp.concatenate(states, axis=1))
    assert relative(got[mask], expected[mask]) <= 1e-5


@each_family
def test_packed_rows_equal_separate_ones(theirs, tmp_path, case):
    theirs(case).save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    tokens, mask, positions = padded_batch("right")
    expected = their_logits(theirs(case), tokens, mask, positions)
    rows = [0, 1]  # of 12 and 9 tokens
    packed = {
        "tokens": np.concatenate([tokens[i][mask[i]] for i in rows])[None],
        "positions": np.concatenate([positions[i][mask[i]] for i in rows])[None],
        "segment_ids": np.concatenate([np.full(mask[i].sum(), i + 1) for i in rows])[None],
    }
    hidden = hidden_states(params, config, mask=np.ones(packed["tokens"].shape, bool), **packed)
    assert relative(unembed(params, config, hidden)[0], np.concatenate([expected[i][mask[i]] for i in rows])) <= 1e-5


@each_family
def test_an_export_has_the_same_tensors_and_logits_in_transformers(theirs, tmp_path, case):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs(case).save_pretrained(tmp_path / "theirs")
    save_hf(tmp_path / "ours", *load_hf(tmp_path / "theirs", scan_layers=True), None)
    back, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(back) is type(theirs(case)) and not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in theirs(case).state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    batch = padded_batch("left")
    np.testing.assert_array_equal(their_logits(back, *batch), their_logits(theirs(case), *batch))
    assert load_hf(tmp_path / "ours")[0] == load_hf(tmp_path / "theirs")[0]


@each_family
def test_scores_there_and_back_equal_those_of_sequence_classification(tmp_path, case):
    transformers = pytest.importorskip("transformers")
    theirs = make_theirs(case, scalar=True)
    theirs.save_pretrained(tmp_path / "theirs")
    config, params = load_hf(tmp_path / "theirs")
    params["head"]["bias"] = jnp.array([0.75])
    save_hf(tmp_path / "ours", config, params, None)
    back, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager", pad_token_id=0
    )
    assert type(back) is type(theirs) and not info["missing_keys"] and not info["unexpected_keys"]
    config, params = load_hf(tmp_path / "ours")
    for side in ("right", "left"):
        tokens, mask, positions = padded_batch(side)
        expected = their_logits(theirs, tokens, mask, positions)
        np.testing.assert_array_equal(their_logits(back, tokens, mask, positions), expected)
        last = (np.arange(LENGTH)[None, :] * mask).max(-1)
        values = scalars(params, hidden_states(params, config, tokens, mask))
        got = np.take_along_axis(np.asarray(values), last[:, None], axis=1)
        assert relative(got - 0.75, expected) <= 1e-5


@each_family
def test_a_config_survives_json_and_counts_its_parameters(theirs, tmp_path, case):
    theirs(case).save_pretrained(tmp_path)
    config, params = load_hf(tmp_path)
    assert ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert config.num_params == sum(leaf.size for leaf in jax.tree.leaves(params))
    made = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    chex.assert_trees_all_equal_shapes(made, params)


@pytest.mark.slow
def test_the_parts_of_the_cases_matter(theirs, tmp_path):
    """Each switch, turned off in the loaded model, moves its logits by far more than the tolerance."""
    tokens, mask, _ = padded_batch("right")
    off = {
        "llama3.2": {"rope_scaling": ""},
        "llama-linear": {"rope_scaling": ""},
        "qwen2-window": {"layer_windows": ()},
        "mistral": {"layer_windows": (5, 5)},
        "gemma": {"activation": "silu"},
        "gemma2": {"attn_softcap": 0.0},
        "gemma3": {"local_rope_theta": 0.0},
    }
    more = [
        ("gemma", {"zero_centred_norm": False}),
        ("gemma", {"scale_embeddings": False}),
        ("gemma2", {"query_pre_attn_scalar": 0}),
        ("gemma2", {"final_softcap": 0.0}),
        ("gemma2", {"layer_windows": ()}),
        ("gemma3", {"rope_scaling": ""}),
    ]
    assert off.keys() <= CASES.keys()
    for case, changes in [*off.items(), *more]:
        theirs(case).save_pretrained(tmp_path / case)
        config, params = load_hf(tmp_path / case)
        other = dataclasses.replace(config, **changes)
        logits = [unembed(params, c, hidden_states(params, c, tokens, mask))[mask] for c in (config, other)]
        assert relative(logits[1], np.asarray(logits[0])) > 1e-3, (case, changes)
