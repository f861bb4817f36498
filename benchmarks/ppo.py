"""PPO iterations: samples per second and seconds of rollout, scoring and learning, against TRL and Tunix.

    python -m benchmarks.ppo
    python -m benchmarks.ppo --natural

Fixed: every response full length, four separate full models, one minibatch: SmolLM2 8 x (64 + 64) with one epoch, a
tiny Llama 64 x (32 + 64) with four. Natural: 16 real prompts, SmolLM2, up to 128 new tokens, EOS ends, one epoch; how
long the answers are is chance, so their mean length stands beside the times. `python -m benchmarks.ppo --packing` has
ours with and without packed rows there. On a GPU: a 1B model, 16 x (256 + 256).
"""

import dataclasses
import statistics
import sys

from benchmarks import cases
from benchmarks.formulas import learning_flops, ppo_seconds
from benchmarks.sections import Missing, left_out, ours, run_case, torch_peer, tunix_peer

NATURAL_BATCH, NATURAL_MICRO_BATCH = 16, 4
NATURAL_SLOTS = 0  # of ours; all prompts in flight at once
NATURAL_WARM_UPS = 9  # of ours, so that the sizes of packed rows that 16 answers need have been compiled
GPU_BATCH, GPU_LENGTH = 16, 256


def section(options) -> dict:
    """The section `ppo`."""
    if options.gpu:
        return {"cases": {"update": _gpu(options)}}
    small = options.tiny()
    if options.quick:
        return {"cases": {"tiny": _fixed(options, small, 4, 8, 4, 2)}}
    return {
        "cases": {
            "smollm2": _fixed(options, options.large(), 8, cases.PROMPT, cases.NEW, 1, stay=False),
            "tiny": _fixed(options, small, 64, 32, 64, 4),
        }
    }


def _limit(options, model: cases.Model, lengths: list[tuple[int, int]], epochs: int) -> float:
    return sum(ppo_seconds(model.shape, options.machine, lengths, epochs, options.weight_bytes).values())


def _fixed(options, model: cases.Model, batch: int, prompt: int, new: int, epochs: int, *, stay: bool = True) -> dict:
    """stay: whether ours and Tunix, which take turns apart from TRL, are in memory at once; SmolLM2 needs 25 GB."""
    title = f"{model.name}, {batch} x ({prompt} + {new}) tokens, four full models, epochs: {epochs}, minibatches: 1."
    if why := options.no_model(model):
        return left_out(title, why)
    settings = {"model": model.settings(), "batch": batch, "prompt": prompt, "new": new, "epochs": epochs}
    trl = torch_peer(options, "TRL", "trl_ppo:ppo", settings, "trl")
    tunix = tunix_peer(options, "tunix:ppo", settings)
    groups = [[ours("ppo", settings), trl]]
    if isinstance(tunix, Missing):
        groups[0].append(tunix)
    else:
        groups.append([ours("ppo", settings, stays=stay), dataclasses.replace(tunix, stays=stay)])
    limit = _limit(options, model, [(prompt, new)] * batch, epochs)
    return run_case(options, title, groups, unit="samples", amount=batch, limit_s=limit)


def _natural_settings(options, model: cases.Model) -> tuple[str, dict | None]:
    """The title, and what both sides are given; or why the case cannot be measured, and None."""
    title = f"{model.name}, {NATURAL_BATCH} real prompts, up to {cases.NATURAL_NEW} new tokens, EOS ends, epochs: 1."
    folder = cases.data_folder()
    if options.quick:
        return "a quick look has no model with a tokenizer", None
    if why := options.no_model(model):
        return why, None
    if folder is None:
        return "ICEGRT_DATA names no folder with prompts/rl_train.jsonl.gz", None
    prompts, eos_ids = cases.natural_prompts(folder, model.path, NATURAL_BATCH)
    # All 16 at once would take more memory than two contenders can have here, for either of them.
    return title, {
        "model": model.settings(), "batch": NATURAL_BATCH, "prompt": cases.NATURAL_PROMPT, "new": cases.NATURAL_NEW,
        "epochs": 1, "prompts": prompts, "eos_ids": eos_ids, "micro_batch": NATURAL_MICRO_BATCH,
    }  # fmt: skip


def natural(options) -> dict:
    """The section `natural`."""
    model = options.large()
    title, settings = _natural_settings(options, model)
    if settings is None:
        return {"cases": {"natural": left_out("real prompts", title)}}
    mine = {**settings, "slots": NATURAL_SLOTS}
    group = [ours("ppo", mine, warm_ups=NATURAL_WARM_UPS), torch_peer(options, "TRL", "trl_ppo:ppo", settings, "trl")]
    case = run_case(options, title, [group], unit="samples", amount=NATURAL_BATCH, limit_s=None)
    return {"cases": {"natural": _with_limit(options, model, settings, case)}}


def _with_limit(options, model: cases.Model, settings: dict, case: dict) -> dict:
    """The case, with the limit of the lengths that the first contender had."""
    rounds = next(iter(case["groups"][0].values())).get("rounds", [])
    if rounds:
        lengths = [list(zip(map(len, settings["prompts"]), r["info"]["lengths"])) for r in rounds]
        case["limit_s"] = statistics.median(_limit(options, model, each, 1) for each in lengths)
    return case


def packing(options) -> dict:
    """Ours on real prompts, with responses that share rows where they are scored and learned from, and without."""
    model = options.large()
    title, settings = _natural_settings(options, model)
    if settings is None:
        return {"cases": {"natural": left_out("real prompts", title)}}
    group = [
        ours("ppo", settings, warm_ups=NATURAL_WARM_UPS),
        ours("ppo", {**settings, "pack": False}, "one row each", warm_ups=NATURAL_WARM_UPS),
    ]
    case = run_case(options, title, [group], unit="samples", amount=NATURAL_BATCH, limit_s=None)
    return {"cases": {"natural": _with_limit(options, model, settings, case)}}


def _gpu(options) -> dict:
    model = options.large()
    batch, length = (4, 8) if options.quick else (GPU_BATCH, GPU_LENGTH)
    title = f"{model.name}, {batch} x ({length} + {length}) tokens, four full models, epochs: 1, {options.dtype}."
    settings = {"model": model.settings(), "batch": batch, "prompt": length, "new": length, "epochs": 1}
    lengths = [(length, length)] * batch
    facts = {"flops": learning_flops(model.shape, lengths, 1), "flops_phase": "learn", **options.flops_rate()}
    limit = _limit(options, model, lengths, 1)
    return run_case(options, title, [[ours("ppo", settings)]], unit="samples", amount=batch, limit_s=limit, **facts)


if __name__ == "__main__":
    from benchmarks.__main__ import main

    asked = [name for name in ("natural", "packing") if f"--{name}" in sys.argv]
    rest = [arg for arg in sys.argv[1:] if arg not in ("--natural", "--packing")]
    raise SystemExit(main([f"--only={','.join(asked) or 'ppo'}", *rest]))
