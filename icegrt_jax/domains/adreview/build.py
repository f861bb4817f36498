"""All the sets of a run over the embedded domain, from one seed."""

import os
import pathlib
import random
from collections.abc import Callable, Mapping, Sequence

from icegrt_jax.data.records import Prompt, Record, user, write_jsonl
from icegrt_jax.domains.adreview import generator
from icegrt_jax.domains.adreview.annotators import rankings
from icegrt_jax.domains.adreview.answer import ideal
from icegrt_jax.domains.adreview.corpus import corpus
from icegrt_jax.domains.adreview.demonstrations import demonstrations
from icegrt_jax.domains.adreview.general import general, general_prompts
from icegrt_jax.errors import UserError

# Half of the evaluation is new ads of the training distribution, half is what training held out.
EVAL_SHARES = {"in_distribution": 0.5, "products": 1 / 6, "phrasings": 1 / 6, "rule_pairs": 1 / 6}

SETS: Mapping[str, Callable[..., Sequence[Record]]] = {
    "corpus": corpus,
    "demonstrations": demonstrations,
    "decisions": lambda seed, n: demonstrations(seed, n, verdict_only=1.0, wrong=0.0),
    "general": general,
    "rankings": rankings,
    "ranking_prompts": lambda seed, n: prompts(seed, n),
    "prompts": lambda seed, n: prompts(seed, n),
    "dev_prompts": lambda seed, n: prompts(seed, n, bucket="dev"),
    "heldout_rankings": lambda seed, n: rankings(seed, n, bucket="rank"),
    "eval_prompts": lambda seed, n: eval_prompts(seed, n),
    "eval_general": general_prompts,
}


def build(
    seed: int, sizes: Mapping[str, int], *, verdict_only: float = 0.30, wrong: float = 0.25
) -> dict[str, Sequence[Record]]:
    """Builds the sets named in `sizes`; each depends on the seed and its own name and size only.

    Args:
      seed: of the run; every set derives its own from it.
      sizes: records by set, see `SETS`. For "eval_general", questions per task.
      verdict_only: share of the demonstrations that give no analysis.
      wrong: share of the demonstrations with another flaw; the rest are ideal.

    Returns:
      Records by set: corpus (Text); demonstrations, decisions, general (Instruction); rankings,
      heldout_rankings (Ranking); ranking_prompts, to be answered by the policy and
      ranked by `annotators.rank`, prompts for PPO, dev_prompts to watch it,
      eval_prompts and eval_general (Prompt).
    """
    for name, size in sizes.items():
        if name not in SETS:
            raise UserError(f"data sizes: unknown set {name!r}; expected some of {', '.join(SETS)}.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise UserError(f"data sizes: {name}={size!r}; expected a number of records, 0 or more.")
    options = {"demonstrations": {"verdict_only": verdict_only, "wrong": wrong}}
    return {name: SETS[name](f"{seed}/{name}", size, **options.get(name, {})) for name, size in sizes.items()}


def write(directory: str | os.PathLike, sets: Mapping[str, Sequence[Record]]) -> dict[str, pathlib.Path]:
    """Writes each set to DIRECTORY/NAME.jsonl, each file whole or not at all; returns the paths."""
    paths = {name: pathlib.Path(directory) / f"{name}.jsonl" for name in sets}
    for name, records in sets.items():
        write_jsonl(paths[name], records)
    return paths


def prompts(seed: int | str, n: int, *, bucket: str = "train") -> list[Prompt]:
    """n ads of the training distribution to review; reference is the ideal review, meta the annotation."""
    rng = random.Random(f"prompts/{seed}")
    return [_prompt(generator.sample_ad(rng, bucket=bucket), "in_distribution") for _ in range(n)]


def eval_prompts(seed: int | str, n: int) -> list[Prompt]:
    """n ads no training set may hold, by `EVAL_SHARES`; meta["split"] says which kind each is."""
    rng = random.Random(f"eval prompts/{seed}")
    counts = {kind: int(n * share) for kind, share in EVAL_SHARES.items()}
    counts["in_distribution"] += n - sum(counts.values())
    return [
        _prompt(generator.sample_ad(rng, "train" if kind == "in_distribution" else kind, "eval"), kind)
        for kind, count in counts.items()
        for _ in range(count)
    ]


def _prompt(ad: generator.Ad, split: str) -> Prompt:
    meta = {**generator.annotation(ad), "split": split}
    return Prompt(user(generator.prompt(ad)), ideal(meta), meta)
