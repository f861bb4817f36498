"""Bytes and collectives on each of eight devices, by mesh shape, from the compiled programs of SmolLM2-135M.

Nothing is run and no weights are needed: the programs are compiled for eight simulated CPU devices.

    python experiments/mesh/run.py --out=experiments/mesh/results
"""

import argparse
import collections
import functools
import json
import math
import os
import pathlib
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

import jax
import jax.numpy as jnp

from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.sampling import SamplerConfig, compiled_sampler, sequence_keys
from icegrt_jax.sampling.layout import layout_bytes, moved_to_rollout, rollout_layout, ways_of
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.rules import batch_sharding, tree_shardings
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.ppo import ppo_update
from icegrt_jax.training.state import Experience, PPOConfig, create_state

# SmolLM2-135M with 8 and 4 heads in the place of its 9 and 3, which no mesh of eight divides.
MODEL = ModelConfig(
    vocab_size=49152, d_model=576, num_layers=30, num_heads=8, num_kv_heads=4, head_dim=64, d_ff=1536,
    scan_layers=True, remat="full", dtype="bfloat16",
)  # fmt: skip
ROWS, PROMPT, RESPONSE, MINIBATCHES = 64, 64, 64, 2
MESHES = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2)]
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1}


def abstract(tree, shardings):
    """The tree as shapes that say where they lie."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def sent(text: str) -> dict[str, float]:
    """MiB of the results of each kind of collective in a program, once each, loops or not."""
    totals = collections.Counter()
    for result, kind in re.findall(rf" = (.*?) ({KINDS})(?:-start)?\(", text):
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", result):
            totals[kind] += BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n)
    return {kind: round(size / 2**20, 2) for kind, size in sorted(totals.items())}


def measure(shape: tuple[int, int, int]) -> dict:
    """One row: the update of actor and critic, and the rollout in the layout chosen for it."""
    mesh = make_mesh(*shape)
    create = functools.partial(init_params, jax.random.key(0), MODEL)
    optimizer = OptimizerConfig(lr=1e-5, total_steps=10)
    state = jax.eval_shape(
        lambda: create_state(
            jax.random.key(0),
            {"policy": create(), "value": create(scalar_head=True)},
            {"policy": MODEL, "value": MODEL},
            {"policy": optimizer, "value": optimizer},
            ppo=PPOConfig(num_minibatches=MINIBATCHES),
        )  # fmt: skip
    )
    shardings = tree_shardings(state, mesh)
    state = abstract(state, shardings)
    array = lambda dtype, *size: jax.ShapeDtypeStruct(size, dtype, sharding=batch_sharding(mesh))
    pair = lambda width: (array(jnp.int32, ROWS, width), array(jnp.bool_, ROWS, width))
    batch = Experience(*pair(PROMPT), *pair(RESPONSE), *[array(jnp.float32, ROWS, RESPONSE)] * 5)

    def step(state, batch):
        new, metrics = ppo_update(state, batch)
        return jax.lax.with_sharding_constraint(new, shardings), metrics

    with jax.set_mesh(mesh):
        update = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = update.memory_analysis()

    params = state.params["policy"]
    layout = rollout_layout(mesh, MODEL, params)
    held = layout_bytes(params, MODEL, mesh, layout, rows=ROWS, length=PROMPT + RESPONSE)
    move = moved_to_rollout.lower(params, dtype=MODEL.dtype, mesh=mesh, rollout=layout).compile()
    moved = jax.eval_shape(functools.partial(moved_to_rollout, dtype=MODEL.dtype, mesh=mesh, rollout=layout), params)
    keys = jax.eval_shape(lambda: sequence_keys(jax.random.key(0), 0, ROWS))
    rows = batch_sharding(layout)
    inputs = abstract((keys, jnp.zeros((ROWS, PROMPT), jnp.int32), jnp.zeros((ROWS, PROMPT), jnp.bool_)), (rows,) * 3)
    with jax.set_mesh(layout):
        sampler = compiled_sampler.lower(
            inputs[0], abstract(moved, tree_shardings(moved, layout)), *inputs[1:], model=MODEL,
            config=SamplerConfig(max_new_tokens=RESPONSE, eos_ids=(2,)),
        ).compile()  # fmt: skip
    to_mib = lambda size: round(size / 2**20, 1)
    return {
        "mesh": "x".join(map(str, shape)),
        "update": {
            "arguments": to_mib(memory.argument_size_in_bytes), "temporaries": to_mib(memory.temp_size_in_bytes),
            "peak": to_mib(memory.argument_size_in_bytes + memory.temp_size_in_bytes), "sent": sent(update.as_text()),
        },
        "rollout": {
            "ways": ways_of(layout), **{name: to_mib(size) for name, size in held.items()},
            "moving": {"temporaries": to_mib(move.memory_analysis().temp_size_in_bytes), "sent": sent(move.as_text())},
            "sampler": {
                "temporaries": to_mib(sampler.memory_analysis().temp_size_in_bytes), "sent": sent(sampler.as_text())
            },
        },
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """The rows as Markdown; sizes in MiB on each device."""
    lines = [
        "| data x fsdp x tensor | state and batch | temporaries | update peak | ways | copy | cache | sampler sends |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        update, rollout = row["update"], row["rollout"]
        parts = (
            row["mesh"].replace("x", " x "), update["arguments"], update["temporaries"], update["peak"],
            rollout["ways"], rollout["rollout"], rollout["cache"],
            round(sum(rollout["sampler"]["sent"].values()), 2),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, parts)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    rows = []
    for shape in MESHES:
        rows.append(measure(shape))
        print(json.dumps(rows[-1]), flush=True)
        out.mkdir(parents=True, exist_ok=True)
        (out / "mesh.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (out / "table.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
