"""What a reward function costs that costs nothing: iterations of PPO with one and without, by turns.

    python experiments/own_reward/overhead.py --workdir=runs/quickstart

The workdir has finished stages up to the reward model, of any config; nothing is written to it.
"""

import argparse
import dataclasses
import pathlib
import time

import jax
import numpy as np

from icegrt_jax.config import read
from icegrt_jax.config.file import from_json
from icegrt_jax.config.options import Options
from icegrt_jax.data.pipeline import prompt_batches
from icegrt_jax.data.records import Prompt
from icegrt_jax.runs import iteration, judging, rundir
from icegrt_jax.runs.rewards import Rewards
from icegrt_jax.runs.roles import finished_stages, initial_state
from icegrt_jax.training.progress import Progress


def nothing(prompts, responses, records):
    """A trivial function: of 0 nothing is learned, so that answers, and what an iteration has to do, stay the same."""
    return [0.0 for _ in responses]


def advance_of(config: Options, run: rundir.Run, workers: int | None):
    """A function that makes one iteration and gives its seconds; with `workers` None there is no reward function."""
    ppo = config.ppo
    specs = {} if workers is None else {"nothing": nothing if not workers else f"{__file__}:nothing"}
    ppo = dataclasses.replace(
        ppo, rewards=dict.fromkeys(specs, "own.py:nothing"), ptx=type(ppo.ptx)(), judge="", judges={}
    )
    source = finished_stages(
        run, ppo, config.value, shared_base=config.roles.shared_base, frozen=config.model.param_dtype
    )
    state, _ = initial_state(run, source)
    sources = run.load(ppo.sources, Prompt)
    batches = prompt_batches(
        sources, ppo.weights, run.tokenizer, batch_size=ppo.batch_size,
        max_prompt_length=run.lengths.max_prompt_length, seed=0, overlong=run.lengths.overlong_prompts,
    )  # fmt: skip
    asked = judging.questions(sources, judging.of_ppo(ppo, config.domain))
    once = iteration.make_iteration(run, ppo, state, asked, None, Rewards(specs, workers=workers or 0))
    progress, holder = Progress(1 << 30, "overhead"), [state]

    def advance(step: int) -> float:
        began = time.perf_counter()
        holder[0] = once.advance(holder[0], step, lambda step: (batches[step - 1], None), progress).state
        jax.block_until_ready(holder[0])
        return time.perf_counter() - began

    return advance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    config = read(from_json((args.workdir / "config.json").read_text()))
    run = rundir.start(config, config.lengths, config.mesh, args.workdir, compile_cache=True)
    ways = {
        name: advance_of(config, run, workers) for name, workers in (("without", None), ("thread", 0), ("worker", 1))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(1, args.rounds + 4):
        turn = list(ways) if step % 2 else list(ways)[::-1]
        for name in turn:
            taken = ways[name](step)
            if step > 3:  # compiled and warm
                seconds[name].append(taken)
    base = np.array(seconds["without"])
    print(f"an iteration without: median {np.median(base):.3f} s")
    for name in ("thread", "worker"):
        ratio = np.array(seconds[name]) / base
        draws = np.random.default_rng(0).choice(ratio, (2000, len(ratio)))
        low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
        print(f"with a trivial function, {name}: {np.median(ratio):.4f} of it (95 % interval {low:.4f} to {high:.4f})")
        # What else the machine does only adds: the quickest iterations say most of what these cost.
        quickest = [np.sort(x)[: max(len(x) // 5, 1)].mean() for x in (seconds[name], base)]
        print(f"    by the quickest fifth of each: {quickest[0] / quickest[1]:.4f}")


if __name__ == "__main__":
    main()
