"""Prompts without a signal give their places to others: which, how many rollouts that takes, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.runs.redraw import Tally, _taken, fill
from icegrt_jax.training.ppo import read_scores, score
from icegrt_jax.training.rewards import have_signal
from icegrt_jax.training.state import Opinions, RewardRule
from tests.training.examples import B, make_rollout, make_state


def filled(rollouts, most):
    """(prompts, tally, rollouts asked for); a prompt is (rollout, place), and `rollouts` say who has a signal."""
    asked = []

    def draw(number):
        asked.append(number)
        return [(number, place) for place in range(len(rollouts[number]))]

    signal = lambda prompts: np.array([bool(rollouts[number][place]) for number, place in prompts])
    join = lambda one, other, places: [[*one, *other][i] for i in places]
    return *fill(draw, signal, join, most), asked


@pytest.mark.parametrize(
    "rollouts, most, prompts, tally",
    [
        # All have a signal: nothing more is drawn.
        (["1111"], 3, [(0, 0), (0, 1), (0, 2), (0, 3)], Tally(1, 0, 0.0)),
        # Those without are replaced in their order; who is left over is dropped.
        (["1001", "0111"], 3, [(0, 0), (1, 1), (1, 2), (0, 3)], Tally(2, 2, 3 / 8)),
        # It takes two, the first of which has nobody.
        (["0111", "0000", "0010"], 3, [(2, 2), (0, 1), (0, 2), (0, 3)], Tally(3, 1, 8 / 12)),
        # At most so many: the rest stays as it was, to be masked.
        (["0001", "0100"], 1, [(1, 1), (0, 1), (0, 2), (0, 3)], Tally(2, 1, 6 / 8)),
        (["0001"], 0, [(0, 0), (0, 1), (0, 2), (0, 3)], Tally(1, 0, 3 / 4)),
    ],
)
def test_a_batch_is_filled_from_further_rollouts_as_far_as_they_are_allowed(rollouts, most, prompts, tally):
    rollouts = [[int(x) for x in text] for text in rollouts]
    kept, counted, asked = filled(rollouts, most)
    assert kept == prompts and counted == tally and asked == list(range(tally.rollouts))


def test_the_arrays_of_two_rollouts_are_joined_as_their_prompts_are():
    one, other = {"a": jnp.arange(4), "b": None}, {"a": 10 + jnp.arange(4), "b": None}
    joined = _taken(one, other, np.array([0, 6, 2, 4]))
    assert joined["a"].tolist() == [0, 12, 2, 10] and joined["b"] is None


@pytest.fixture(scope="module")
def state():
    return make_state(group_size=4, estimator="grpo", score_scale="none", eos_penalty=0.0)


def test_the_reward_model_alone_says_what_it_says_while_a_rollout_is_scored(state):
    rollout = make_rollout(state)
    alone = jax.jit(read_scores)(state, rollout)
    _, _, metrics = jax.jit(score)(state, rollout)
    np.testing.assert_allclose(alone, metrics["score_histogram"], rtol=1e-5, atol=1e-6)


def test_a_prompt_has_a_signal_where_its_answers_do_not_all_have_one_score(state):
    mask, finished = jnp.ones((B, 3), bool), jnp.arange(B) % 4 > 0
    scores = jnp.repeat(jnp.arange(B // 4, dtype=jnp.float32), 4).at[4].add(0.5)
    has = lambda state, opinions={}: have_signal(state, mask, finished, scores, opinions).tolist()
    expected = [False, True] + [False] * (B // 4 - 2)
    assert has(state) == expected
    penalised = state.replace(ppo=make_state(group_size=4, estimator="grpo", eos_penalty=1.0).ppo)
    assert all(has(penalised)), "an answer that was cut off is another one"
    rules = (("own", RewardRule()),)
    only = make_state(group_size=4, estimator="grpo", eos_penalty=0.0, reward_model=0.0, rewards=rules)
    values = jnp.zeros(B).at[0].set(1.0)
    own = {"own": Opinions(values=values, known=jnp.ones(B, bool))}
    found = have_signal(only, mask, finished, None, own)
    assert found.tolist() == [True] + [False] * (B // 4 - 1), "by reward functions alone"
