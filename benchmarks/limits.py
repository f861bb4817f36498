"""The machine's limits: rate of matrix products and bandwidth of reading memory, the best that any library reaches.

    python -m benchmarks.limits

numpy and jax take turns. The rate is that of the best shape of those that the models use and one square; the bandwidth
is of reading 256 MiB once. On an accelerator: bfloat16 products and reading 2 GiB.
"""

import concurrent.futures
import time

import numpy as np

from benchmarks.turns import threads

SHAPES = (  # [m, k] x [k, n]
    (2048, 2048, 2048), (2048, 576, 1536), (2048, 1536, 576), (2048, 576, 49152), (4096, 256, 688),
)  # fmt: skip
GPU_SHAPES = ((8192, 8192, 8192), (8192, 2048, 8192), (8192, 8192, 2048))
READ_BYTES, GPU_READ_BYTES = 2**28, 2**31
REPETITION_S = 0.3
# Dense bfloat16 rates that vendors publish, for utilisation as papers state it. [operations per second]
NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "A10G": 70e12}


def rate(function, amount: float) -> float:
    """Amount per second of a function, called for REPETITION_S."""
    function()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < REPETITION_S:
        function()
        count += 1
    return amount * count / (time.perf_counter() - began)


def name_of(shape: tuple[int, int, int]) -> str:
    m, k, n = shape
    return f"[{m},{k}]x[{k},{n}]"


def numpy_limits(turns, *, shapes: list, read_bytes: int) -> None:
    """By numpy's BLAS; reading is a dot product of an array with itself, in as many threads as there are cores."""
    rng = np.random.default_rng(0)
    numbers = np.ones(read_bytes // 4, np.float32)
    parts = np.array_split(numbers, threads() * 8)
    with concurrent.futures.ThreadPoolExecutor(threads()) as pool:
        while turns.wait():
            rates = {}
            for m, k, n in shapes:
                a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
                out = np.empty((m, n), np.float32)
                multiply = lambda a=a, b=b, out=out: np.matmul(a, b, out=out)
                rates[name_of((m, k, n))] = rate(multiply, 2.0 * m * k * n)
            read = rate(lambda: list(pool.map(np.sum, parts)), read_bytes)
            turns.done({}, flops=rates, bandwidth={"sum": read})


def jax_limits(turns, *, shapes: list, read_bytes: int, dtype: str) -> None:
    """By XLA; reading is a sum and a matrix-vector product, as a decode step at batch 1 has it."""
    import jax
    import jax.numpy as jnp

    from benchmarks.ours import device_peak

    keys = jax.random.split(jax.random.key(0), 2)
    rows = read_bytes // jnp.dtype(dtype).itemsize // 2048
    matrix, vector = jnp.ones((rows, 2048), dtype), jnp.ones((2048,), dtype)
    product, total = jax.jit(jnp.matmul), jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    while turns.wait():
        rates = {}
        for m, k, n in shapes:
            a, b = jax.random.normal(keys[0], (m, k), dtype), jax.random.normal(keys[1], (k, n), dtype)
            multiply = lambda a=a, b=b: jax.block_until_ready(product(a, b))
            rates[name_of((m, k, n))] = rate(multiply, 2.0 * m * k * n)
        bandwidth = {
            "sum": rate(lambda: jax.block_until_ready(total(matrix)), read_bytes),
            "matrix-vector": rate(lambda: jax.block_until_ready(product(matrix, vector)), read_bytes),
        }
        turns.done({}, peak=device_peak(), flops=rates, bandwidth=bandwidth, device=jax.devices()[0].device_kind)


def section(options) -> dict:
    """The section `limits`."""
    from benchmarks.sections import run_case
    from benchmarks.turns import Contender

    shapes = list(GPU_SHAPES if options.gpu else SHAPES)
    size = GPU_READ_BYTES if options.gpu else READ_BYTES
    if options.quick:
        shapes, size = [(64, 64, 64)], 2**20
    settings = {"shapes": shapes, "read_bytes": size}
    jax_way = Contender("jax", "benchmarks.limits:jax_limits", {**settings, "dtype": options.dtype})
    ways = [jax_way] if options.gpu else [jax_way, Contender("numpy", "benchmarks.limits:numpy_limits", settings)]
    groups = run_case(options, "limits", [ways])["groups"]
    rows, best, nominal, device = [], {"flops": 0.0, "bandwidth": 0.0}, None, ""
    for name, contender in groups[0].items():
        if "rounds" not in contender:
            continue
        infos = [repetition["info"] for repetition in contender["rounds"]]
        device = infos[0].get("device", device)
        for kind, unit in (("flops", "GFLOP/s"), ("bandwidth", "GB/s")):
            for what in infos[0][kind]:
                found = sorted(info[kind][what] for info in infos)
                median = float(np.median(found))
                best[kind] = max(best[kind], median)
                rows.append([f"{what} by {name}", unit] + [f"{x / 1e9:.1f}" for x in (median, found[0], found[-1])])
    nominal = next((flops for key, flops in NOMINAL.items() if key in device), None)
    title = f"Limits: {best['flops'] / 1e9:.0f} GFLOP/s in {options.dtype}, {best['bandwidth'] / 1e9:.1f} GB/s read."
    case = {"title": title, "header": ["", "", "median", "least", "most"], "rows": rows}
    return {"cases": {"limits": case}, "limits": {**best, "nominal_flops": nominal, "device": device}}


def main() -> int:
    from benchmarks.__main__ import main

    return main(["--only=limits"])


if __name__ == "__main__":
    raise SystemExit(main())
