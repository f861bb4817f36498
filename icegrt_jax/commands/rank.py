"""`icegrt rank`: a page where people rank answers, and what they have said as records that `icegrt reward` reads."""

import pathlib

from icegrt_jax.errors import UserError
from icegrt_jax.pages.rank import export, service


def main(
    *, records: str, out: str, guideline: str, seed: int, every: int, votes: int, host: str, port: int,
    only_export: bool, apart: bool,
) -> None:  # fmt: skip
    """Serves the page until Ctrl-C; with `only_export` writes the files and ends.

    Args:
      records: a .jsonl file of answers, or a folder of such; "": those of an earlier start.
      out: the folder where it is all kept.
      guideline: a text file beside the answers; "": the rule book of the records' domain, where they have one.
      seed: of the orders; that of the first start counts.
      every: after so many prompts one is shown again; 0: none.
      votes: people who rank a prompt; 0: everybody ranks all.
      apart: a record for each annotator, in place of one for each prompt.
    """
    folder = pathlib.Path(out).expanduser()
    if only_export:
        if records:
            raise UserError("--export writes what has been ranked, and takes no --records; leave out one of them.")
        _say(service.write(folder, apart=apart), folder)
        return
    store = service.fill(folder, records, guideline)
    print(f"to write the records: icegrt rank --export --out={out}; to stop, Ctrl-C; the same command goes on")
    service.serve(folder, store, service.Place(host, port), service.Rules(seed, every, votes), apart=apart)


def _say(said: dict, folder: pathlib.Path) -> None:
    ranking = said["alpha"].get("annotators", {}).get("preference", {"alpha": None, "answers": 0})
    print(
        f"{folder / export.RANKINGS}: {said['records']} records of {said['ranked']} ranked prompts; "
        f"{said['conflicts']} with a conflict, {said['decided']} decided"
    )
    for name, one in said["annotators"].items():
        alike = "" if one["like_self"] is None else f", like themselves in {one['like_self']:.0%} of pairs"
        print(f"{name}: {one['ranked']} ranked, {one['skipped']} skipped, median {one['median_seconds']} s{alike}")
    if ranking["alpha"] is not None:
        print(f"Krippendorff's alpha of the rankings: {ranking['alpha']:.2f} ({ranking['answers']} answers)")
    source = f"--config.reward.sources.people=jsonl:{(folder / export.RANKINGS).absolute()}"
    print(f"to train on them: icegrt reward --config=FILE --workdir=DIR {source} --config.reward.weights.people=1.0")
