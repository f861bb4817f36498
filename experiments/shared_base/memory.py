"""How much memory does a PPO iteration need with one shared base, against four full models?

    make smollm2
    python experiments/shared_base/memory.py --model=models/smollm2-135m-instruct

Each way runs in a process of its own: it builds the state, resets the process's peak (Linux), runs two PPO
iterations of 8 prompts x 64 + 64 tokens, the responses forced to full length, and reports the peak resident
memory and the seconds of the second iteration. Results go to results/memory.json beside this file.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
PROMPTS, PROMPT, NEW, RANK = 8, 64, 64, 16
# name -> shared base?, storage of the frozen trees, remat
WAYS = {
    "four full models": (False, "float32", False),
    "four full models, remat": (False, "float32", True),
    "shared base bfloat16, remat": (True, "bfloat16", True),
    "shared base int8, remat": (True, "int8", True),
    "shared base bfloat16": (True, "bfloat16", False),
}


def build_state(path: str, shared: bool, dtype: str, remat: bool):
    """The four roles of the model in `path`; reward and critic are its trunk with new heads."""
    import dataclasses

    import jax

    from icegrt_jax.models.heads import new_head, with_scalar_head
    from icegrt_jax.models.hf.folder import load_hf
    from icegrt_jax.models.lora import LoRAConfig, init_adapter
    from icegrt_jax.models.quantize import stored_as
    from icegrt_jax.rl import AdaptiveKL, ScoreStats
    from icegrt_jax.training.optimizers import OptimizerConfig
    from icegrt_jax.training.state import Part, PPOConfig, create_state

    load = lambda: load_hf(path, scan_layers=True)
    config, params = load()
    config, key = dataclasses.replace(config, remat="full" if remat else "none"), jax.random.key(0)
    parts = {}
    if shared:
        lora = LoRAConfig(rank=RANK)
        adapter = lambda i, **head: init_adapter(jax.random.fold_in(key, i), params, lora, **head)
        trees = {"policy": adapter(0), "reference": {}, "base": stored_as(params, dtype)}
        trees |= {role: adapter(i, head=new_head(key, config)) for i, role in ((1, "value"), (2, "reward"))}
        parts = {role: Part("base", lora) for role in ("policy", "value", "reward")} | {"reference": Part("base")}
    else:
        trees = {"policy": params, "reference": load()[1]}
        trees |= {role: with_scalar_head(key, load()[1], config) for role in ("value", "reward")}
    optimizer = OptimizerConfig(lr=1e-6, total_steps=100)
    return create_state(
        key,
        trees,
        {role: config for role in ("policy", "value", "reward")},
        {"policy": optimizer, "value": optimizer},
        ppo=PPOConfig(),
        kl=AdaptiveKL.create(0.05),
        score_stats=ScoreStats.create(),
        parts=parts,
    )


def measure(path: str, way: str) -> dict:
    """Peak memory in GiB of two iterations and seconds of the second; and that the first starts at ratio 1, KL 0."""
    import jax
    import numpy as np

    from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys
    from icegrt_jax.sharding.mesh import make_mesh
    from icegrt_jax.sharding.put import shard_batch
    from icegrt_jax.sharding.steps import jit_step
    from icegrt_jax.training.ppo import ppo_update, score

    state = build_state(path, *WAYS[way])
    mesh = make_mesh()
    steps = {"score": jit_step(score, mesh, state), "update": jit_step(ppo_update, mesh, state)}
    tokens = np.random.default_rng(0).integers(1000, 40000, (PROMPTS, PROMPT)).astype(np.int32)
    prompts = shard_batch((tokens, np.ones_like(tokens, bool)), mesh)
    sampler = SamplerConfig(max_new_tokens=NEW)  # no EOS: full length
    held = memory("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    for iteration in range(2):
        began, seconds = time.perf_counter(), {}
        with jax.set_mesh(mesh):
            keys = sequence_keys(jax.random.key(1), iteration * PROMPTS, PROMPTS)
            policy = state.full("policy")
            rollout = compiled_sampler(keys, policy, *prompts, model=state.model("policy"), config=sampler)
        jax.block_until_ready(rollout)
        seconds["rollout"] = time.perf_counter() - began
        state, experience, scored = steps["score"](state, shard_batch(rollout, mesh))
        jax.block_until_ready(experience)
        seconds["score"] = time.perf_counter() - began - seconds["rollout"]
        state, learned = steps["update"](state, experience)
        jax.block_until_ready(state.params["policy"])
        seconds["total"] = time.perf_counter() - began
        if iteration == 0:
            first = {"ratio_error": float(learned["first_ratio_error"]), "kl": float(scored["kl"])}
    return {"peak_gib": memory("VmHWM"), "state_gib": held, "seconds": seconds, "first_update": first}


def memory(field: str) -> float:
    """VmRSS or VmHWM of this process in GiB."""
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(f"{field}:")).split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--way", choices=WAYS, help="one only, its numbers to stdout")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.model, args.way)))
        return
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, f"--model={args.model}", f"--way={way}"]
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        share = results[way]["peak_gib"] / results["four full models"]["peak_gib"]
        print(f"{way:30} peak {results[way]['peak_gib']:.2f} GiB ({share:.0%})", results[way], flush=True)
    out = HERE / "results" / "memory.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
