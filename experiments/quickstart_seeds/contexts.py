"""Does a policy that explains look at the context, where the context decides?

    python experiments/quickstart_seeds/contexts.py --runs=runs/seeds

Ads whose one finding is an offence or allowed by audience or proof alone. Behind the question and the quoted words the
next token is " breaks" or " is": how often the likelier of the two is the right one, of ICE-Instruct and ICE-GRT of
each run in RUNS. Prints a table; with --out=NAME writes results/NAME.json beside this file.
"""

import argparse
import pathlib
import random

import jax.numpy as jnp
import numpy as np

import icegrt_jax as ice
from icegrt_jax import files
from icegrt_jax.data.packing import right_pad
from icegrt_jax.data.records import user
from icegrt_jax.domains.adreview import generator

HERE = pathlib.Path(__file__).parent
STAGES = {"sft": "ICE-Instruct", "ppo": "ICE-GRT"}


def ads(number: int) -> dict[str, list[tuple[str, str]]]:
    """{"offence" and "allowed": `number` times (question, the words in quotation marks)}."""
    rng, found = random.Random("contexts"), {"offence": [], "allowed": []}
    while min(map(len, found.values())) < number:
        ad = generator.sample_ad(rng, bucket="dev")
        if len(ad.violations) + len(ad.decoys) == 1 and generator.other_context(ad):
            (finding,) = (*ad.violations, *ad.decoys)
            found["offence" if ad.violations else "allowed"].append((generator.prompt(ad), f'"{finding.quote}"'))
    return {name: asked[:number] for name, asked in found.items()}


def right(model: ice.Model, asked: list[tuple[str, str]], expected: str, other: str) -> float:
    """The share of those behind whose quotation `expected` is likelier than `other`."""
    tokenizer = model.tokenizer
    rows = [[*tokenizer.encode_prompt(user(prompt)), *tokenizer.encode_text(quote)] for prompt, quote in asked]
    tokens, mask = right_pad(rows, max(map(len, rows)), tokenizer.pad_id)
    logits = np.asarray(model.logits(model.params, jnp.asarray(tokens), jnp.asarray(mask)))
    last = logits[np.arange(len(rows)), [len(row) - 1 for row in rows]]
    ours, theirs = (tokenizer.encode_text(word)[0] for word in (expected, other))
    return float(np.mean(last[:, ours] > last[:, theirs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    asked, found = ads(args.number), {}
    for run in sorted(path.parent for path in args.runs.glob("*/ppo")):
        for stage, name in STAGES.items():
            model = ice.load_model(run / stage)
            shares = {
                "offence": right(model, asked["offence"], " breaks", " is"),
                "allowed": right(model, asked["allowed"], " is", " breaks"),
            }
            found.setdefault(run.name, {})[name] = shares
            print(run.name, name, {of: f"{100 * share:.1f} %" for of, share in shares.items()}, flush=True)
    if args.out:
        files.write_json_atomic(HERE / "results" / f"{args.out}.json", found)


if __name__ == "__main__":
    main()
