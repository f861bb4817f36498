"""No id is looked up outside the embedding: a tokenizer that gives one is refused, and so is one from a program."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

import icegrt_jax as ice
from icegrt_jax.data.tokenizers import train_bpe, wrap
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model, load_hf_model
from icegrt_jax.models.hf.folder import save_hf
from icegrt_jax.models.vocabulary import check_ids, check_tokenizer
from tests.models.examples import CONFIG, make_params

ROWS = 300


def make_tokenizer(folder):
    return train_bpe(["12 apples and 30 pears, the cat sat on the mat"] * 5, ROWS, folder)


@pytest.fixture
def tokenizer(tmp_path):
    """As many ids as the embedding has rows; changed by the tests."""
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.vocab_size <= ROWS
    return tokenizer


def with_ids_beyond(tokenizer, **tokens):
    """The tokenizer with added tokens whose ids are `ROWS` and more; a name is a special token's role, or "plain"."""
    fill = ROWS - len(tokenizer.tokenizer)
    tokenizer.tokenizer.add_tokens([f"<fill{i}>" for i in range(fill)])
    for role, token in tokens.items():
        if role == "plain":
            tokenizer.tokenizer.add_tokens([token])
        else:
            tokenizer.tokenizer.add_special_tokens({role: token})
    return wrap(tokenizer.tokenizer)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    config = dataclasses.replace(CONFIG, vocab_size=ROWS)
    return Model(config, make_params(config), tokenizer)


def test_a_word_beyond_the_embedding_is_refused_and_named(tokenizer):
    check_tokenizer(tokenizer, ROWS, "here")
    check_tokenizer(tokenizer, 5 * ROWS, "more rows than ids are usual")
    bigger = with_ids_beyond(tokenizer, plain="pomegranate")
    with pytest.raises(UserError, match="^here: the tokenizer has 301 ids, the embedding 300 .*'pomegranate' is id"):
        check_tokenizer(bigger, ROWS, "here")


@pytest.mark.parametrize("role", ["eos_token", "pad_token"])
def test_an_end_or_a_padding_beyond_the_embedding_is_refused(tokenizer, role):
    with pytest.raises(UserError, match="'<far>' is id 300"):
        check_tokenizer(with_ids_beyond(tokenizer, **{role: "<far>"}), ROWS, "here")


def test_a_role_marker_beyond_the_embedding_is_refused(tokenizer):
    tokenizer.tokenizer.chat_template = "<far>" + tokenizer.tokenizer.chat_template
    with pytest.raises(UserError, match="'<far>' is id 300"):
        check_tokenizer(with_ids_beyond(tokenizer, cls_token="<far>"), ROWS, "here")


def test_a_special_token_that_never_occurs_may_lie_beyond(tokenizer):
    bigger = with_ids_beyond(tokenizer, cls_token="<never>")
    assert bigger.vocab_size == ROWS + 1
    check_tokenizer(bigger, ROWS, "here")
    with pytest.raises(UserError, match="control token"):
        bigger.encode_prompt([{"role": "user", "content": "a <never> b"}])


def test_gaps_among_the_ids_do_not_hide_the_highest(tokenizer):
    """Fewer ids than rows, and one of them beyond."""
    backend = tokenizer.tokenizer.backend_tokenizer
    made = json.loads(backend.to_str())
    word = max(made["model"]["vocab"], key=made["model"]["vocab"].get)
    made["model"]["vocab"][word] = ROWS + 50
    tokenizer.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(made))
    gappy = wrap(tokenizer.tokenizer)
    assert len(gappy.tokenizer) <= ROWS < gappy.vocab_size == ROWS + 51
    with pytest.raises(UserError, match="is id 350"):
        check_tokenizer(gappy, ROWS, "here")


def test_a_folder_and_a_model_made_by_hand_are_checked(tmp_path, tokenizer):
    bigger = with_ids_beyond(tokenizer, plain="pomegranate")
    config = dataclasses.replace(CONFIG, vocab_size=ROWS)
    save_hf(tmp_path / "model", config, make_params(config), bigger)
    with pytest.raises(UserError, match=f"{tmp_path}/model: the tokenizer has 301 ids"):
        load_hf_model(tmp_path / "model")
    with pytest.raises(UserError, match="model: the tokenizer has 301 ids"):
        Model(config, make_params(config), bigger)


@pytest.mark.parametrize(
    "ids, message",
    [
        ([5, 9999], r"here: token id 9999 at \[1\]; the model has ids 0 to 299"),
        ([[5, 6], [7, -100]], r"token id -100 at \[1, 1\]"),
        ([300], "token id 300"),
        ([2**70], "type object; expected integers"),
        ([5.0], "type float64; expected integers"),
        (["5"], "expected integers"),
    ],
)
def test_ids_that_the_model_does_not_have_are_refused(ids, message):
    with pytest.raises(UserError, match=message):
        check_ids(ids, ROWS, "here")
    check_ids([0, ROWS - 1], ROWS, "here")


def test_ids_from_a_program_are_checked_wherever_they_come_in(model):
    with pytest.raises(UserError, match=r"^prompts\[1\]: prompt: token id 9999 at \[1\]"):
        ice.generate(model, [[5, 6], [5, 9999]], key=jax.random.key(0), max_new_tokens=2)
    with pytest.raises(UserError, match="token id 1099511627776"):
        ice.generate(model, [[2**40]], key=jax.random.key(0), max_new_tokens=2)
    tokens, mask = np.array([[5, 6, -100]]), np.array([[True, True, False]])
    with pytest.raises(UserError, match=r"^tokens: token id -100 at \[0, 2\].*padding is told by the mask"):
        model.logits(model.params, tokens, mask)
    with pytest.raises(UserError, match="token id 9999"):
        model.logits(model.params, jnp.array([[9999]]), jnp.ones((1, 1), jnp.bool_))
    traced = jax.jit(lambda tokens: model.logits(model.params, tokens, jnp.ones((1, 2), jnp.bool_)))
    assert np.isfinite(traced(jnp.array([[5, 6]]))).all()
