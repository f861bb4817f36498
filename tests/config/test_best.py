"""What of averages of policies is refused before anything begins."""

import pytest

from icegrt_jax.config import best
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.errors import UserError


def test_averages_that_could_not_be_made_or_chosen_are_refused():
    held = {"heldout": {"ads": "jsonl:a"}, "judge": "exact"}
    best.check_average(PPOOptions(ema=0.9, average=(0.5, 1.0), average_by="heldout/gold+heldout/length:min", **held))
    wrong = [
        ({"average": (0.5, 0.5), **held}, "expected different points from 0"),
        ({"average": (0.5,), "judge": "exact"}, "set ppo.heldout"),
        ({"average": (0.5,), "heldout": held["heldout"]}, "set ppo.judge"),
        ({"average_by": "gold"}, "ppo.average_by='gold'; expected a number measured on held-out data"),
        ({"average_by": "heldout/gold+heldout/length"}, "write heldout/length:max or heldout/length:min"),
    ]
    for changes, said in wrong:
        with pytest.raises(UserError) as error:
            best.check_average(PPOOptions(**changes))
        assert said in str(error.value), said
