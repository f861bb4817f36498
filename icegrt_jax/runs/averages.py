"""The policy that PPO leaves where it is an average: of points on the way from ICE-Instruct the best on held-out data.

Averaging the weights of two policies of one origin keeps most of the reward and gives back much of the KL: WARP
(arXiv 2406.16768, section 3.3, where the way is walked back towards the initialisation).
"""

from collections.abc import Callable
from typing import Any

import jax

from icegrt_jax import files
from icegrt_jax.config.best import metrics_of
from icegrt_jax.config.options import PPOOptions
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs import stage_models
from icegrt_jax.runs.heldout import Measure
from icegrt_jax.runs.rundir import Run
from icegrt_jax.sharding.put import shard_tree
from icegrt_jax.training.checkpoints import Checkpoints
from icegrt_jax.training.restore import AVERAGE
from icegrt_jax.training.state import TrainState, trained


def leave(run: Run, ppo: PPOOptions, end: TrainState, step: int, measure: Callable[[], Measure]) -> dict[str, Any]:
    """Keeps the policy of the chosen point in `ppo/average`; what `done.json` says of it.

    Args:
      end: the last or the best state, its policy being the average over the iterations where there is one.
      step: of the last.
      measure: makes what measures a state.
    """
    start = None if "policy" in dict(end.parts) else stage_models.stage_params(run, "sft", "policy")[1]
    at = lambda point: end.replace(params={**end.params, "policy": on_the_way(start, end.params["policy"], point)})
    rows = _measured(run, ppo, at, measure()) if ppo.average else []
    chosen = max(rows, key=lambda row: row["chosen_by"])["point"] if rows else 1.0
    if rows and sync.is_main():
        print(f"ppo: the policy at {chosen:g} of the way is kept", flush=True)
    kept = trained(at(chosen)).params
    with Checkpoints(run.folder("ppo") / AVERAGE, keep=1) as checkpoints:
        checkpoints.save(step, {"params": shard_tree(kept, run.mesh)})
    by = {"by": ppo.average_by, "tried": rows} if rows else {}
    return {"average": {"step": step, "point": chosen, "ema": ppo.ema, **by}, "use": AVERAGE}


def on_the_way(start: dict | None, end: dict, point: float) -> dict:
    """The policy between ICE-Instruct (0) and `end` (1): a mean of the weights, or the adapter scaled.

    Args:
      start: ICE-Instruct's parameters; None where `end` is an adapter on them, which is 0 there.
    """
    if start is not None:
        # Not start + point (end - start): at 1 that is `end` up to rounding only.
        return jax.tree.map(lambda a, b: (1.0 - point) * a + point * b, start, end)
    scale = lambda path, x: x * point if path[-1].key == "lora_b" else x
    return jax.tree_util.tree_map_with_path(scale, end)


def _measured(run: Run, ppo: PPOOptions, at: Callable[[float], TrainState], measure: Measure) -> list[dict[str, float]]:
    """A row of numbers for each point, `chosen_by` being the sum of those that decide, which is to be large."""
    metrics, rows = metrics_of("ppo.average_by", ppo.average_by), []
    for point in ppo.average:
        numbers = {f"heldout/{name}": x for name, x in measure(at(point)).items() if not isinstance(x, str)}
        for name, _ in metrics:
            if name not in numbers:
                there = ", ".join(numbers)
                raise UserError(f"ppo.average_by={ppo.average_by!r}: measured are {there}; name some of them.")
        row = {"point": point, **numbers, "chosen_by": float(sum(sign * numbers[name] for name, sign in metrics))}
        rows.append(row)
        if sync.is_main():
            shown = ", ".join(f"{name} {row[name]:.4g}" for name, _ in metrics)
            print(f"ppo: {point:g} of the way from ICE-Instruct: {shown}", flush=True)
    if sync.is_main():
        files.write_json_atomic(run.folder("ppo") / "average.json", rows)
    return rows
