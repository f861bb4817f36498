"""A run as its stages leave it, made up: 300 iterations of PPO, an evaluation of 64 prompts by four rows."""

import json
import math

from icegrt_jax import files
from icegrt_jax.config.convert import default_config
from icegrt_jax.config.file import to_json
from icegrt_jax.training import times

SCRIPT = "<script>document.title = 'run by an answer'</script><img src=x onerror=alert(1)>"
ROWS = ("base", "ICE-Instruct", "best-of-8", "ICE-GRT")
BEGUN = {
    "begins": "2026-01-02T03:04:05+00:00", "version": "0.1.0", "jax": "0.10.2", "python": "3.11.9", "processes": 1,
    "cores": 2, "devices": {"count": 1, "platform": "cpu", "kind": "cpu"},
    "command": "icegrt run --config=configs/quickstart.py --workdir=runs/x --config.ppo.gamma=0.9",
}  # fmt: skip
ENDED = {"ends": "2026-01-02T03:06:05+00:00", "seconds": 120.0, "how": "finished"}


def asked(text):
    """A prompt of one message."""
    return [{"role": "user", "content": text}]


def answer(row, at, words):
    """One of the answers to prompt `at`."""
    text = SCRIPT if at == 0 else f"{row} says: " + " ".join(f"word{(at * k) % 97}" for k in range(words))
    pieces = text.split(" ")
    good = {"base": 0.1, "ICE-Instruct": 0.4, "best-of-8": 0.6, "ICE-GRT": 0.8}[row]
    told = {"row": row, "decoding": "sampled", "temperature": 1.0, "answer": text, "length": len(pieces)}
    told |= {"grades": {"gold": round(min(good + 0.003 * at, 1.0), 3), "verdict": 1.0}, "score": good + 0.01 * at}
    if row == "ICE-GRT":
        told |= {"tokens": [f"{piece} " for piece in pieces], "kl": [0.01 * (i % 9 - 3) for i in range(len(pieces))]}
    return told


def shown(prompts=64, words=60):
    """Lines of evaluate/shown.jsonl."""
    return [
        {
            "place": i, "prompt": asked(f"prompt number {i} about {'tea' if i % 2 else 'lamps'}"),
            "reference": "as it should be", "split": "in_distribution" if i % 2 else "rule_pairs",
            "answers": [answer(row, i, words) for row in ROWS],
        }
        for i in range(prompts)
    ]  # fmt: skip


def results(prompts=64):
    """evaluate/results.json."""
    gold = {"base": 0.1, "ICE-Instruct": 0.4, "best-of-8": 0.6, "ICE-GRT": 0.8}
    rows = [
        {
            "name": name,
            "metrics": {"verdict": 0.9, "gold": x, "length": 20.5 + x, "general": 0.9, "general/copy": x},
            "intervals": {"gold": [x - 0.05, x + 0.05]},
        }
        for name, x in gold.items()
    ]  # fmt: skip
    apart = {"row": "ICE-GRT", "minus": "ICE-Instruct", "difference": 0.4, "interval": [0.3, 0.5], "prompts": prompts}
    chance = {**apart, "metric": "general", "difference": 0.01, "interval": [-0.02, 0.04]}
    return {
        "rows": rows, "prompts": {"domain": prompts, "general": 8}, "samples": 1, "temperature": 1.0, "examples": [],
        "order": list(gold), "harms": {}, "differences": [{**apart, "metric": "gold"}, chance],
        "best": {"gold": "ICE-GRT", "length": "ICE-GRT"},
    }  # fmt: skip


def ppo_rows(iterations=300):
    """metrics.jsonl of PPO."""
    names = [f"scaling/x{i}_clipped" for i in range(4)] + ["gold", "clip_frac", "explained_variance", "eos_rate"]
    return [
        {
            "step": s, "score_raw": math.log(s) + math.sin(s), "score_scaled": s / 300, "kl": 0.02 * s, "kl_coef": 0.2,
            "kl_target": 6.0, "kl_low": 3.0, "kl_high": 9.0, "length": 20 + s / 10, "entropy": 1.0 / s,
            "policy_loss": 0.1, "ratio": 1.0, **dict.fromkeys(names, 0.25),
        }
        for s in range(1, iterations + 1)
    ]  # fmt: skip


def write(workdir, iterations=300, prompts=64):
    """Everything that the stages of a finished run leave and the report reads."""
    (workdir / "ppo").mkdir(parents=True)
    config = default_config()
    config.ppo.gamma = 0.9
    (workdir / "config.json").write_text(to_json(config))
    files.append_jsonl(workdir / "ppo" / "metrics.jsonl", ppo_rows(iterations))
    counted = {"low": -1.0, "high": 2.0, "counts": list(range(24))}
    histograms = [
        {"step": s, "score_histogram": counted, "scaled_histogram": counted} for s in range(1, iterations + 1)
    ]
    files.append_jsonl(workdir / "ppo" / "histograms.jsonl", histograms)
    times.append(workdir / "ppo", BEGUN)
    for step in range(1, iterations + 1):
        speed = {"time/rollout_s": 0.3, "time/learn_s": 0.1, "time/tokens_per_s": 900.0, "optimizer/policy_lr": 1e-4}
        times.append(workdir / "ppo", {"step": step, **speed})
    times.append(workdir / "ppo", ENDED)
    files.append_jsonl(
        workdir / "ppo" / "samples.jsonl", (rollout(s) for s in range(5, iterations + 1, 5) for _ in range(4))
    )
    again = [
        {"step": step, "place": i, "prompt": asked(f"asked {i}"), "response": f"at {step}", "length": 2}
        for step in (1, 2, 4, 8, iterations)
        for i in range(2)
    ]  # fmt: skip
    files.append_jsonl(workdir / "ppo" / "followed.jsonl", again)
    event = {
        "alarm": "kl_too_large",
        "metric": "kl",
        "measured": "KL 9.1",
        "cause": "too <fast>",
        "change": {"a.b": "up"},
    }
    files.append_jsonl(workdir / "ppo" / "alarms.jsonl", [{**event, "step": 9, "begins": True}])
    files.write_json_atomic(workdir / "ppo" / "done.json", {"step": iterations})
    files.write_json_atomic(workdir / "evaluate" / "results.json", results(prompts))
    lines = "".join(json.dumps(line) + "\n" for line in shown(prompts))
    files.write_text_atomic(workdir / "evaluate" / "shown.jsonl", lines)
    return workdir


def rollout(step):
    """A line of ppo/samples.jsonl."""
    pieces = [f"token{i} " for i in range(48)]
    numbers = [round(0.01 * ((i * step) % 13 - 6), 3) for i in range(48)]
    return {
        "step": step, "prompt": asked(f"a prompt of iteration {step}"),
        "response": "".join(pieces), "score": step / 100, "tokens": pieces, "kl": numbers, "advantages": numbers,
        "values": numbers,
    }  # fmt: skip
