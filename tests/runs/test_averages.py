"""Averages of policies: the way from ICE-Instruct, which of its points is kept, and the average over the iterations."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax import files
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.errors import UserError
from icegrt_jax.models.lora import LoRAConfig, init_adapter, merged
from icegrt_jax.runs import averages, stage_models
from icegrt_jax.sampling import SamplerConfig
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import averaged
from tests.models.examples import make_params
from tests.training.toys import MODEL, toy_state, train

ADAM = OptimizerConfig(lr=0.05, total_steps=2)


@functools.cache
def trained(iterations, **ppo):
    scores = lambda rollout: jnp.sum(rollout.responses == 3, axis=1).astype(jnp.float32)
    sampler = SamplerConfig(max_new_tokens=3)
    return train(toy_state(ADAM, kl_coef=0.1, **ppo), sampler, scores, rows=8, iterations=iterations)[0]


def test_the_average_follows_the_actor_and_leaves_it_as_it_is():
    start, decay = toy_state(ADAM, kl_coef=0.1).params["policy"], 0.75
    actors = [trained(n, ema=decay).params["policy"] for n in (1, 2)]
    chex.assert_trees_all_equal(actors[1], trained(2).params["policy"])
    expected = start
    for actor in actors:
        expected = jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, expected, actor)
    state = trained(2, ema=decay)
    chex.assert_trees_all_close(state.ema["policy"], expected, atol=1e-6)
    chex.assert_trees_all_equal(averaged(state).params["policy"], state.ema["policy"])
    plain = trained(2)
    assert plain.ema == {} and averaged(plain).params == plain.params


def test_the_way_of_whole_models_is_a_line_that_ends_exactly_at_both():
    one, other = make_params(MODEL, seed=0), make_params(MODEL, seed=1)
    chex.assert_trees_all_equal(averages.on_the_way(one, other, 0.0), one)
    chex.assert_trees_all_equal(averages.on_the_way(one, other, 1.0), other)
    mean = jax.tree.map(lambda a, b: (a + 3 * b) / 4, one, other)
    chex.assert_trees_all_close(averages.on_the_way(one, other, 0.75), mean, atol=1e-6)


def test_the_way_of_an_adapter_is_that_of_the_models_it_makes():
    base, lora = make_params(MODEL, seed=0), LoRAConfig(rank=2, alpha=4.0)
    adapter = init_adapter(jax.random.key(0), base, lora)
    adapter = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), adapter)
    whole = merged(base, adapter, lora)
    for point in (0.0, 0.25, 1.0):
        moved = merged(base, averages.on_the_way(None, adapter, point), lora)
        chex.assert_trees_all_close(moved, averages.on_the_way(base, whole, point), atol=1e-6)


@pytest.fixture
def leave(tmp_path, monkeypatch):
    """(`averages.leave` of a toy state whose points have these numbers, the state, ICE-Instruct)."""
    end, start = toy_state(ADAM, kl_coef=0.1), make_params(MODEL, seed=5)
    monkeypatch.setattr(stage_models, "stage_params", lambda run, stage, role: (MODEL, start))
    run = types.SimpleNamespace(folder=lambda stage: tmp_path / stage, mesh=make_mesh(data=-1))
    first = lambda params: np.asarray(jax.tree.leaves(params)[0]).ravel()[0]
    place = lambda state: (first(state.params["policy"]) - first(start)) / (first(end.params["policy"]) - first(start))

    def call(numbers, **ppo):
        measure = lambda state: {**numbers[round(float(place(state)), 3)], "sample": "a text"}
        return averages.leave(run, PPOOptions(**ppo), end, 7, lambda: measure)

    return call, end, start, tmp_path / "ppo"


NUMBERS = {
    0.5: {"gold": 0.6, "gold_greedy": 0.9, "length": 9.0},
    0.75: {"gold": 0.8, "gold_greedy": 0.8, "length": 8.0},
    1.0: {"gold": 0.8, "gold_greedy": 0.5, "length": 7.0},
}


@pytest.mark.parametrize(
    ("by", "point"),
    [
        ("heldout/gold", 0.75),  # the first of equal ones
        ("heldout/gold_greedy", 0.5),
        ("heldout/length:min", 1.0),
        ("heldout/gold+heldout/gold_greedy", 0.75),
    ],
)
def test_the_point_that_held_out_data_like_best_is_kept(leave, by, point):
    call, end, start, folder = leave
    done = call(NUMBERS, average=(0.5, 0.75, 1.0), average_by=by)
    assert done["use"] == "average" and done["average"]["point"] == point and done["average"]["step"] == 7
    assert [row["point"] for row in files.read_json(folder / "average.json")] == [0.5, 0.75, 1.0]
    with Checkpoints(folder / "average") as kept:
        params = kept.restore({"params": {"policy": jax.eval_shape(lambda: start)}}, 7, partial=True)["params"]
    chex.assert_trees_all_equal(params["policy"], averages.on_the_way(start, end.params["policy"], point))


def test_the_end_is_kept_as_it_is_where_no_points_are_tried(leave):
    call, end, _, folder = leave
    assert call({}, ema=0.9) == {"average": {"step": 7, "point": 1.0, "ema": 0.9}, "use": "average"}
    with Checkpoints(folder / "average") as kept:
        params = kept.restore({"params": {"policy": jax.eval_shape(lambda: end.params["policy"])}}, 7, partial=True)
    chex.assert_trees_all_equal(params["params"]["policy"], end.params["policy"])


def test_a_number_that_is_not_measured_is_refused_with_those_that_are(leave):
    with pytest.raises(UserError, match="average_by='heldout/loss': measured are heldout/gold, heldout/gold_greedy"):
        leave[0](NUMBERS, average=(0.5,), average_by="heldout/loss")
