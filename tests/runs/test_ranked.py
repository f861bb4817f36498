"""Rankings scored by a tiny reward model, and whose weights go back to whose."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import Ranking, user
from icegrt_jax.data.tokenizers import wrap
from icegrt_jax.errors import UserError
from icegrt_jax.models.api import Model
from icegrt_jax.runs import lineage, ranked
from tests.data.templates import make
from tests.models.examples import CONFIG, make_params, stacked

RECORDS = [
    Ranking(user("Is 7 odd?"), ("Yes.", "No.", "Yes."), (1.0, 2.0, 1.0), {"id": "a"}),
    Ranking(
        user("Name a colour, please. " * 3), ("Red", "I would say that it is blue, as the sky is. " * 4), (2.0, 1.0)
    ),
    Ranking(user("Which one?"), ("", "b"), (2.0, 1.0)),
]


@pytest.fixture(scope="module")
def model():
    tokenizer = wrap(make("chatml"))
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)
    return Model(config, make_params(config, scalar_head=True), tokenizer)


def alone(model, record, place, length=10**6):
    ids = model.tokenizer.encode_answer(record.prompt, record.responses[place])[0][:length]
    tokens, mask = right_pad([ids], 320, model.tokenizer.pad_id)  # of one shape, so that one program will do
    return float(model.scores(model.params, jnp.asarray(tokens), jnp.asarray(mask))[0])


def test_every_answer_has_the_score_that_it_has_alone(model):
    found, counts = ranked.score_rankings(model, RECORDS, 1000, 3)
    assert counts == {"records": 3, "dropped": 0, "answers": 7, "cut": 0}
    for row, record in enumerate(RECORDS):
        own = [alone(model, record, place) for place in range(len(record.responses))]
        np.testing.assert_allclose(found.scores[row][found.valid[row]], own, atol=1e-4)
        assert tuple(found.ranks[row][found.valid[row]]) == record.ranks
        assert found.meta[row] == record.meta
    assert found.same[0].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert found.lengths[1, 1] > 10 * found.lengths[1, 0] > 0


def test_what_is_too_long_loses_its_end_or_is_left_out(model):
    start = model.tokenizer.encode_answer(RECORDS[1].prompt, "Red")[1]
    found, counts = ranked.score_rankings(model, RECORDS, start + 2, 4)
    assert counts["dropped"] == 0 and counts["cut"] == 2
    assert found.scores[1, 1] == pytest.approx(alone(model, RECORDS[1], 1, start + 2), abs=1e-4)
    found, counts = ranked.score_rankings(model, RECORDS, start, 4)
    assert counts["dropped"] == 1 and [meta.get("id") for meta in found.meta] == ["a", None]
    with pytest.raises(UserError, match="none of 3 records fits into 3 tokens; give a larger --length."):
        ranked.score_rankings(model, RECORDS, 3, 4)


def test_widths_are_few_and_wide_enough():
    widths = [ranked.width_of(longest) for longest in range(1, 5000)]
    assert all(width >= longest for longest, width in enumerate(widths, 1))
    assert all(width < 2 * longest for longest, width in enumerate(widths, 1) if longest >= 32)
    assert sorted(set(widths))[:8] == [32, 64, 96, 128, 192, 256, 384, 512] and len(set(widths)) == 15


def moved(model, size, seed=1):
    """The model after a training that has moved its weights by so much of their own size."""
    leaves, tree = jax.tree.flatten(model.params)
    rng = np.random.default_rng(seed)
    leaves = [x + size * float(jnp.std(x)) * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return dataclasses.replace(model, params=jax.tree.unflatten(tree, leaves))


def test_weights_tell_who_goes_back_to_the_same_model(model):
    policy = {name: leaf for name, leaf in moved(model, 0.3).params.items() if name != "head"}
    kin = lineage.compare(model, dataclasses.replace(model, params=policy))
    assert kin.same and 0.9 < kin.cosine < 1.0
    stranger = dataclasses.replace(model, params=make_params(model.config, seed=5))
    kin = lineage.compare(model, stranger)
    assert not kin.same and abs(kin.cosine) < 0.2 and "cosine of their weights is " in kin.why


def test_how_layers_are_stored_and_the_size_of_a_vocabulary_say_nothing_of_lineage(model):
    config, params = stacked(model.config, model.params)
    more = {**params, "embed": jax.tree.map(lambda x: jnp.concatenate([x, x[:3]]), params["embed"])}
    grown = dataclasses.replace(config, vocab_size=config.vocab_size + 3)
    for other in (params, more):
        kin = lineage.compare(
            model, dataclasses.replace(model, config=grown if other is more else config, params=other)
        )
        assert kin.same and kin.cosine == pytest.approx(1.0)


def test_another_shape_is_another_lineage(model):
    config = dataclasses.replace(model.config, num_layers=1, d_ff=48)
    kin = lineage.compare(model, dataclasses.replace(model, config=config, params=make_params(config)))
    assert kin == lineage.Kinship(False, "other shapes: num_layers 2 and 1, d_ff 40 and 48")
