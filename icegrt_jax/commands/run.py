"""`icegrt run`: every stage in order. A finished stage is skipped, an unfinished one continues."""

import pathlib
import time

from icegrt_jax.commands import evaluate, ppo, pretrain, report, reward, sft
from icegrt_jax.config.checks import check_given_reward
from icegrt_jax.config.options import Options
from icegrt_jax.hosts import sync
from icegrt_jax.runs import batch_check, inputs, notes
from icegrt_jax.training.preemption import stop_if_asked
from icegrt_jax.training.progress import print_header

STEPS = (
    ("pretrain", pretrain.train, "a base model from plain text"),
    ("sft", sft.train, "ICE-Instruct, in-domain and general instructions"),
    ("reward", reward.train, "ICE-Reward, from ranked answers"),
    ("ppo", ppo.train, "ICE-GRT, PPO against the reward model"),
    ("evaluate", evaluate.compare, "what each stage bought"),
    ("report", report.main, "curves and a page"),
)


def main(config: Options, workdir: pathlib.Path) -> None:
    """Runs the stages that are not finished yet."""
    began = time.perf_counter()
    check_given_reward(config.reward, config.ppo.iterations, config.reward_model)
    batch_check.check_batches(config.mesh, config.training, workdir)
    # Each stage would say the same of its own inputs, hours later.
    notes.warn("run", inputs.check(config, workdir, *(name for name, *_ in STEPS[:-1])))
    for number, (name, run_stage, purpose) in enumerate(STEPS, start=1):
        print_header(name, purpose, number=number, total=len(STEPS))
        run_stage(config, workdir)
        sync.barrier(f"{name} ends")
        stop_if_asked()
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    print(f"finished in {minutes} min {seconds} s; open {pathlib.Path(workdir) / 'report' / 'index.html'}")
