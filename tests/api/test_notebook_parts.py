"""What notebooks show, without one: orders as rankings, curves of trainings, tokens in colours."""

import types

import numpy as np
import pytest

import icegrt_jax as ice
from icegrt_jax import notebook as nb
from icegrt_jax.data.records import Prompt

PROMPTS = ["the cat", "the end"]
SAID = ["sat", "on the mat", "<b>is</b>", "near"]


def test_orders_become_rankings_with_ties_and_gaps():
    first, second = nb.ranked(PROMPTS, SAID, ["b > A", "A=B"])
    assert (first.prompt[0]["content"], first.responses, first.ranks) == ("the cat", ("sat", "on the mat"), (2.0, 1.0))
    assert second.ranks == (1.0, 1.0)
    three = nb.ranked(["the cat"], ["a", "b", "c"], ["C = A > B"])[0]
    assert three.ranks == (1.0, 2.0, 1.0)
    assert len(nb.ranked(PROMPTS, SAID, ["", "A > B"])) == 1


@pytest.mark.parametrize("order", ["A", "A > C", "A > B > B", "AB", "A >> B", "A, B"])
def test_an_order_that_is_none_is_refused_with_its_place(order):
    with pytest.raises(ice.UserError, match=r"orders\[1\]=.*expected each of A, B once, such as 'B > A = C'"):
        nb.ranked(PROMPTS, SAID, ["A > B", order])


def test_a_function_ranks_different_answers_only():
    prompts = [Prompt.from_json({"prompt": text}) for text in PROMPTS]
    by_length = lambda record, answers, seed: [float(len(answer)) for answer in answers]
    (found,) = nb.ranked_by(by_length, prompts, ["sat", "sat", "near", "is"])
    assert (found.responses, found.ranks) == (("near", "is"), (4.0, 2.0))


def test_a_table_shows_markup_as_text():
    table = nb.to_rank(PROMPTS, SAID)
    assert table.columns == ["prompt", "A", "B"] and table.rows[1] == ["the end", "<b>is</b>", "near"]
    assert "&lt;b&gt;is&lt;/b&gt;" in table._repr_html_() and "<b>" not in table._repr_html_()
    assert str(table).startswith("prompt: the cat\nA: sat\nB: on the mat")


def trained(values, changes=()):
    return types.SimpleNamespace(
        metrics=[{"step": i, "kl": value} for i, value in enumerate(values, 1)], changes=list(changes)
    )


def test_curves_of_several_trainings_lie_over_each_other_with_their_changes():
    picture = nb.curves({"one": trained([1.0, 2.0]), "other": trained([1.0, 3.0], [(1, {})])}, "kl")
    (axis,) = picture.figure.axes
    one, other, change = axis.get_lines()
    assert (list(one.get_ydata()), list(other.get_ydata())) == ([1.0, 2.0], [1.0, 3.0])
    assert list(change.get_xdata()) == [1.5, 1.5] and change.get_color() == other.get_color()
    assert picture._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ice.UserError, match="no metric 'kll'; they are kl"):
        nb.curves(trained([1.0]), "kll")


def test_watching_shows_one_picture_that_ends_with_all_steps(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []

    def show(picture, display_id):
        shown.append(picture)
        return types.SimpleNamespace(update=shown.append)

    class Steps:
        metrics, changes = [], []

        def __iter__(self):
            for step in (1, 2, 3):
                self.metrics.append({"step": step, "loss": 1.0 / step})
                yield step, self.metrics[-1]

    monkeypatch.setattr(display, "display", show)
    assert [step for step, _ in nb.watch(Steps(), "loss", every=1e9)] == [1, 2, 3]
    assert len(shown) == 2, "the first step and the end"
    assert list(shown[-1].figure.axes[0].get_lines()[0].get_xdata()) == [1, 2, 3]


def test_answers_grades_and_scores_by_token(here):
    model, reward = (ice.load_model(f"models/{name}") for name in ("policy", "reward"))
    prompts = [Prompt.from_json({"prompt": text, "reference": "sat"}) for text in PROMPTS]
    table = nb.answers({"policy": model}, prompts, max_new_tokens=4)
    assert table.columns == ["prompt", "policy"] and [row[0] for row in table.rows] == PROMPTS
    graded = nb.graded({"policy": model}, prompts, lambda record, answer: 0.25, max_new_tokens=4, temperature=0.0)
    assert (graded.columns, graded.rows) == (["model", "gold"], [["policy", "0.25"]])
    tokens = nb.score_by_token(reward, "the cat", "sat on")
    assert tokens.values[-1] == pytest.approx(float(ice.score(reward, ["the cat"], ["sat on"])[0]), abs=1e-5)
    assert "".join(tokens.tokens).startswith("sat on") and tokens._repr_html_().count("<span") == len(tokens.tokens)
    picture = nb.calibration(reward, nb.ranked(PROMPTS, SAID, ["A > B", "B > A"]))
    assert "of 2 pairs" in picture.figure.axes[0].get_title(loc="left")
    assert np.isfinite(tokens.values).all()
