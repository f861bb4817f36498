"""Rows of a data set by its name on the Hugging Face hub, in the Parquet form that the hub makes of every one.

https://huggingface.co/docs/dataset-viewer/parquet
"""

import fnmatch
import functools
import pathlib

from icegrt_jax.data import kept
from icegrt_jax.data.rows import Rows, parquet_rows
from icegrt_jax.errors import UserError

REVISION = "refs/convert/parquet"
LISTS = "~/.cache/icegrt_jax/hub_files.json"  # {data set: its files, when the hub was last asked}
REFUSED = (401, 403, 404)  # the hub's own word; other errors are as good as no network


def hub_rows(name: str) -> Rows:
    """The rows of OWNER/NAME[/CONFIG][#SPLIT], split train if none is named.

    A data set is downloaded once, into the hub's own cache; what is there is read without a network. With one a process
    asks once whether there is something newer, however often the data set is looked at.
    """
    for path, shown in files(name):
        for where, row in parquet_rows(path):
            yield where.replace(str(path), shown), row


@functools.cache  # all that a process reads is of one version, and the hub is asked for it once
def files(name: str) -> tuple[tuple[pathlib.Path, str], ...]:
    """(file, what errors call it) of a data set, downloaded where it isn't yet."""
    data_set, _, split = name.partition("#")
    split = split or "train"
    parts = data_set.split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise UserError(f"hf:{name}: expected OWNER/NAME, OWNER/NAME/CONFIG, and #SPLIT after it where not train.")
    repo, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else ""
    listed = _listed(repo, name)
    splits = sorted({tuple(file.split("/")[:2]) for file in listed if file.count("/") == 2})
    fitting = [(c, s) for c, s in splits if s == split and (not config or c == config)]
    if not fitting:
        there = ", ".join(f"{c}#{s}" for c, s in splits) or "nothing in Parquet form"
        raise UserError(f"hf:{name}: no split {split!r}{f' of {config!r}' if config else ''} there; it has {there}.")
    if len(fitting) > 1:
        choices = ", ".join(f"hf:{repo}/{c}#{s}" for c, s in fitting)
        raise UserError(f"hf:{name}: has several configurations; name one: {choices}")
    pattern = "/".join((*fitting[0], "*.parquet"))
    folder = _downloaded(repo, pattern, name)
    found = sorted(file for file in folder.glob(pattern) if file.is_file())
    wanted = fnmatch.filter(listed, pattern)
    if len(found) < len(wanted):
        raise UserError(f"hf:{name}: {len(found)} of its {len(wanted)} files are here; run again with a network.")
    return tuple((file, f"hf:{name} ({file.name})") for file in found)


def _listed(repo: str, name: str) -> list[str]:
    """The files of the data set's Parquet form; without a network those that it had when the hub was last asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        listed = HfApi().list_repo_files(repo, repo_type="dataset", revision=REVISION)
    except Exception as error:  # the client's own types, and those of the HTTP library under it
        if isinstance(error, HfHubHTTPError) and getattr(error.response, "status_code", 500) in REFUSED:
            raise _refused(name, error) from error
        return _listed_before(repo, name, error)
    kept.update(LISTS, {repo: listed})
    return listed


def _listed_before(repo: str, name: str, cause: Exception) -> list[str]:
    try:
        folder = _snapshot(repo, None, local_files_only=True)
    except Exception as error:
        raise _refused(name, cause) from error
    # What is in the cache may be a download that did not end, or one split of several.
    here = [str(path.relative_to(folder)) for path in sorted(folder.glob("*/*/*.parquet"))]
    return kept.read(LISTS).get(repo, here)


def _downloaded(repo: str, pattern: str, name: str) -> pathlib.Path:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _snapshot(repo, pattern)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _refused(name, error) from error


def _snapshot(repo: str, pattern: str | None, **more) -> pathlib.Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(repo, repo_type="dataset", revision=REVISION, allow_patterns=pattern, **more)
    return pathlib.Path(folder)


def _refused(name: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"hf:{name}: the Hugging Face hub did not give it, and it is not in the cache ({reason}); check the name and"
        " the network, or download its files elsewhere and read them as parquet:PATH."
    )
