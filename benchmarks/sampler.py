"""Generation: tokens per second at a fixed length, and answers per second to real prompts.

    make smollm2
    python -m benchmarks.sampler

Fixed: 64 prompt tokens, 64 new ones, no EOS, temperature 1, batches of 1, 8 and 32; `generate` of transformers with its
dynamic and static cache and compiled, and Tunix's sampler. Natural: 32 real prompts through 8 slots until EOS or 128
tokens, by each of `ours.WAYS`. `python -m benchmarks.sampler --layouts` compares stacked layers that are scanned with
layers taken apart instead.
"""

import dataclasses
import sys

from benchmarks import cases
from benchmarks.formulas import generation_seconds
from benchmarks.sections import left_out, ours, run_case, torch_peer, tunix_peer

BATCHES, GPU_BATCHES = (1, 8, 32), (64, 1, 8)
GPU_LENGTH = 128  # tokens of prompt, and as many new ones
NATURAL_PROMPTS, SLOTS = 32, 8
MODES = ("dynamic", "static", "compiled")
GPU_MODES = ("dynamic", "compiled")


def section(options) -> dict:
    """The section `sampler`."""
    model, found = options.large(), {}
    prompt, new = (GPU_LENGTH, GPU_LENGTH) if options.gpu else (cases.PROMPT, cases.NEW)
    if options.quick:
        prompt, new = 8, 4
    for batch in GPU_BATCHES if options.gpu else BATCHES:
        found[f"batch{batch}"] = _fixed(options, model, batch, prompt, new)
    if not options.gpu:
        found["continuous"] = _natural(options, model)
    return {"cases": found}


def _fixed(options, model: cases.Model, batch: int, prompt: int, new: int) -> dict:
    title = f"{model.name}, batch {batch}, {prompt} + {new} tokens, {options.dtype}."
    if why := options.no_model(model):
        return left_out(title, why)
    settings = {"model": model.settings(), "batch": batch, "prompt": prompt, "new": new}
    group = [ours("sample", settings)]
    for mode in MODES[:1] if options.quick else GPU_MODES if options.gpu else MODES:
        theirs = {**settings, "mode": mode, "device": options.device}
        target = "transformers_generate:sample"
        group.append(torch_peer(options, f"transformers {mode}", target, theirs, "transformers"))
    if not options.gpu:
        group.append(tunix_peer(options, "tunix:sample", settings))
    width = options.weight_bytes
    limit = generation_seconds(model.shape, options.machine, [(prompt, new)] * batch, width, width)
    return run_case(options, title, [group], unit="tokens", amount=batch * new, limit_s=limit)


def _natural(options, model: cases.Model) -> dict:
    from benchmarks.ours import WAYS

    folder = cases.data_folder()
    title = f"{model.name}, {NATURAL_PROMPTS} real prompts, {SLOTS} at a time, up to {cases.NATURAL_NEW} new tokens."
    if why := options.no_model(model):
        return left_out(title, why)
    if options.quick:
        prompts, eos_ids, prompt, new = [[5 + i] * (1 + i) for i in range(4)], [9], 8, 8
    elif folder is None:
        return left_out(title, "ICEGRT_DATA names no folder with prompts/rl_train.jsonl.gz")
    else:
        prompts, eos_ids = cases.natural_prompts(folder, model.path, NATURAL_PROMPTS)
        prompt, new = cases.NATURAL_PROMPT, cases.NATURAL_NEW
    slots = 2 if options.quick else SLOTS
    settings = {
        "model": model.settings(), "prompts": prompts, "eos_ids": eos_ids, "prompt": prompt, "new": new, "slots": slots,
    }  # fmt: skip
    group = [ours("sample_prompts", {**settings, "way": way}, way) for way in WAYS]
    return run_case(options, title, [group], unit="answers", amount=len(prompts), limit_s=None)


def layouts(options) -> dict:
    """Stacked layers scanned at every token, and taken apart before the loop, in the sampler's own program."""
    model, found = dataclasses.replace(options.large(), scan_layers=True), {}
    for batch in BATCHES:
        title = f"{model.name}, batch {batch}, {cases.PROMPT} + {cases.NEW} tokens, layers taken apart and scanned."
        settings = {"model": model.settings(), "batch": batch, "prompt": cases.PROMPT, "new": cases.NEW}
        if why := options.no_model(model):
            found[f"batch{batch}"] = left_out(title, why)
            continue
        group = [ours("sample", settings), ours("sample", {**settings, "scanned": True}, "scanned layers")]
        found[f"batch{batch}"] = run_case(
            options, title, [group], unit="tokens", amount=batch * cases.NEW, limit_s=None
        )
    return {"cases": found}


if __name__ == "__main__":
    from benchmarks.__main__ import main

    only = "layouts" if "--layouts" in sys.argv else "sampler"
    raise SystemExit(main([f"--only={only}", *(arg for arg in sys.argv[1:] if arg != "--layouts")]))
