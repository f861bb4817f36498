"""What each alarm measures: functions of the numbers so far, None where there are not enough yet.

One batch is noisy: what is compared is the mean of a window of iterations, which has to be beyond a bound by some of
its standard errors.
"""

import dataclasses

import numpy as np

from icegrt_jax.training.alarms.history import Given, History, Reading, noise, window

# Numbers that a judge says of the policy: more is better.
WITNESSES = ("heldout/gold", "heldout/gold_greedy", "gold")
HELDOUT_POINTS = 2  # measurements on held-out prompts that are averaged, where a batch is one of `window`
CHANCE = 0.55  # accuracy on pairs that is as good as none
START = 2  # first iterations, in which the policy is still ICE-Instruct or nearly
REWARD_CHECK = "reward_check/accuracy"
ENSEMBLE = "ensemble_std"


def _one_sided(
    history: History, given: Given, name: str, bound: float, sign: int, said: str, *, series=None, after: int = 0
) -> Reading | None:
    """Whether the mean of a window is above (sign 1) or below (-1) a bound; None before there is a window.

    Args:
      said: with {value}, {bound} and {window}.
      series: the values, by default those of `name`.
      after: first iterations that are left out.
    """
    count = given.options.window
    values = (history.values(name) if series is None else series)[after:]
    if len(values) < count:
        return None
    mean, error = window(values, count)
    beyond = sign * (mean - bound) > given.options.errors * error
    text = said.format(value=f"{mean:.3g}", bound=f"{bound:.3g}", window=f"mean of {count} iterations")
    return Reading(name, mean, float(bound), beyond, sign * (mean - bound) <= 0, text)


def _from_start(
    history: History, given: Given, name: str, factor: float, sign: int, what: str, series=None
) -> Reading | None:
    values = history.values(name) if series is None else series
    if not values:
        return None
    start = float(np.mean(values[:START]))
    said = f"{what} {{value}} ({{window}}), {start:.3g} at the start: the bound is {factor:g} times that, {{bound}}"
    return _one_sided(history, given, name, factor * start, sign, said, series=series)


def over_optimised(history: History, given: Given) -> Reading | None:
    """Gold, or another witness, has fallen below its best, while the reward has not fallen."""
    found = [reading for name in WITNESSES if (reading := _fallen(history, given, name)) is not None]
    if not found:
        return None
    worst = max(found, key=lambda reading: (reading.beyond, not reading.within, reading.bound - reading.value))
    return dataclasses.replace(worst, within=all(reading.within for reading in found))


def _fallen(history: History, given: Given, name: str) -> Reading | None:
    options, heldout = given.options, name.startswith("heldout/")
    values, steps = history.values(name), history.steps(name)
    count = HELDOUT_POINTS if heldout else options.window
    if len(values) < 2 * count or given.reward not in history:
        return None
    sums = np.cumsum([0.0, *values])
    means = (sums[count:] - sums[:-count]) / count
    best = int(np.argmax(means[:-count]))  # of the windows that share nothing with the last
    now, peak, step = float(means[-1]), float(means[best]), steps[best + count - 1]
    bound = peak - options.gold_fall * abs(peak)
    error = 2**0.5 * (_heldout_noise(history, name) if heldout else noise(values[-4 * count :])) / count**0.5
    then, reward = (history.until(given.reward, at, options.window) for at in (step, steps[-1]))
    kept = reward >= then and reward > history.until(given.reward, history.steps(given.reward)[0], 1)
    said = (
        f"{name} {now:.3g} (mean of {count} {'measurements' if heldout else 'iterations'}), {peak:.3g} at step {step}, "
        f"the bound is {bound:.3g}; {given.reward} {then:.3g} then, {reward:.3g} now"
    )
    beyond = now < bound and peak - now > options.errors * error and kept
    return Reading(name, now, bound, beyond, now >= bound, said)


def _heldout_noise(history: History, name: str) -> float:
    """Standard error of the last measurement, by its interval; by its neighbours where it has none."""
    low, high = (history.values(f"{name}_{end}") for end in ("low", "high"))
    return (high[-1] - low[-1]) / (2 * 1.96) if low and high else noise(history.values(name))


def length_explosion(history: History, given: Given) -> Reading | None:
    """Answers several times as long as those at the start."""
    return _from_start(history, given, "length", given.options.length_growth, 1, "answers of so many tokens:")


def length_collapse(history: History, given: Given) -> Reading | None:
    """Answers much shorter than those at the start, as where reasons are left out."""
    return _from_start(history, given, "length", given.options.length_left, -1, "answers of so many tokens:")


def perplexity_collapse(history: History, given: Given) -> Reading | None:
    """Answers that the reference finds ever more predictable: its nats per token are entropy + KL of the policy's."""
    parts = [history.values(name) for name in ("entropy", "kl", "length")]
    nats = [entropy + kl / max(length, 1.0) for entropy, kl, length in zip(*parts, strict=False)]
    said = "the reference's log-perplexity of the answers, nats per token:"
    left = given.options.perplexity_left * given.sharper
    return _from_start(history, given, "entropy", left, -1, said, series=nats)


def entropy_collapse(history: History, given: Given) -> Reading | None:
    """A policy that has become certain of every token."""
    left = given.options.entropy_left * given.sharper
    return _from_start(history, given, "entropy", left, -1, "entropy, nats per token:")


def ensemble_disagrees(history: History, given: Given) -> Reading | None:
    """Reward models that disagree ever more about the answers, while the reward has risen."""
    growth = given.options.ensemble_growth
    found = _from_start(history, given, ENSEMBLE, growth, 1, "spread over the reward models of what each says:")
    if found is None or given.reward not in history:
        return None
    rewards = history.values(given.reward)
    then, now = float(np.mean(rewards[:START])), window(rewards, given.options.window)[0]
    said = f"{found.said}; {given.reward} {then:.3g} then, {now:.3g} now"
    return dataclasses.replace(found, beyond=found.beyond and now > then, said=said)


def negative_kl(history: History, given: Given) -> Reading | None:
    """A mean of k1 below zero by more than noise."""
    bound = -given.options.kl_below
    return _one_sided(history, given, "kl", bound, -1, "KL {value} nats ({window}), the bound is {bound}")


def kl_too_large(history: History, given: Given) -> Reading | None:
    """Above the band of the target, or where there is none above a fixed number."""
    band = history.values("kl_high")
    bound, what = (band[-1], "the band ends at") if band else (given.options.kl_above, "the bound is")
    return _one_sided(history, given, "kl", bound, 1, f"KL {{value}} nats ({{window}}), {what} {{bound}}")


def useless_critic(history: History, given: Given) -> Reading | None:
    """Values that predict the returns worse than their mean does, once the critic has had a window to learn."""
    lasted = history.values("value_warmup")  # so far, where its end is found by ppo.value_flat
    return _one_sided(
        history, given, "explained_variance", given.options.explained_variance, -1,
        "explained variance {value} ({window}), the bound is {bound}",
        after=max(int(lasted[-1]) if lasted else given.warmup, given.options.window),
    )  # fmt: skip


def few_eos(history: History, given: Given) -> Reading | None:
    """Many answers that are cut off."""
    bound = given.options.eos_rate
    said = "{value} of the answers end with EOS ({window}), the bound is {bound}"
    return _one_sided(history, given, "eos_rate", bound, -1, said)


def sampler_drift(history: History, given: Given) -> Reading | None:
    """Log-probs at sampling that are not the trainer's; the same weights give no noise to wait for."""
    name = "sampler_logprob_diff" if "sampler_logprob_diff" in history else "first_logprob_diff"
    if not (values := history.values(name)):
        return None
    mean, _ = window(values, given.options.window)
    said = f"log-probs of sampler and trainer differ by {values[-1]:.3g} nats per token, the bound is {given.drift:g}"
    within = max(mean, values[-1]) <= given.drift
    return Reading(name, values[-1], given.drift, values[-1] > given.drift, within, said)


def reward_at_chance(history: History, given: Given) -> Reading | None:
    """A reward model that orders pairs of the policy's own answers hardly better than a coin does."""
    if REWARD_CHECK not in history:
        return None
    accuracy, low, high = (history.values(f"{REWARD_CHECK}{end}")[-1] for end in ("", "_low", "_high"))
    bound = CHANCE
    if given.ranked is not None:
        bound = max(bound, 0.5 + given.options.reward_left * (given.ranked - 0.5))
    ranked = "" if given.ranked is None else f", {given.ranked:.3g} on held-out rankings"
    said = (
        f"the reward model orders {accuracy:.3g} ({low:.3g} to {high:.3g}) of the pairs of the policy's own answers as "
        f"the judge does{ranked}; the bound is {bound:.3g}"
    )
    return Reading(REWARD_CHECK, accuracy, bound, high < bound, accuracy >= bound, said)


MEASURES = {
    function.__name__: function
    for function in (
        over_optimised, length_explosion, length_collapse, perplexity_collapse, negative_kl, kl_too_large,
        useless_critic, entropy_collapse, few_eos, sampler_drift, reward_at_chance, ensemble_disagrees,
    )
}  # fmt: skip
COLUMNS = frozenset(
    {
        "length", "entropy", "kl", "kl_high", "explained_variance", "eos_rate", "sampler_logprob_diff",
        "first_logprob_diff", "score_raw", "score_scaled", "value_warmup", ENSEMBLE,
        *(f"{name}{end}" for name in (*WITNESSES, REWARD_CHECK) for end in ("", "_low", "_high")),
    }
)  # fmt: skip
