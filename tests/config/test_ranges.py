"""Every number of a config has a range beside its default; what is outside is refused with key, value and range."""

import dataclasses
import math
import typing

import pytest

from icegrt_jax.config import checks, options, read
from icegrt_jax.config.convert import with_values
from icegrt_jax.config.file import load_config
from icegrt_jax.config.ranges import LARGEST, MOST, Amount, Count, Decay, Positive, Range, split
from icegrt_jax.errors import UserError
from tests.config.test_options import QUICKSTART


def numbers(section, prefix=""):
    """(dotted key, the section, the field's name, type, range, whether in a tuple, default) of all that are numbers."""
    for name, kind in typing.get_type_hints(type(section), include_extras=True).items():
        value, key = getattr(section, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{key}.")
            continue
        plain, found = split(kind)
        several = typing.get_origin(plain) is not None
        if several and typing.get_args(plain):
            inner = typing.get_args(plain)
            plain, found = split(inner[-1] if inner[-1] is not Ellipsis else inner[0])
        if plain in (int, float):
            yield key, section, name, plain, found, several, value


NUMBERS = list(numbers(options.Options()))


def given(section, name, value, several):
    """The section with a number in its place, or among a tuple's or a group's."""
    default = getattr(section, name)
    if several and isinstance(default, tuple):
        value = (value,) * max(len(default), 1)
    return with_values(section, {name: {"mine": value} if several and not isinstance(value, tuple) else value}, "g")


def test_every_number_has_a_range_and_a_default_within():
    assert len(NUMBERS) > 150
    for key, _, _, kind, found, _, default in NUMBERS:
        assert isinstance(found, Range), f"{key} has no range"
        for value in (
            default.values() if isinstance(default, dict) else default if isinstance(default, tuple) else [default]
        ):
            assert found.holds(value), key
        assert kind is float or (found.high <= 2**32 and not found.above), f"{key}: a whole number fits into 32 bits"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_everywhere(value):
    for key, section, name, kind, _, several, _ in NUMBERS:
        with pytest.raises(UserError) as error:
            given(section, name, value, several)
        expected = "a finite number" if kind is float else "a whole number"
        assert f"{name}" in str(error.value) and f"={value}; expected {expected}." in str(error.value), key


def test_the_numbers_just_outside_a_range_are_refused_with_key_value_and_range():
    for key, section, name, kind, found, several, _ in NUMBERS:
        step = 1 if kind is int else 0.5
        outside = [] if found.low == -math.inf else [kind(found.low if found.above else found.low - step)]
        if math.isfinite(found.high):
            outside.append(kind(found.high if found.below else found.high + step))
        for value in [value for value in outside if value not in found.also]:
            with pytest.raises(UserError) as error:
                given(section, name, value, several)
            words = f"{MOST} at most" if value > MOST == found.high else str(found)
            mine = f"g.{name}{'.mine' if isinstance(getattr(section, name), dict) else ''}"
            assert str(error.value) == f"{mine}={value}; expected {words}.", key


def test_the_numbers_at_the_ends_of_a_range_are_taken():
    for _, section, name, kind, found, several, _ in NUMBERS:
        ends = [low for low in [found.low] if not found.above] + [high for high in [found.high] if not found.below]
        for value in (*(kind(end) for end in ends if math.isfinite(end)), *map(kind, found.also)):
            taken = getattr(given(section, name, value, several), name)
            assert value in (taken.values() if isinstance(taken, dict) else taken if several else [taken])


def test_ranges_say_what_they_are():
    said = lambda kind: str(split(kind)[1])
    assert [said(kind) for kind in (Amount, Positive, Decay, Count)] == [
        "0 or more", "a number above 0", "0 or more and below 1", "0 or more",
    ]  # fmt: skip
    assert str(Range(0, 1, also=(-1,))) == "-1, or 0 to 1" and str(Range(high=1)) == "1 or less"


def test_what_a_float32_would_make_infinite_or_zero_is_outside():
    positive = split(Positive)[1]
    assert positive.holds(1e-37) and not positive.holds(1e-46), "0 as a float32"
    assert positive.holds(LARGEST) and not positive.holds(1e39)
    decay = split(Decay)[1]
    assert decay.holds(0.9999999) and not decay.holds(0.99999999), "1 as a float32, by which Adam divides 0 by 0"
    with pytest.raises(UserError, match=r"lr=1e\+39; expected 3.4e\+38 at most\."):
        positive.check("lr", 1e39)


@pytest.mark.parametrize(
    "override, message",
    [
        ("sft.optimizer.lr=-0.001", "sft.optimizer.lr=-0.001; expected 0 or more."),
        ("ppo.gamma=5", "ppo.gamma=5.0; expected 0 to 1."),
        ("ppo.lam=-3", "ppo.lam=-3.0; expected 0 to 1."),
        ("ppo.cliprange=-0.2", "ppo.cliprange=-0.2; expected a number above 0."),
        ("reward.optimizer.b1=2", "reward.optimizer.b1=2.0; expected 0 or more and below 1."),
        ("ppo.policy_optimizer.eps=-1", "ppo.policy_optimizer.eps=-1.0; expected a number above 0."),
        ("ppo.value_optimizer.max_grad_norm=-1", "ppo.value_optimizer.max_grad_norm=-1.0; expected 0 or more."),
        ("ppo.score.clip=-1", "ppo.score.clip=-1.0; expected 0 or more."),
        ("ppo.ptx.coef=-1", "ppo.ptx.coef=-1.0; expected 0 or more."),
        ("seed=-1", "seed=-1; expected 0 to 4294967295."),
        ("seed=4294967296", "seed=4294967296; expected 0 to 4294967295."),  # would have the keys of seed 0
        ("ppo.kl.coef=nan", "ppo.kl.coef=nan; expected a finite number."),
        ("ppo.kl.band=(1.0,)", "ppo.kl.band=(1.0,); expected 2 values."),
        ("ppo.kl.band=(0.5,nan)", "--config.ppo.kl.band expects"),
        ("ppo.kl.band=(-0.5,1.5)", "ppo.kl.band=-0.5; expected 0 or more."),
        ("ppo.reward_weights.model=nan", "ppo.reward_weights.model=nan; expected a finite number."),
        ("sft.weights.domain=-1", "sft.weights.domain=-1.0; expected 0 or more."),
        ("domain_sizes.prompts=-1", "domain_sizes.prompts=-1; expected 0 or more."),
        ("ppo.iterations=3000000000", "ppo.iterations=3000000000; expected 2147483647 at most."),
        ("mesh.data=0", "mesh.data=0; expected -1, or 1 or more."),
        ("model.num_kv_heads=3", "model.num_heads="),
        ("reward.model.head_dim=7", "reward.model.head_dim=7; expected an even number"),
    ],
)
def test_what_ran_to_the_end_or_into_a_traceback_is_one_sentence(override, message):
    with pytest.raises(UserError) as error:
        checks.check(read(load_config(QUICKSTART, [f"--config.{override}"])))
    assert str(error.value).startswith(message)
