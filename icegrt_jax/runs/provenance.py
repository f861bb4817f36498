"""Which data a stage has read, by fingerprint, and what of it has changed since."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from icegrt_jax import files
from icegrt_jax.data.fingerprint import fingerprint
from icegrt_jax.errors import UserError
from icegrt_jax.hosts import sync
from icegrt_jax.runs.reading import Reading

NAME = "fingerprints"  # of the record in data.json; done.json has it as "data"
SHOWN = 12  # digits of a fingerprint

Record = dict[str, dict[str, Any]]  # {key of the config: {"source", "sha256", "measures"}}


def record(readings: Iterable[Reading], data_dir: str, workdir: pathlib.Path) -> Record:
    """The sources that are there, with their fingerprints."""
    found = {}
    for reading in readings:
        if digest := _digest(reading.spec, data_dir, workdir):
            measures = {"measures": True} if reading.measures else {}
            found[reading.key] = {"source": reading.spec, "sha256": digest, **measures}
    return found


def begun(folder: pathlib.Path) -> Record:
    """What the stage in `folder` read when it last began."""
    path = folder / "data.json"
    return files.read_json(path).get(NAME, {}) if path.exists() else {}


def lines(stage: str, record: Record) -> list[str]:
    """A line for each source."""
    return [f"{stage}: data {key} {_short(was['sha256'])} ({was['source']})" for key, was in record.items()]


def check(workdir: pathlib.Path, data_dir: str, due: Iterable[str]) -> list[str]:
    """Warnings of sources that have changed since a stage has finished with them.

    Args:
      due: stages about to run; refused if one in the middle would go on with other data.
    """
    due = list(due)
    found = sync.from_main("data are compared", lambda: _compared(pathlib.Path(workdir), data_dir, due))
    if found["refused"]:
        raise UserError(found["refused"])
    return found["warnings"]


def _compared(workdir: pathlib.Path, data_dir: str, due: list[str]) -> dict[str, Any]:
    warnings = []
    for path in sorted(workdir.glob("*/done.json")):
        for key, was, now in _changed(files.read_json(path).get("data", {}), data_dir, workdir):
            warnings.append(
                f"{path.parent.name} has finished with other data than {key} has now ({_short(was['sha256'])}, now "
                f"{_short(now)}); it stays as it is."
            )
    for stage in due:
        folder = workdir / stage
        if (folder / "done.json").exists() or not any((folder / "checkpoints").glob("[0-9]*")):
            continue
        trained_on = {key: was for key, was in begun(folder).items() if not was.get("measures")}
        for key, was, now in _changed(trained_on, data_dir, workdir):
            refused = (
                f"{key}={was['source']!r} holds other data than {folder} has begun with ({_short(was['sha256'])}, now "
                f"{_short(now)}); bring those back, or delete {folder} and begin the stage anew."
            )
            return {"refused": refused, "warnings": []}
    return {"refused": "", "warnings": warnings}


def _changed(record: Mapping[str, dict[str, Any]], data_dir: str, workdir: pathlib.Path):
    """(key, what was recorded, fingerprint now) of the sources that are there and have changed."""
    for key, was in record.items():
        now = _digest(was["source"], data_dir, workdir)
        if now and now != was["sha256"]:
            yield key, was, now


def _digest(spec: str, data_dir: str, workdir: pathlib.Path) -> str:
    """The fingerprint of a source; "" of one that is not there: the run makes it later, or another machine has it."""
    try:
        return fingerprint(spec, data_dir=data_dir, workdir=str(workdir))
    except (UserError, OSError):
        return ""


def _short(digest: str) -> str:
    return digest[:SHOWN]
