"""A TPU VM that is to be taken away says so beforehand: a run then stops as on SIGTERM, with its state saved.

The machine's metadata server has it: `maintenance-event` becomes TERMINATE_ON_HOST_MAINTENANCE before maintenance, and
`preempted` TRUE when a Spot VM is reclaimed, about 30 s before the system shuts down
(https://cloud.google.com/compute/docs/metadata/getting-live-migrate-notice, .../instances/spot). A thread looks every
few seconds and sends this process a SIGTERM, heard like any other: `signals`, and `training.preemption` in loops.
"""

import contextlib
import http.client
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator

HOST = "metadata.google.internal"
NOTICES = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}
PAUSE = 5.0  # seconds between two looks
TIMEOUT = 3.0  # seconds that the server may take
# Without a proxy: the server is on the machine itself.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextlib.contextmanager
def heard(*, on_tpu: bool, pause: float = PAUSE) -> Iterator[None]:
    """Within, a notice is a SIGTERM to this process; elsewhere than on a TPU VM it does nothing.

    A notice that is there at the first look stops nothing: whoever begins then has it said, once.
    """
    if not on_tpu or os.environ.get("TPU_SKIP_MDS_QUERY"):
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, pause), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()  # not waited for: it may be waiting for the server


def _watch(over: threading.Event, pause: float) -> None:
    known = {name: _asked(name) for name in NOTICES}
    if not any(known.values()):
        return  # no such server: not a machine of Google Cloud
    for name, wanted in NOTICES.items():
        if known[name] == wanted:
            _say(f"{name} is {wanted} already", "what comes after the last checkpoint may be lost")
    while not over.wait(pause):
        for name, wanted in NOTICES.items():
            found = _asked(name)
            if found == wanted != known[name] and not over.is_set():
                _say(f"{name} is {wanted}", "stopping as on SIGTERM")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            known[name] = found or known[name]


def _asked(name: str) -> str:
    """What the metadata server says; "" where it does not answer."""
    host = os.environ.get("GCE_METADATA_HOST", HOST)  # as Google's own libraries have it
    asked = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{name}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with _opener.open(asked, timeout=TIMEOUT) as answer:
            return answer.read(100).decode("ascii", "replace").strip()
    except (OSError, http.client.HTTPException):
        return ""


def _say(what: str, then: str) -> None:
    print(f"warning: this machine is to be taken away ({what}); {then}.", file=sys.stderr, flush=True)
