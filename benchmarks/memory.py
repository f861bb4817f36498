"""Temporary memory of the update programs by vocabulary and batch, from what XLA says of the compiled program.

    python -m benchmarks.memory

Nothing is run. Beside each number: what one [B, T, V] float32 array of logits would take. The growth is the part of the
memory that depends on vocabulary x batch, as a share of what that array grows by: m(V2, B2) - m(V1, B2) - m(V2, B1) +
m(V1, B1), over 4 T (V2 - V1) (B2 - B1). Gradients of the embedding grow with V alone and activations with B alone, so
neither is in it.
"""

import dataclasses
import sys

from benchmarks.sections import ours, run_case

VOCABULARIES = (49152, 151936)
BATCHES = (8, 32)
LENGTH = 256  # tokens of a row; a PPO row is half prompt, half response


def logits_bytes(vocab_size: int, batch: int, positions: int) -> int:
    return 4 * vocab_size * batch * positions


def growth(bytes_by: dict[tuple[int, int], int], positions: int) -> float:
    """Of {(V, B): bytes}: how much of it grows with V x B, as a share of the logits' growth."""
    (v1, v2), (b1, b2) = (sorted({key[i] for key in bytes_by}) for i in (0, 1))
    mixed = bytes_by[v2, b2] - bytes_by[v1, b2] - bytes_by[v2, b1] + bytes_by[v1, b1]
    return mixed / (logits_bytes(1, 1, positions) * (v2 - v1) * (b2 - b1))


def section(options) -> dict:
    """The section `memory`."""
    model = options.large()
    vocabularies, batches, length = ((512, 2048), (2, 8), 64) if options.quick else (VOCABULARIES, BATCHES, LENGTH)
    shapes = [dataclasses.asdict(dataclasses.replace(model.shape, vocab_size=size)) for size in vocabularies]
    found = {}
    for update, positions in (("sft_update", length - 1), ("ppo_update", length // 2)):
        title = f"{model.name}'s layers, {update}, {length} tokens a row."
        settings = {"model": {**model.settings(), "path": ""}, "shapes": shapes, "batches": list(batches)}
        contender = ours("update_memory", {**settings, "length": length, "update": update})
        case = run_case(dataclasses.replace(options, rounds=1), title, [[contender]])
        result = case["groups"][0][contender.name]
        if "failed" in result:
            found[update] = {"title": f"{title} Failed: {result['failed']}", "header": [""], "rows": [], "growth": None}
            continue
        programs = result["rounds"][0]["info"]["programs"]
        rows = []
        for vocab_size, batch, temporary in programs:
            logits = logits_bytes(vocab_size, batch, positions)
            rows.append([f"vocabulary {vocab_size}, batch {batch}", *(f"{x / 2**20:.0f}" for x in (temporary, logits))])
        share = growth({(v, b): temporary for v, b, temporary in programs}, positions)
        rows.append(["growth with vocabulary x batch", f"{100 * share:.1f} %", "100 %"])
        header = ["", "temporary MiB", "logits would take MiB"]
        found[update] = {"title": title, "header": header, "rows": rows, "growth": share}
    return {"cases": found}


if __name__ == "__main__":
    from benchmarks.__main__ import main

    raise SystemExit(main(["--only=memory", *sys.argv[1:]]))
