"""What a source holds, as one short text: the same for the same content, wherever it lies."""

import functools
import hashlib
import os
import time

from icegrt_jax import files
from icegrt_jax.data import kept
from icegrt_jax.data.sources import files_of
from icegrt_jax.errors import UserError

CACHE = "~/.cache/icegrt_jax/fingerprints.json"
SMALL = 2**20  # bytes: a smaller file is read as fast as what is known of all others
SETTLED = 2.0  # seconds: a file that is written now may change once more within its clock's step


def fingerprint(spec: str, *, data_dir: str = "", workdir: str = "", cache: str | os.PathLike = CACHE) -> str:
    """SHA-256 over the contents of a source's files, in hexadecimal digits.

    A file that is not `SMALL` is read once; from then on its size and the time of its last change stand for it, in
    `cache`. The mapping behind the path is no part of it: it is in the config.

    Args:
      spec, data_dir, workdir: as of `load_source`.
      cache: a JSON file, {path: [size, time, hash]}; one that cannot be read or written is done without.
    """
    known = functools.cache(lambda: kept.read(cache))
    whole, learned = hashlib.sha256(), {}
    for path in files_of(spec, data_dir=data_dir, workdir=workdir):
        if not path.is_file():
            raise UserError(f"{path}: no such file; check the source's path and data_dir.")
        path = path.resolve()  # files of the hub's cache are links to where their content is
        stat = path.stat()
        size, changed = stat.st_size, stat.st_mtime_ns
        if size < SMALL:
            whole.update(bytes.fromhex(files.sha256(path)))
            continue
        entry = known().get(str(path))
        if entry is None or entry[:2] != [size, changed]:
            entry = [size, changed, files.sha256(path)]
            if time.time_ns() - changed > SETTLED * 1e9:
                learned[str(path)] = entry
        whole.update(bytes.fromhex(entry[2]))
    if learned:
        kept.update(cache, learned)
    return whole.hexdigest()
