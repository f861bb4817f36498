"""What the operating system has refused, as one sentence: no room, no permission, a disk that fails.

Any of the many lines that write a file may meet it, so it is understood once, where a command begins.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from icegrt_jax.errors import UserError

AGAIN = "then run the same command again: it goes on from what is finished"
ADVICE = {
    errno.ENOSPC: f"make room there, {AGAIN}",
    errno.EDQUOT: f"make room in your quota, {AGAIN}",
    errno.EFBIG: f"allow files of that size (ulimit -f), {AGAIN}",
    errno.EACCES: f"give this user the permission, {AGAIN}",
    errno.EPERM: f"give this user the permission, {AGAIN}",
    errno.EROFS: f"mount it so that it may be written, {AGAIN}, or name another folder",
    errno.EIO: f"see whether the disk is sound, {AGAIN}",
    errno.ESTALE: f"mount the shared folder anew, {AGAIN}",
    errno.ENODEV: f"mount it again, {AGAIN}",
    errno.EMFILE: f"allow more open files (ulimit -n), {AGAIN}",
    errno.ENFILE: f"close other programs, {AGAIN}",
    errno.EISDIR: "there is a folder where a file is to be; name another place",
    errno.ENOTDIR: "there is a file where a folder is to be; name another place",
    errno.ENAMETOOLONG: "name it with fewer characters",
    errno.ELOOP: "its links lead round in a circle; name the place itself",
}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Such an error inside becomes a `UserError`; others, which may be mistakes of ours, stay as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = sentence(error)
        if said is None:
            raise
        raise UserError(said) from error


def sentence(error: BaseException) -> str | None:
    """What to say of an error that is the system's, or that a library has made of such a one; None of another."""
    if isinstance(error, OSError):
        if error.errno not in ADVICE:
            return None
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{os.strerror(error.errno)}; {ADVICE[error.errno]}."
    words = " ".join(str(error).split())
    for number, advice in ADVICE.items():
        if os.strerror(number) in words:  # TensorStore, Arrow and others put it into a text of theirs
            return f"{os.strerror(number)} ({words[:200]}); {advice}."
    return None
