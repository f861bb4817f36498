"""How much host memory does the import of a checkpoint need beside the arrays it makes?

    python experiments/import_memory/run.py --work=runs/import_memory

Makes a checkpoint with the structure of a 13B Llama at an eighth of its widths, in three files, and imports it over
eight simulated devices, each layout in a process of its own. Writes results/memory.json and results/table.md beside
this file.
"""

import argparse
import dataclasses
import gc
import json
import math
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc

import jax
import numpy as np

from icegrt_jax import files
from icegrt_jax.models import streaming
from icegrt_jax.models.config import ModelConfig
from icegrt_jax.models.hf import safetensors_file
from icegrt_jax.models.hf.config import to_hf_config
from icegrt_jax.models.hf.tensors import source_of
from icegrt_jax.models.tree import abstract_params, flatten
from icegrt_jax.sharding.mesh import make_mesh
from icegrt_jax.sharding.rules import tree_shardings

HERE = pathlib.Path(__file__).parent
LLAMA_13B = ModelConfig(
    vocab_size=32000, d_model=5120, num_layers=40, num_heads=40, num_kv_heads=40, head_dim=128, d_ff=13824,
    tie_embeddings=False, max_length=4096,
)  # fmt: skip
SMALL = dataclasses.replace(LLAMA_13B, vocab_size=4000, d_model=640, head_dim=16, d_ff=1728)
MESH = (1, 4, 2)  # data, fsdp, tensor
LAYOUTS = [(scan, dtype, mesh) for mesh in (MESH, None) for scan in (False, True) for dtype in ("bfloat16", "float32")]


def make_checkpoint(folder: pathlib.Path) -> None:
    """Random bfloat16 tensors under Llama's names, in three files with an index."""
    token_ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw = to_hf_config(SMALL, dtype="bfloat16", token_ids=token_ids, head_bias=None)
    files.write_json_atomic(folder / "config.json", raw)
    specs = {}
    for path, leaf in flatten(abstract_params(SMALL)).items():
        source = source_of(path, SMALL)
        shape = leaf.shape[::-1] if source.transposed else leaf.shape
        specs[source.names[0]] = safetensors_file.Spec(shape, "bfloat16")
    rng = np.random.default_rng(0)
    read = lambda name: rng.normal(0, 0.02, specs[name].shape).astype(jax.numpy.bfloat16)
    limit = -(-sum(spec.size for spec in specs.values()) // 3) + max(spec.size for spec in specs.values())
    safetensors_file.write_sharded(folder, specs, read, limit)


def part_bytes(shape: tuple[int, ...], dtype: str, sharding: jax.sharding.Sharding | None) -> int:
    """Bytes of what one device holds of an array."""
    return math.prod(sharding.shard_shape(shape) if sharding else shape) * jax.numpy.dtype(dtype).itemsize


def sizes(config: ModelConfig, dtype: str, mesh: tuple | None) -> dict[str, int]:
    """Bytes of the arrays, of one device's set of shards, of the largest tensor and of the largest part of one."""
    abstract = abstract_params(config)
    shardings = flatten(tree_shardings(abstract, make_mesh(*mesh))) if mesh else dict.fromkeys(flatten(abstract))
    whole = {path: part_bytes(leaf.shape, dtype, None) for path, leaf in flatten(abstract).items()}
    part = {path: part_bytes(leaf.shape, dtype, shardings[path]) for path, leaf in flatten(abstract).items()}
    largest = max(whole, key=whole.get)
    return {
        "arrays": sum(whole.values()), "shard_set": sum(part.values()), "largest": whole[largest],
        "largest_part": max(part.values()), "bound": whole[largest] + sum(part.values()) // 10,
    }  # fmt: skip


class Watch(threading.Thread):
    """The highest anonymous memory of this process; file pages, which the kernel can drop, are not in it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.running = anonymous(), True

    def run(self) -> None:
        while self.running:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.001)


def anonymous() -> int:
    """RssAnon of this process in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def measure(folder: pathlib.Path, scan_layers: bool, dtype: str, mesh: tuple | None) -> dict:
    """Two imports: the first for what the process occupies, the second for what Python and NumPy allocate.

    The first one also pays for tracing and compiling its small programs, which stays out of the second.
    """
    shardings = (lambda tree: tree_shardings(tree, make_mesh(*mesh))) if mesh else None
    load = lambda: folder.load_hf(folder, scan_layers=scan_layers, param_dtype=dtype, shardings=shardings)[1]
    jax.block_until_ready(jax.numpy.zeros(3))  # JAX has started
    before, watch, started = anonymous(), Watch(), time.perf_counter()
    watch.start()
    params = load()
    seconds = time.perf_counter() - started
    watch.running = False
    watch.join()
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    del params
    # Where a part is aligned for it, a CPU device takes the host's memory as its array. Here it never is, so that all
    # that tracemalloc sees is transient.
    streaming.new_part = misaligned
    gc.collect()
    tracemalloc.start()
    load()
    host_peak = tracemalloc.get_traced_memory()[1]
    return {"host_peak": host_peak, "process_peak": watch.peak - before - arrays, "seconds": seconds}


def misaligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """`streaming.new_part`, never aligned to the 64 bytes that a device array needs."""
    size = int(np.prod(shape)) * jax.numpy.dtype(dtype).itemsize
    memory = np.empty(size + 128, np.uint8)
    start = -memory.ctypes.data % 64 + 16
    return memory[start : start + size].view(dtype).reshape(shape)


def table(rows: list[dict]) -> str:
    """Markdown, in MB."""
    mb = lambda n: f"{n / 1e6:.1f}"
    head = ("layout", "layers", "stored as", "arrays", "largest tensor", "one shard set", "bound", "host peak", "")
    lines = ["| " + " | ".join((*head[:-1], "process peak", "seconds")) + " |", "|---|---|---|" + "---:|" * 7]
    for row in rows:
        layout = "fsdp 4 x tensor 2" if row["mesh"] else "one device"
        cells = [mb(row[name]) for name in ("arrays", "largest", "shard_set", "bound", "host_peak", "process_peak")]
        names = (layout, "scanned" if row["scan_layers"] else "unrolled", row["dtype"])
        lines.append(f"| {' | '.join((*names, *cells))} | {row['seconds']:.1f} |")
    lines += ["", "Per tensor at the real size, Llama 2 13B as float32 over fsdp 4 x tensor 2, in MB:", ""]
    lines += ["| tensor | whole | part on the host |", "|---|---:|---:|"]
    abstract = abstract_params(LLAMA_13B)
    shardings = flatten(tree_shardings(abstract, make_mesh(*MESH)))
    for path, leaf in flatten(abstract).items():
        if not path.startswith("layers/") or path.startswith("layers/0/"):
            whole, part = (part_bytes(leaf.shape, "float32", s) for s in (None, shardings[path]))
            lines.append(f"| {path.replace('layers/0', 'layers/…')} | {mb(whole)} | {mb(part)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/import_memory"))
    parser.add_argument("--layout", type=int, help="measure this one only and print it as JSON")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    folder = args.work / "model"
    if args.layout is not None:
        print(json.dumps(measure(folder, *LAYOUTS[args.layout])))
        return
    make_checkpoint(folder)
    rows = []
    for i, (scan_layers, dtype, mesh) in enumerate(LAYOUTS):
        command = [sys.executable, __file__, f"--work={args.work}", f"--layout={i}"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = {"scan_layers": scan_layers, "dtype": dtype, "mesh": mesh}
        rows.append({**row, **sizes(SMALL, dtype, mesh), **json.loads(out.splitlines()[-1])})
    files.write_json_atomic(HERE / "results" / "memory.json", rows)
    files.write_text_atomic(HERE / "results" / "table.md", table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
