"""Text in, text out: any number of prompts in any form, in batches that do not show."""

import dataclasses

import jax
import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax.data.records import user
from icegrt_jax.data.tokenizers import train_bpe
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sampling.generate import BUCKET, generate_batches, prompt_ids
from tests.models.examples import CONFIG, make_params, stacked

PROMPTS = ["the cat", "a hat, a bat and 123 rats", "the end", "sat", "on the mat the cat sat"]
KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = train_bpe(["the cat sat on the mat", *PROMPTS] * 5, 280, tmp_path_factory.mktemp("tokenizer"))
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size, tie_embeddings=False)
    config, params = stacked(config, make_params(config))
    return Model(config, params, tokenizer)


def batches(model, prompts, batch_size, num_samples=1):
    tokenizer = model.tokenizer
    config = SamplerConfig(max_new_tokens=5, eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id)
    return generate_batches(
        KEY, model.params, model.config, tokenizer, prompts, config, num_samples=num_samples, batch_size=batch_size
    )


def test_a_response_does_not_depend_on_the_batch_size(model):
    two, all_at_once = batches(model, PROMPTS, 2, 2), batches(model, PROMPTS, 64, 2)
    assert two.text == all_at_once.text and len(two.text) == 2 * len(PROMPTS)
    for name in ("prompts", "prompt_mask", "tokens", "mask"):
        np.testing.assert_array_equal(getattr(two, name), getattr(all_at_once, name))
    np.testing.assert_allclose(two.logprobs, all_at_once.logprobs, atol=1e-5)


def test_prompts_are_strings_chats_or_ids(model):
    forms = [PROMPTS[0], user(PROMPTS[0]), [{"role": "user", "content": PROMPTS[0]}]]
    forms.append(model.tokenizer.encode_prompt(user(PROMPTS[0])))
    assert len({tuple(prompt_ids(form, model.tokenizer)) for form in forms}) == 1
    for empty in ("", " \n", [], ()):
        with pytest.raises(UserError):
            batches(model, [empty], 1)
    with pytest.raises(UserError, match="no prompts to answer"):
        batches(model, [], 1)


def test_the_public_call_samples_k_responses_for_each_prompt(model):
    options = dict(temperature=0.9, top_k=9, top_p=0.95, num_samples=3)
    out = ice.generate(model, PROMPTS[:2], key=KEY, max_new_tokens=6, **options)
    assert out.tokens.shape == out.mask.shape == out.logprobs.shape == (6, 6) and len(out.text) == 6
    assert out.tokens.dtype == np.int32 and out.mask.dtype == np.bool_ and out.logprobs.dtype == np.float32
    assert out.prompts.shape[1] % BUCKET == 0
    np.testing.assert_array_equal(out.prompts[0], out.prompts[2])
    assert out.text[0] == model.tokenizer.decode(out.tokens[0][out.mask[0]])
    greedy = ice.generate(model, PROMPTS[:2], key=KEY, max_new_tokens=6, temperature=0.0)
    again = ice.generate(model, PROMPTS[:2], key=jax.random.key(9), max_new_tokens=6, temperature=0.0)
    np.testing.assert_array_equal(greedy.tokens, again.tokens)


CHAT = [{"role": "user", "content": "the cat"}]


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        (CHAT, {}, "is no prompt; expected a list of .*One chat, or one row of ids, is a prompt: put it in a list"),
        ([5, 6], {}, "5 is no prompt; expected a list of prompts"),
        ("the cat", {}, r"prompts='the cat'; expected a list of prompts, \['the cat'\]"),
        ([None], {}, "None is no prompt"),
        ([[5.5]], {}, r"prompts\[0\]: \[5.5\] is no prompt; .*token ids, which are whole numbers"),
        ([["5"]], {}, "token ids, which are whole numbers"),
        ([[[5, 6]]], {}, "token ids, which are whole numbers"),
        (["the cat", [{"role": "user"}]], {}, r"prompts\[1\]: messages: field 'prompt\[0\]' is .*'role' and 'content'"),
        ([[{"role": "bot", "content": "a"}]], {}, "expected one of system, user, assistant"),
        ([[*CHAT, "and more"]], {}, "field 'prompt\\[1\\]' is 'and more'"),
        (["the cat"], {"num_samples": 0}, "num_samples=0; expected 1 or more"),
        (["the cat"], {"num_samples": 1.5}, "num_samples=1.5; expected a whole number"),
        (["the cat"], {"max_new_tokens": 0}, "max_new_tokens=0; expected 1 or more"),
        (["the cat"], {"max_new_tokens": 2.5}, "max_new_tokens=2.5; expected a whole number"),
        (["the cat"], {"temperature": -0.1}, "temperature=-0.1; expected 0"),
        (["the cat"], {"temperature": float("nan")}, "temperature=nan; expected 0"),
        (["the cat"], {"temperature": float("inf")}, "temperature=inf; expected 0"),
        (["the cat"], {"top_p": 0.0}, "0 < top_p <= 1"),
        (["the cat"], {"top_p": 1.5}, "0 < top_p <= 1"),
        (["the cat"], {"top_p": float("nan")}, "0 < top_p <= 1"),
        (["the cat"], {"top_k": 2.0}, "top_k=2.0; expected a whole number"),
    ],
)
def test_what_is_no_prompt_or_no_way_to_sample_is_one_sentence(model, prompts, options, message):
    with pytest.raises(UserError, match=message) as refused:
        ice.generate(model, prompts, key=KEY, **{"max_new_tokens": 2, **options})
    assert "\n" not in str(refused.value)
