"""Supervised steps: tokens per second on full rows, against a bare torch loop and TRL.

    python -m benchmarks.sft

8 rows of 256 tokens, AdamW, float32, SmolLM2 and a tiny Llama. On a GPU: a 1B model, 8 rows of 1024, bfloat16.
"""

import sys

from benchmarks.formulas import sft_flops
from benchmarks.sections import left_out, ours, run_case, torch_peer

ROWS, LENGTH, GPU_LENGTH = 8, 256, 1024


def section(options) -> dict:
    """The section `sft`."""
    models = {"update" if options.gpu else "smollm2": options.large()}
    if not options.gpu:
        models["tiny"] = options.tiny()
    return {"cases": {name: _case(options, model) for name, model in models.items()}}


def _case(options, model) -> dict:
    rows, length = (2, 16) if options.quick else (ROWS, GPU_LENGTH if options.gpu else LENGTH)
    title = f"{model.name}, {rows} x {length} tokens a step, {options.dtype}."
    if why := options.no_model(model):
        return left_out(title, why)
    settings = {"model": model.settings(), "rows": rows, "length": length}
    theirs = {**settings, "device": options.device}
    group = [ours("sft", settings), torch_peer(options, "torch loop", "torch_loop:sft", theirs, "transformers")]
    if not options.gpu:
        group.append(torch_peer(options, "TRL", "trl_supervised:sft", settings, "trl"))
    flops = sft_flops(model.shape, rows, length)
    facts = {"flops": flops, "flops_phase": "update", **options.flops_rate()} if options.gpu else {}
    return run_case(
        options, title, [group], unit="tokens", amount=rows * length, limit_s=flops / options.machine.flops,
        **facts,
    )  # fmt: skip


if __name__ == "__main__":
    from benchmarks.__main__ import main

    raise SystemExit(main(["--only=sft", *sys.argv[1:]]))
