"""Steps of the reward model: tokens per second on pairs of answers, against TRL.

    python -m benchmarks.reward

4 pairs of 256 tokens each, AdamW, float32, SmolLM2 and a tiny Llama. `python -m benchmarks.reward --updates` compares
ours with what it was before freed memory was kept, and with stacked layers.
"""

import dataclasses
import sys

from benchmarks.formulas import reward_flops
from benchmarks.sections import left_out, ours, run_case, torch_peer

ROWS, LENGTH = 8, 256
GIVEN_BACK = (("MALLOC_TOP_PAD_", str(2**17)),)  # glibc's own default; where one is set, `heap.py` changes nothing


def section(options) -> dict:
    """The section `reward`."""
    return {"cases": {"smollm2": _case(options, options.large()), "tiny": _case(options, options.tiny())}}


def _case(options, model) -> dict:
    rows, length = (4, 16) if options.quick else (ROWS, LENGTH)
    title = f"{model.name}, {rows // 2} pairs of {length} tokens a step, {options.dtype}."
    if why := options.no_model(model):
        return left_out(title, why)
    settings = {"model": model.settings(), "rows": rows, "length": length}
    group = [ours("reward", settings), torch_peer(options, "TRL", "trl_supervised:reward", settings, "trl")]
    limit = reward_flops(model.shape, rows, length) / options.machine.flops
    return run_case(options, title, [group], unit="tokens", amount=rows * length, limit_s=limit)


def updates(options) -> dict:
    """The same step with freed memory kept or given back, with layers stacked, and on trees or answer by answer."""
    model = options.large()
    rows, length = (4, 16) if options.quick else (ROWS, LENGTH)
    title = f"{model.name}, {rows // 2} pairs of {length} tokens a step, {options.dtype}, ours in other ways."
    if why := options.no_model(model):
        return {"cases": {"smollm2": left_out(title, why)}}
    settings = {"model": model.settings(), "rows": rows, "length": length}
    stacked = {**settings, "model": dataclasses.replace(model, scan_layers=True).settings()}
    group = [
        ours("reward", settings),
        ours("reward", settings, "memory given back", env=GIVEN_BACK),
        ours("reward", stacked, "layers stacked"),
    ]
    limit = reward_flops(model.shape, rows, length) / options.machine.flops
    cases = {"smollm2": run_case(options, title, [group], unit="tokens", amount=rows * length, limit_s=limit)}
    return {
        "cases": {**cases, "rankings": _rankings(options, model), "tiny_rankings": _rankings(options, options.tiny())}
    }


def _rankings(options, model) -> dict:
    """Several answers to each prompt as one tree, or each with the prompt before it."""
    prompts, answers, prompt, answer = (2, 3, 16, 8) if options.quick else (2, 5, 128, 64)
    title = f"{model.name}, {prompts} prompts of {prompt} tokens with {answers} answers of {answer} a step."
    settings = {
        "model": model.settings(), "prompts": prompts, "answers": answers, "prompt": prompt, "answer": answer,
    }  # fmt: skip
    group = [
        ours("ranked", {**settings, "trees": True}),
        ours("ranked", {**settings, "trees": False}, "each answer with its prompt"),
    ]
    limit = reward_flops(model.shape, prompts, prompt + answers * answer) / options.machine.flops
    return run_case(options, title, [group], unit="rankings", amount=prompts, limit_s=limit)


if __name__ == "__main__":
    from benchmarks.__main__ import main

    only = "updates" if "--updates" in sys.argv else "reward"
    raise SystemExit(main([f"--only={only}", *(arg for arg in sys.argv[1:] if arg != "--updates")]))
