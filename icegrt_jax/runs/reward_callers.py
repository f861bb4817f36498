"""Who calls reward functions: a thread of the run, or worker processes that can be ended.

A worker is one Python process with a socket to the run, started anew where it has died or was too slow. It leads a
session of its own: Ctrl-C at the run does not reach it, and what it has started is ended with it. When the run is gone,
so is the worker. JAX in it sees the CPU only: the accelerators are the run's.
"""

import contextlib
import os
import pathlib
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from icegrt_jax import plugins
from icegrt_jax.data.records import Prompt
from icegrt_jax.errors import UserError
from icegrt_jax.runs.reward_call import Failed, Function, Value, call

LOADING = 600.0  # seconds in which a worker has to have imported the functions
HANGING = 8  # calls left behind in threads, with which no further one is begun
SIZE = struct.Struct("!Q")  # of the message that follows


class Caller(Protocol):
    """Calls functions by name, one after the other."""

    def call(self, name: str, responses: Sequence[str], records: Sequence[Prompt]) -> list[Value]: ...

    def close(self) -> None: ...


class Here:
    """Calls functions in a thread of this process, which cannot be ended: one that is too slow is left behind.

    So many of these and it calls none until one has ended: a function that hangs in every iteration does not fill the
    process with threads.

    Args:
      functions: {name: (function, its file)}.
      limit: seconds that a call may take; 0: no limit.
    """

    def __init__(self, functions: Mapping[str, tuple[Function, pathlib.Path | None]], limit: float):
        self._functions, self._limit = functions, limit
        self._behind: list[threading.Thread] = []

    def call(self, name: str, responses: Sequence[str], records: Sequence[Prompt]) -> list[Value]:
        self._behind = [thread for thread in self._behind if thread.is_alive()]
        if len(self._behind) >= HANGING:
            reason = f"is not called: {HANGING} earlier calls still hang (a process can be ended: ppo.reward_workers)"
            return [Failed(reason)] * len(responses)
        answer: list[list[Value]] = []
        run = lambda: answer.append(call(*self._functions[name], responses, records))
        thread = threading.Thread(target=run, name=f"reward {name}", daemon=True)
        thread.start()
        thread.join(self._limit or None)
        if answer:
            return answer[0]
        self._behind.append(thread)
        reason = f"took longer than ppo.reward_timeout={self._limit:g} s (a process can be ended: ppo.reward_workers)"
        return [Failed(reason)] * len(responses)

    def close(self) -> None:
        """Nothing is held."""


class Worker:
    """One worker process; it starts with the first call.

    Args:
      specs: {name: (key of the config, FILE.py:NAME)} of the functions.
      limit: seconds that a call may take; 0: no limit.
    """

    def __init__(self, specs: Mapping[str, tuple[str, str]], limit: float):
        self._specs, self._limit = dict(specs), limit
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    def call(self, name: str, responses: Sequence[str], records: Sequence[Prompt]) -> list[Value]:
        """As `reward_call.call`; a worker that is too slow or dies has failed on all of them."""
        try:
            if self._process is None:
                self._start()
            return self._ask(("call", name, list(responses), list(records)), self._limit)
        except TimeoutError:
            self.close()
            return [Failed(f"took longer than ppo.reward_timeout={self._limit:g} s; its worker was ended")] * len(
                records
            )
        except (EOFError, OSError) as error:
            return [Failed(f"has lost its worker process: {self._end(error)}")] * len(records)
        except UserError as error:  # it cannot be loaded
            self.close()
            return [Failed(f"cannot be loaded in its worker: {error}")] * len(records)

    def close(self) -> None:
        """Ends the process and all that it has started."""
        process, self._process = self._process, None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        package = str(pathlib.Path(plugins.__file__).parents[1])
        program = f"import sys; sys.path.append({package!r}); from {__name__} import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )  # fmt: skip
        try:
            refused = self._ask(("load", self._specs), LOADING)
        except TimeoutError as error:
            raise UserError(f"its file was not imported within {LOADING:g} s") from error
        if refused:
            raise UserError(refused)

    def _ask(self, message: tuple, limit: float) -> Any:
        assert self._socket is not None, "asked before it was started"
        until = time.monotonic() + limit if limit else None
        _send(self._socket, message, until)
        return _receive(self._socket, until)

    def _end(self, error: Exception) -> str:
        """How the process has ended."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process is not None:
                process.wait(timeout=1.0)
        code = process.returncode if process is not None else None
        self.close()
        if code is None:
            return str(error) or "it does not answer"
        if code >= 0:
            return f"it has ended with exit code {code}"
        return f"it was ended by {signal.Signals(-code).name}{' (out of memory?)' if code == -signal.SIGKILL else ''}"


def main(handle: int) -> None:
    """The worker process: answers one message after another until the run closes the socket."""
    os.set_inheritable(handle, False)
    connection = socket.socket(fileno=handle)
    messages: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    functions: dict[str, Any] = {}
    while True:
        kind, *rest = messages.get()
        if kind == "load":
            _send(connection, _load(functions, rest[0]))
        else:
            name, responses, records = rest
            function, file = functions[name]
            _send(connection, call(function, file, responses, records))


def _load(functions: dict[str, Any], specs: Mapping[str, tuple[str, str]]) -> str:
    """Fills `functions`; what is wrong with one, else ""."""
    try:
        for name, (key, spec) in specs.items():
            functions[name] = (plugins.load(key, spec), plugins.file_of(spec))
    except BaseException as error:
        return str(error)
    return ""


def _listen(connection: socket.socket, messages: queue.SimpleQueue) -> None:
    """Passes messages on; when the run is gone, ends the process and all that it has started."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.put(_receive(connection))
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _send(connection: socket.socket, message: Any, until: float | None = None) -> None:
    data = pickle.dumps(message)
    _limit(connection, until)
    connection.sendall(SIZE.pack(len(data)) + data)


def _receive(connection: socket.socket, until: float | None = None) -> Any:
    size = SIZE.unpack(_exactly(connection, SIZE.size, until))[0]
    return pickle.loads(_exactly(connection, size, until))


def _exactly(connection: socket.socket, size: int, until: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        _limit(connection, until)
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the socket is closed")
        data += part
    return bytes(data)


def _limit(connection: socket.socket, until: float | None) -> None:
    if until is None:
        connection.settimeout(None)
        return
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
