"""The evaluation's reward model, which PPO never sees: the other half of the data (halves.py), another seed.

    ICEGRT_DATA=DIR icegrt reward --config=experiments/smollm2_ecqa/evaluator.py:laptop --workdir=runs/evaluator

after `sft` with the same words. The base is the chain's: no second one of this size is to be had without a hub.
"""

import pathlib
import runpy

CONFIG = runpy.run_path(str(pathlib.Path(__file__).with_name("config.py")))
SWITCHES = CONFIG["SWITCHES"]


def get_config(switch="laptop"):
    c, _ = CONFIG["base"](switch)
    c.domain, c.seed = f"{CONFIG['HALVES']}:Other", 1000
    c.sft.steps = max(1, c.sft.steps // 4)  # enough to know the form of an answer: it only ranks
    c.sft.optimizer.warmup_steps = c.sft.steps // 10
    return c
