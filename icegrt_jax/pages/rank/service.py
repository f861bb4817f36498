"""The ranking page, opened: store, guideline, tokens, server."""

import dataclasses
import pathlib
from collections.abc import Sequence

from icegrt_jax import files, plugins
from icegrt_jax.domains import load as load_domain
from icegrt_jax.errors import UserError
from icegrt_jax.pages import access, web
from icegrt_jax.pages.rank import app, desk, export, items
from icegrt_jax.pages.rank.items import Item
from icegrt_jax.pages.rank.store import FILE, Store


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the page is: the address that it listens at."""

    host: str
    port: int


@dataclasses.dataclass(frozen=True)
class Rules:
    """How prompts are given out, see `desk.Desk`; the seed is that of the first start in a folder."""

    seed: int = 0
    every: int = 10
    votes: int = 0


def guideline(path: str, found: Sequence[Item]) -> str:
    """What annotators go by: the file's text, else what the domain of the records says; "" for nothing."""
    if path:
        file = pathlib.Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"--guideline={path}: no such file; expected a text in UTF-8.")
        return files.read_text(file)
    tasks = [item.meta.get("task") for item in found]
    known = [name for name in plugins.built_in("domains") if tasks and all(task == name for task in tasks)]
    return load_domain(known[0]).domain.guideline if known else ""


def fill(folder: pathlib.Path, records: str, guideline_file: str = "") -> Store:
    """The store of a folder, with the records in it; those that it has already are not read again.

    Args:
      records: a file or folder; "": those of an earlier start.
    """
    kept = Store(folder, new=False) if not records or (folder / FILE).is_file() else None
    mark = items.fingerprint(records) if records else ""
    found: Sequence[Item] = ()
    if records and (kept is None or kept.get("records") != mark):
        read = items.read(records)
        found = read.items
        for count, why in ((read.left_out, "have no two different answers"), (read.again, "stand there again")):
            if count:
                print(f"left out: {count} records that {why}")
    said = guideline(guideline_file, found)
    store = kept or Store(folder, new=True)
    if found:
        store.add(found)
        store["records"] = mark
    store["guideline"] = said or store.get("guideline", "")
    return store


def serve(
    folder: pathlib.Path, store: Store, place: Place, rules: Rules, *, apart: bool = False, waits: bool = False
) -> None:
    """Shows the page until it is stopped; with `waits` until every prompt has been ranked or the lead ends it.

    Args:
      folder: of the store.
      apart: of the exports, see `export.write`.
    """
    seed = int(store.setdefault("seed", str(rules.seed)))
    at = desk.Desk(store, store.keys_of_items(), seed, rules.every, rules.votes)
    pages = app.Pages(at, app.Settings(folder, store["guideline"], apart, waits))
    tokens = access.tokens(store, (access.USER, access.LEAD))
    opened = web.listen(place.host, place.port)
    print(f"{len(at.keys)} prompts, {len(store.counts())} of them ranked; every answer is saved in {folder / FILE}")
    print(f"annotators open  {web.address(opened, tokens[access.USER])}")
    print(f"who leads opens  {web.address(opened, tokens[access.LEAD])}  (results, conflicts, export)", flush=True)
    try:
        web.serve(pages.app(tokens), opened, lambda: waits and (pages.finished or not store.untouched()))
    finally:
        store.close()


def write(folder: pathlib.Path, *, apart: bool) -> dict:
    """The files of what has been ranked in a folder, see `export.write`."""
    store = Store(folder, new=False)
    try:
        return export.write(store, folder, apart=apart)
    finally:
        store.close()
