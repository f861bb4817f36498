"""Does a model that explains look at the context, where the context decides?

    python experiments/quickstart_seeds/contexts.py --runs=runs/seeds

Ads whose one finding is an offence or allowed by audience or proof alone. Of ICE-Instruct and ICE-GRT: behind the
question and the quoted words the next token is " breaks" or " is"; how often the likelier of the two is the right one.
Of ICE-Reward: how often it scores the ideal review above one that excuses the offence, or objects to what is allowed.
Prints that for each run in RUNS; with --out=NAME it is in results/NAME.json beside this file.
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
from icegrt_jax.domains.adreview import answer, flaws, generator

HERE = pathlib.Path(__file__).parent
OFFENCE, ALLOWED = "offence", "allowed"
WORDS = {OFFENCE: (" breaks", " is"), ALLOWED: (" is", " breaks")}  # the right one, the wrong one
FLAWS = {OFFENCE: flaws.explained_away, ALLOWED: flaws.false_alarm}


def ads(number: int) -> dict[str, list[generator.Ad]]:
    """`number` of each kind, of those that are there to watch a run with."""
    rng, found = random.Random("contexts"), {OFFENCE: [], ALLOWED: []}
    while min(map(len, found.values())) < number:
        ad = generator.sample_ad(rng, bucket="dev")
        if len(ad.violations) + len(ad.decoys) == 1 and generator.other_context(ad):
            found[OFFENCE if ad.violations else ALLOWED].append(ad)
    return {kind: those[:number] for kind, those in found.items()}


def goes_on(model: ice.Model, asked: list[generator.Ad], right: str, wrong: str) -> float:
    """The share of the ads behind whose quotation `right` is likelier than `wrong`."""
    tokenizer = model.tokenizer
    quotes = [f'"{finding.quote}"' for ad in asked for finding in (*ad.violations, *ad.decoys)]
    rows = [
        [*tokenizer.encode_prompt(user(generator.prompt(ad))), *tokenizer.encode_text(quote)]
        for ad, quote in zip(asked, quotes, strict=True)
    ]
    tokens, mask = right_pad(rows, max(map(len, rows)), tokenizer.pad_id)
    logits = np.asarray(model.logits(model.params, jnp.asarray(tokens), jnp.asarray(mask)))
    last = logits[np.arange(len(rows)), [len(row) - 1 for row in rows]]
    ours, theirs = (tokenizer.encode_text(word)[0] for word in (right, wrong))
    return float(np.mean(last[:, ours] > last[:, theirs]))


def prefers(model: ice.Model, asked: list[generator.Ad], flaw) -> float:
    """The share of the ads whose ideal review scores above the flawed one."""
    rng, metas = random.Random("flaws"), [generator.annotation(ad) for ad in asked]
    reviews = [review for meta in metas for review in (answer.ideal(meta), flaw(rng, meta))]
    ideal, flawed = ice.score(model, [generator.prompt(ad) for ad in asked], reviews).reshape(-1, 2).T
    return float(np.mean(ideal > flawed))


def measured(model: ice.Model, kind: str, asked: list[generator.Ad]) -> float:
    """The share of the ads of a kind of which a policy, or a reward model, is right."""
    return prefers(model, asked, FLAWS[kind]) if model.scalar else goes_on(model, asked, *WORDS[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/seeds"))
    parser.add_argument("--number", type=int, default=300, help="of ads of each kind")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    asked, found = ads(args.number), {}
    for run in sorted(path.parent for path in args.runs.glob("*/ppo")):
        found[run.name] = {}
        for stage, name in {"sft": "ICE-Instruct", "reward": "ICE-Reward", "ppo": "ICE-GRT"}.items():
            model = ice.load_model(run / stage)
            found[run.name][name] = {kind: measured(model, kind, those) for kind, those in asked.items()}
            print(run.name, name, {kind: f"{100 * x:.1f} %" for kind, x in found[run.name][name].items()}, flush=True)
    if args.out:
        files.write_json_atomic(HERE / "results" / f"{args.out}.json", found)


if __name__ == "__main__":
    main()
