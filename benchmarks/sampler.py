"""Tokens per second of the sampler, with stacked layers scanned and with each layer by itself, and of transformers.

    make smollm2
    python benchmarks/sampler.py --model=models/smollm2-135m-instruct

64 prompt tokens, 64 new ones, no EOS, temperature 1, float32. The ways take turns, so that a busy moment hits all of
them; printed are medians over the repetitions and ratios of medians. transformers runs where torch is installed
(`pip install '.[bench]'`). Numbers of one machine are in README.md beside this file.
"""

import argparse
import functools
import json
import statistics
import time
from unittest import mock

import jax
import numpy as np

from icegrt_jax.models.hf import load_hf
from icegrt_jax.sampling import SamplerConfig, sampler, sequence_keys

PROMPT, NEW = 64, 64
SCANNED, UNSTACKED, PEER = "scanned layers", "layers by themselves", "transformers generate"


def ours(path: str, *, unstack: bool):
    """`run(tokens i32[B, P])` with the layers stacked in memory, as training has them."""
    config, params = load_hf(path, scan_layers=True)
    draw = SamplerConfig(max_new_tokens=NEW)
    # A function of its own, or the two ways would share compiled programs.
    sample = jax.jit(functools.partial(sampler.sample_responses, model=config, config=draw))
    layout = sampler.unstacked if unstack else lambda params, model: (params, model)

    def run(tokens: np.ndarray) -> None:
        keys = sequence_keys(jax.random.key(0), 0, len(tokens))
        with mock.patch.object(sampler, "unstacked", layout):  # read while the program is traced
            jax.block_until_ready(sample(keys, params, tokens, np.ones_like(tokens, np.bool_)))

    return run


def transformers(path: str):
    """The same by `generate` of transformers with its dynamic cache; None where torch is missing."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        return None
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    forced = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": True, "temperature": 1.0, "top_k": 0}

    def run(tokens: np.ndarray) -> None:
        ids = torch.tensor(tokens, dtype=torch.long)
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **forced)

    return run


def measure(ways: dict, batch: int, repeats: int) -> dict[str, dict]:
    """{way: first call and median seconds, tokens per second} at one batch size."""
    tokens = np.random.default_rng(0).integers(1000, 40000, (batch, PROMPT)).astype(np.int32)
    seconds = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, run in ways.items():
            began = time.perf_counter()
            run(tokens)
            seconds[way].append(time.perf_counter() - began)
    results = {}
    for way, (first, *rest) in seconds.items():
        median = statistics.median(rest)
        results[way] = {"first_s": first, "median_s": median, "all_s": rest, "tokens_per_s": batch * NEW / median}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    ways = {SCANNED: ours(args.model, unstack=False), UNSTACKED: ours(args.model, unstack=True)}
    if (peer := transformers(args.model)) is not None:
        ways[PEER] = peer
    results = {}
    for batch in args.batches:
        results[batch] = measure(ways, batch, args.repeats)
        for way, found in results[batch].items():
            ratio = found["tokens_per_s"] / results[batch][SCANNED]["tokens_per_s"]
            print(
                f"batch {batch:3}  {way:22} {found['tokens_per_s']:7.1f} tokens/s  {found['median_s']:6.2f} s  "
                f"x {ratio:.2f}  (first call {found['first_s']:.1f} s)",
                flush=True,
            )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
