"""The SFT update compiled for TPUs that are not here, with splash attention and with the plain way.

    pip install -e '.[tpu]'
    python -m benchmarks.attention_aot                       # v4, v5e, v5p and v6e: a few minutes each
    python -m benchmarks.attention_aot --chips=v5e --quick   # a tiny model, to see that the compiler takes the kernel

Says what the compiler says: seconds to compile, and bytes of a chip that the program needs beside its arguments. It
measures no time on a chip; nothing is run.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import time

# Read when jax and libtpu start: the TPU compiler is wanted, and no search for a TPU.
os.environ.update(
    {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_MIN_LOG_LEVEL": "4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
)

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from icegrt_jax.models import attention
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.heads import init_params
from icegrt_jax.models.hf.config import read_hf_config, to_model_config
from icegrt_jax.sharding.mesh import AXES
from icegrt_jax.sharding.rules import batch_sharding, tree_shardings
from icegrt_jax.training.optimizers import OptimizerConfig
from icegrt_jax.training.state import create_state
from icegrt_jax.training.updates import sft_update

# Four chips each, which are four devices; a v4 chip is one device only when told so.
SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
OPTIONS = {"v4": {"chip_config_name": "megacore"}}
QWEN = pathlib.Path(__file__).parent.parent / "configs" / "shapes" / "qwen3_1p7b"
# Heads of 64, two kinds of layers, and a softcap.
TINY = ModelConfig(
    vocab_size=512, d_model=256, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=64, d_ff=512, dtype="bfloat16",
    scan_layers=True, remat="full", layer_windows=(200, 0), attn_softcap=50.0,
)  # fmt: skip


def make_mesh(chip: str) -> Mesh:
    """The chips of one small slice, half of them for the rows and half for the heads."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=SLICES[chip], **OPTIONS.get(chip, {}))
    return Mesh(np.array(topology.devices).reshape(1, 2, -1), AXES, axis_types=(AxisType.Auto,) * 3)


def compile_update(mesh: Mesh, model: ModelConfig, rows: int, length: int) -> dict:
    """Way to attend, seconds to compile, and MiB of a chip for arguments and temporaries of one SFT update."""

    def new_state():
        key = jax.random.key(0)
        optimizers = {"policy": OptimizerConfig(lr=1e-5, total_steps=100)}
        return create_state(key, {"policy": init_params(key, model)}, {"policy": model}, optimizers)

    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.eval_shape(new_state)
    state = jax.tree.map(place, state, tree_shardings(state, mesh))
    kinds = {"tokens": jnp.int32, "segment_ids": jnp.int32, "positions": jnp.int32, "loss_mask": jnp.bool_}
    batch = {k: jax.ShapeDtypeStruct((rows, length), kind, sharding=batch_sharding(mesh)) for k, kind in kinds.items()}
    with jax.set_mesh(mesh):
        way, start = attention.choose(model, length), time.perf_counter()
        compiled = jax.jit(sft_update, donate_argnums=0).lower(state, batch).compile()
        seconds = time.perf_counter() - start
    assert ("tpu_custom_call" in compiled.as_text()) == (way == "splash")
    memory = compiled.memory_analysis()
    return {
        "attention": way,
        "compile_s": round(seconds),
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20),
        "temporaries_mib": round(memory.temp_size_in_bytes / 2**20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", nargs="+", default=list(SLICES), choices=SLICES, help="default: all of them")
    parser.add_argument("--ways", nargs="+", default=["auto", "plain"], choices=["auto", "plain"])
    parser.add_argument("--rows", type=int, default=16, help="of a batch (default 16)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row (default 2048)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, 4 rows of 400 tokens")
    args = parser.parse_args()
    model, rows, length = TINY, 4, 400
    if not args.quick:
        model = to_model_config(read_hf_config(QWEN), QWEN, scan_layers=True, dtype="bfloat16")
        model, rows, length = dataclasses.replace(model, remat="full"), args.rows, args.length
    for chip in args.chips:
        mesh = make_mesh(chip)
        for way in args.ways:
            result = compile_update(mesh, dataclasses.replace(model, attention=way), rows, length)
            print(json.dumps({"chip": chip, "chips": mesh.size, "rows": rows, "length": length, **result}), flush=True)


if __name__ == "__main__":
    main()
