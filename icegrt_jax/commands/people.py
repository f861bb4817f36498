"""`icegrt people write`, `icegrt people read`: answers out to be rated by people, and their ratings in."""

import pathlib
from collections.abc import Sequence
from typing import Any

from icegrt_jax import files
from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import rated, raters, sampled
from icegrt_jax.evaluation.asked.wording import CRITERIA
from icegrt_jax.evaluation.table import aligned


def main(*, command: str, **flags: Any) -> None:
    """One of the two commands."""
    return write(**flags) if command == "write" else read(**flags)


def write(*, answers: Sequence[str], out: str, limit: int, samples: int, seed: int) -> None:
    """Writes the CSV file for the raters, and beside it the key that they are not to see.

    Args:
      answers: of each stage, see `evaluation.sampled`.
      limit: prompts, drawn by the seed; 0: all that every stage has answered.
      samples: answers of each stage to a prompt.
      seed: of what is drawn, and of the order.
    """
    target = pathlib.Path(out).expanduser()
    if target.suffix != ".csv":
        raise UserError(f"--out={out}: expected the name of a file that ends in .csv.")
    key_file = target.with_suffix(".key.json")
    for path in (target, key_file):
        if path.exists():
            raise UserError(f"{path} is there already, and may have been filled in; choose another --out.")
    if len(set(answers)) < len(answers):
        raise UserError("--answers: the same answers twice; name each stage once.")
    rows = [sampled.read("--answers", spec) for spec in answers]
    prompts = list(rows[0].prompts)
    for row in rows[1:]:
        both = set(sampled.common(rows[0], row))
        prompts = [said for said in prompts if said in both]
    if not prompts:
        raise UserError("--answers: no prompt that all of them answer; expected answers to the same prompts.")
    lines, key = raters.lay_out(rows, raters.drawn(prompts, limit, seed), samples, seed)
    files.write_json_atomic(key_file, key)
    files.write_text_atomic(target, raters.to_csv(lines))
    print(f"{target}: {len(lines) - 1} answers to rate; a copy for each rater, who saves it under a name of their own")
    print(f"{key_file}: whose they are; keep it from the raters")


def read(*, filled: Sequence[str], key: str, out: str) -> None:
    """Prints what the raters say of each stage, and how far they agree.

    Args:
      filled: the files, one for each rater.
      key: the file beside the one that was written.
      out: a .json file; "" for none.
    """
    if out and not out.endswith(".json"):
        raise UserError(f"--out={out}: expected the name of a file that ends in .json.")
    if len({pathlib.Path(path).stem for path in filled}) < len(filled):
        raise UserError("--rated: two files of the same name; raters are known by it, so give each its own.")
    whose = raters.read_key(key)
    ratings = [rating for path in filled for rating in raters.read_rated(path, whose)]
    results = _results(ratings, whose)
    _show(results)
    if out:
        files.write_json_atomic(out, results)
        print(f"written to {out}")


def _results(ratings: Sequence[raters.Rating], key: dict) -> dict:
    people = sorted({rating.rater for rating in ratings})
    agreement = rated.agreement(ratings) if len(people) > 1 else {}
    return {
        "raters": people,
        "ratings": len(ratings),
        "rows": rated.means(ratings, key),
        "preferred": rated.win_rates(ratings, key),
        "agreement": agreement,
    }


def _show(results: dict) -> None:
    rows = results["rows"]
    lines = [["", *rows]]
    for name in (*CRITERIA, rated.OVERALL):
        if any(name in numbers for numbers in rows.values()):
            lines.append([name, *(_cell(numbers.get(name), 2) for numbers in rows.values())])
    print(
        f"from {raters.LOWEST} to {raters.HIGHEST}, means over prompts [95 % by bootstrap over them]\n{aligned(lines)}"
    )
    for one in results["preferred"]:
        percent = {**one, "value": 100 * one["value"], "interval": [100 * x for x in one["interval"]]}
        print(
            f"{one['row']} preferred over {one['over']}: {_cell(percent, 1)} % of {one['prompts']} prompts, ties half"
        )
    found = {name: one for name, one in results["agreement"].items() if one["answers"]}
    if found:
        lines = [["Krippendorff's alpha, ordinal", "", "answers"]]
        for name, one in found.items():
            lines.append([name, "-" if one["alpha"] is None else f"{one['alpha']:.2f}", str(one["answers"])])
        print(aligned(lines))
    print(f"{results['ratings']} answers rated by {', '.join(results['raters'])}")


def _cell(one: dict | None, digits: int) -> str:
    if one is None:
        return "-"
    low, high = one["interval"]
    return f"{one['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
