"""Alarms over rows: each is triggered by a run made to go wrong in its way, and none by a sound one."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from icegrt_jax.config import default_config
from icegrt_jax.config.choices import ALARMS
from icegrt_jax.config.file import flatten, load_config
from icegrt_jax.config.options import AlarmOptions
from icegrt_jax.training.alarms import Given, Watch, events
from icegrt_jax.training.alarms.causes import CAUSES
from icegrt_jax.training.alarms.measures import MEASURES

ROOT = pathlib.Path(__file__).parents[2]
# Metrics of the quickstart of commit e65713c, 75 iterations each: seeds 0 to 2, and one that learned from a function
# that it then hacked. Of the quickstart of commit d2ef639 two of 180 iterations, with a reference at temperature 0.6.
RECORDED = json.loads((pathlib.Path(__file__).parent / "alarm_runs.json").read_text())
SEEDS = json.loads((ROOT / "experiments/quickstart_seeds/results/seeds.json").read_text())["seeds"]
QUICKSTART = load_config(str(ROOT / "configs" / "quickstart.py"))
STEPS, BAD = 40, 20  # iterations of a made run, and the first in which it goes wrong


def ramp(start, end):
    """A number that moves after iteration `BAD` and stays where it has come to."""
    return np.interp(np.arange(1, STEPS + 1), [BAD, BAD + 8], [start, end])


def rows_of(measured=(), **columns):
    """A sound run, noisy as a batch of 64 is, with some of its columns replaced; `measured` are rows beside them."""
    noise = np.random.default_rng(0).standard_normal((10, STEPS))
    sound = {
        "score_raw": ramp(2.0, 3.0), "gold": np.full(STEPS, 0.65), "kl": np.linspace(0, 1.5, STEPS),
        "kl_high": np.full(STEPS, 2.25), "length": np.full(STEPS, 30.0), "eos_rate": np.full(STEPS, 0.97),
        "entropy": np.full(STEPS, 0.25), "explained_variance": np.linspace(0.2, 0.8, STEPS),
        "first_logprob_diff": np.full(STEPS, 5e-7),
    }  # fmt: skip
    spread = dict(zip(sound, (0.2, 0.04, 0.1, 0, 1.5, 0.01, 0.01, 0.05, 0), strict=True))
    columns = {name: x + spread.get(name, 0) * n for (name, x), n in zip({**sound, **columns}.items(), noise)}
    rows = [{"step": i + 1, **{name: float(x[i]) for name, x in columns.items()}} for i in range(STEPS)]
    return [*rows, *measured]


def heldout(values, every=4, half=0.03, name="heldout/gold"):
    return [
        {"step": every * (i + 1), name: x, f"{name}_low": x - half, f"{name}_high": x + half}
        for i, x in enumerate(values)
    ]


def checked(accuracy, half, step=24):
    name = "reward_check/accuracy"
    return [{"step": step, name: accuracy, f"{name}_low": accuracy - half, f"{name}_high": accuracy + half}]


WRONG = {
    "over_optimised": rows_of(gold=ramp(0.65, 0.4)),
    "length_explosion": rows_of(length=ramp(30, 75)),
    "length_collapse": rows_of(length=ramp(30, 10)),
    "perplexity_collapse": rows_of(entropy=ramp(0.25, 0.08), kl=np.zeros(STEPS)),
    "negative_kl": rows_of(kl=ramp(0.0, -0.8)),
    "kl_too_large": rows_of(kl=ramp(1.5, 4.0)),
    "useless_critic": rows_of(explained_variance=ramp(0.3, -0.4)),
    "entropy_collapse": rows_of(entropy=ramp(0.25, 0.03), kl=ramp(0.0, 2.0) * 3, kl_high=np.full(STEPS, 20.0)),
    "few_eos": rows_of(eos_rate=ramp(0.97, 0.5)),
    "sampler_drift": rows_of(first_logprob_diff=ramp(0.0, 0.2)),
    "reward_at_chance": rows_of(checked(0.52, 0.02)),
    "ensemble_disagrees": rows_of(ensemble_std=ramp(0.3, 0.9)),
}  # fmt: skip


def begun(rows, **changes):
    drift = {name: changes.pop(name) for name in ("drift", "ranked", "reward", "warmup", "sharper") if name in changes}
    return {event.alarm for event in events(rows, Given(AlarmOptions(**changes), **drift)) if event.begins}


def test_there_is_a_run_a_measure_a_cause_and_keys_for_every_alarm():
    assert set(WRONG) == set(MEASURES) == set(CAUSES) == set(ALARMS)
    known = set(flatten(default_config())) | {"reward.sources", "ppo.sources"}
    for cause, change in CAUSES.values():
        named = {key for how in change.values() for key in re.findall(r"\w+\.[\w.]+\w", how)}
        assert cause and change and set(change) | named <= known


def test_a_sound_run_has_no_alarm():
    assert events(rows_of(), Given()) == []


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith("seed")])
def test_no_alarm_is_raised_in_a_quickstart(name):
    assert begun(recorded(name), warmup=5) == set()


@pytest.mark.parametrize("seed", [0, 1])
def test_answers_that_a_sharper_reference_asks_for_have_not_collapsed(seed):
    rows = recorded(f"sharper_{seed}")
    assert begun(rows, sharper=0.6, length_growth=3.0) == set()
    assert begun(rows, length_growth=3.0) == {"perplexity_collapse"}
    entropy = [{**row, "entropy": 0.7 * row["entropy"]} if row["step"] > 2 else row for row in rows]
    assert "entropy_collapse" in begun(entropy) and "entropy_collapse" not in begun(entropy, sharper=0.6)


@pytest.mark.parametrize("seed", SEEDS)
def test_gold_of_none_of_the_seeds_falls_far_enough_even_if_the_score_only_rose(seed):
    curve = SEEDS[seed]["gold_curve"]
    assert SEEDS[seed]["alarms"] == [] and len(curve) == QUICKSTART.ppo.iterations
    assert begun([{"step": i + 1, "gold": gold, "score_raw": float(i)} for i, gold in enumerate(curve)]) == set()
    longer = SEEDS[seed]["rows"]["ICE-GRT"]["length"] / SEEDS[seed]["rows"]["ICE-Instruct"]["length"]
    assert longer < 0.9 * QUICKSTART.ppo.alarms.length_growth


def recorded(name):
    columns = RECORDED[name]
    return [dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)]


def test_a_quickstart_that_hacked_its_reward_function_is_found_out_while_gold_falls():
    found = events(recorded("hacked_0"), Given(reward="score_scaled", warmup=5))
    assert [(event.alarm, event.step) for event in found] == [
        ("over_optimised", 36), ("kl_too_large", 40), ("length_collapse", 47), ("entropy_collapse", 47),
    ]  # fmt: skip


def test_a_model_that_lost_its_reasons_while_its_score_rose_is_found_out():
    """SmolLM2 on commonsense questions; no ranking had told the reward model of answers without an explanation."""
    lengths = (36.0, 38.6, 27.2, 22.9, 23.4, 15.9, 14.6, 14.1, 6.8, 6.5, 9.2, 4.9)
    scores = (6.21, 5.64, 6.62, 6.80, 6.75, 6.88, 6.88, 6.98, 7.05, 7.09, 6.93, 7.03)
    rows = [{"step": i + 1, "length": x, "score_raw": y} for i, (x, y) in enumerate(zip(lengths, scores, strict=True))]
    assert [(event.alarm, event.step) for event in events(rows, Given())] == [("length_collapse", 11)]


@pytest.mark.parametrize("name", WRONG)
def test_a_run_that_goes_wrong_raises_its_alarm_once_with_cause_and_keys(name):
    found = events(WRONG[name], Given())
    assert [event.alarm for event in found] == [name], [event.text() for event in found]
    event = found[0]
    assert event.begins and BAD < event.step < STEPS
    assert f"{event.bound:.3g}" in event.measured, "what was measured stands beside its bound"
    cause, change = CAUSES[name]
    assert all(word in event.text() for word in (name, cause, *change, *change.values()))
    assert json.loads(json.dumps(event.row()))["change"] == change


@pytest.mark.parametrize("name", WRONG)
def test_an_alarm_that_is_off_is_not_raised(name):
    assert begun(WRONG[name], off=(name,)) == set()


@pytest.mark.parametrize(
    "name, changes",
    [
        ("over_optimised", {"gold_fall": 0.5}),
        ("length_explosion", {"length_growth": 3.0}),
        ("length_collapse", {"length_left": 0.2}),
        ("perplexity_collapse", {"perplexity_left": 0.2}),
        ("negative_kl", {"kl_below": 1.0}),
        ("useless_critic", {"explained_variance": -0.5}),
        ("entropy_collapse", {"entropy_left": 0.05}),
        ("few_eos", {"eos_rate": 0.4}),
        ("sampler_drift", {"drift": 0.3}),
        ("ensemble_disagrees", {"ensemble_growth": 4.0}),
    ],
)
def test_each_bound_decides_its_alarm(name, changes):
    assert begun(WRONG[name], **changes) == set()


def test_without_a_band_the_kl_has_a_bound_of_its_own():
    rows = [{name: x for name, x in row.items() if name != "kl_high"} for row in WRONG["kl_too_large"]]
    assert begun(rows) == set() and begun(rows, kl_above=3.0) == {"kl_too_large"}


def test_one_noisy_batch_is_no_alarm_and_a_wider_window_or_more_errors_wait_longer():
    single = rows_of()
    single[25] |= {"gold": 0.2, "length": 100.0, "entropy": 0.0, "explained_variance": -2.0, "eos_rate": 0.4, "kl": 3.0}
    assert begun(single) == set()
    first = lambda **changes: events(WRONG["few_eos"], Given(AlarmOptions(**changes)))[0].step
    assert first(window=4) < first() < first(window=16)
    noisy = rows_of(eos_rate=np.full(STEPS, 0.79))
    assert begun(noisy, errors=0.0) == {"few_eos"} and begun(noisy, errors=30.0) == set()


def test_an_alarm_that_ends_is_said_once_and_may_begin_again():
    moves = np.r_[np.full(10, 0.97), np.full(10, 0.5), np.full(10, 0.97), np.full(10, 0.5)]
    found = events(rows_of(eos_rate=moves), Given())
    assert [event.begins for event in found] == [True, False, True]
    assert "few_eos has ended: " in found[1].text()
    watch = Watch(Given())
    for row in rows_of(eos_rate=moves):
        watch.look(row["step"], row)
    assert watch.spans() == {"few_eos": [(found[0].step, found[1].step), (found[2].step, None)]}
    assert set(watch.holding) == {"few_eos"}


def test_gold_that_falls_with_the_reward_is_no_over_optimisation():
    assert begun(rows_of(gold=ramp(0.65, 0.4), score_raw=ramp(3.0, 1.0))) == set()


def test_reward_models_that_disagree_while_the_reward_does_not_rise_are_no_alarm():
    assert begun(rows_of(ensemble_std=ramp(0.3, 0.9), score_raw=ramp(3.0, 2.0))) == set()
    assert begun(rows_of(ensemble_std=np.full(STEPS, 0.3))) == set()


def test_the_reward_that_is_optimised_decides():
    rows = rows_of(gold=ramp(0.65, 0.4), score_raw=ramp(3.0, 1.0), score_scaled=ramp(0.1, 0.5))
    assert begun(rows, reward="score_scaled") == {"over_optimised"}


@pytest.mark.parametrize("name", ["heldout/gold", "heldout/gold_greedy"])
def test_gold_on_held_out_prompts_is_compared_by_its_own_intervals(name):
    falling = [0.5, 0.6, 0.66, 0.66, 0.65, 0.64, 0.5, 0.48, 0.47, 0.46]
    assert begun(rows_of(heldout(falling, name=name))) == {"over_optimised"}
    assert begun(rows_of(heldout(falling, name=name, half=0.3))) == set(), "within the noise"
    assert begun(rows_of(heldout(sorted(falling), name=name))) == set()


def test_a_critic_has_its_warm_up_and_a_window_to_learn():
    late = np.r_[np.full(25, -0.4), np.full(STEPS - 25, 0.6)]
    assert begun(rows_of(explained_variance=late)) == {"useless_critic"}
    assert begun(rows_of(explained_variance=late), warmup=25) == set()
    until_flat = {"explained_variance": late, "value_warmup": np.minimum(np.arange(1, STEPS + 1), 25)}
    assert begun(rows_of(**until_flat)) == set(), "its end was found while it trained"


@pytest.mark.parametrize(
    "accuracy, half, ranked, alarm",
    [(0.52, 0.02, None, True), (0.52, 0.06, None, False), (0.62, 0.02, None, False),
     (0.62, 0.02, 0.85, True), (0.7, 0.02, 0.85, False), (0.52, 0.02, 0.52, True)],
)  # fmt: skip
def test_the_reward_model_is_at_chance_by_the_end_of_the_interval_and_by_its_held_out_rankings(
    accuracy, half, ranked, alarm
):
    assert (begun(rows_of(checked(accuracy, half)), ranked=ranked) == {"reward_at_chance"}) == alarm


def test_how_much_of_the_held_out_accuracy_must_be_left_is_an_option():
    rows = rows_of(checked(0.62, 0.02))
    assert begun(rows, ranked=0.85, reward_left=0.3) == set()


def test_drift_is_said_at_the_first_iteration_and_of_the_sampler_where_old_log_probs_are_computed_again():
    rows = [{**row, "first_logprob_diff": 0.2} for row in rows_of()]
    assert events(rows, Given())[0].step == 1
    assert begun([{**row, "sampler_logprob_diff": 0.0} for row in rows]) == set()


def test_rows_without_a_metric_or_with_null_in_it_raise_nothing():
    assert events([{"step": step} for step in range(1, 30)], Given()) == []
    rows = [{name: None for name in row} | {"step": row["step"]} for row in WRONG["few_eos"]]
    assert events(rows, Given()) == []


def test_every_key_of_the_section_is_an_alarms_or_of_the_run():
    of_run = {"off", "stop", "window", "errors", "reward_every", "reward_k"}
    bounds = {"gold_fall", "length_growth", "length_left", "perplexity_left", "kl_below", "kl_above", "entropy_left",
              "explained_variance", "eos_rate", "reward_left", "ensemble_growth"}  # fmt: skip
    assert {field.name for field in dataclasses.fields(AlarmOptions)} == of_run | bounds, "each decides in a test above"
