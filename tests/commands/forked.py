"""Commands in processes of their own that start at once: forked from one that has imported what they import."""

import atexit
import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

# Torch is no part of the package, but transformers imports it where it is. Each request is Python code with arguments,
# environment and folder, and comes with three pipes: for stdout, stderr, and who the process is and how it ended, which
# is told by a process that waits for it. None has started JAX's backend, which has threads that a fork would lose.
SERVER = """
import gc, json, os, signal, socket, sys
sys.modules["torch"] = None
gc.set_threshold(50_000, 20, 20)  # as in tests/conftest.py
import icegrt_jax.cli
from icegrt_jax.commands import evaluate, ppo, pretrain, report, reward, run, sft
gc.freeze()
asked = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    request, pipes, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    if not request:
        os._exit(0)
    if not os.fork():
        break
    for pipe in pipes:
        os.close(pipe)
asked.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
out, err, told = pipes
process = os.fork()
if process:
    os.close(out), os.close(err)
    os.write(told, f"{process}\\n".encode())
    os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\\n".encode())
    os._exit(0)
os.dup2(out, 1), os.dup2(err, 2)
for pipe in pipes:
    os.close(pipe)
asked = json.loads(request)
os.environ.clear(), os.environ.update(asked["env"])
os.chdir(asked["cwd"])
sys.argv[1:] = asked["arguments"]
exec(asked["code"])
"""


class Forked:
    """A started process, used as one of `subprocess.Popen` with text pipes."""

    def __init__(self, code: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd):
        read, write = zip(*(os.pipe() for _ in range(3)), strict=True)
        request = {"code": code, "arguments": [str(x) for x in arguments], "env": dict(env), "cwd": str(cwd)}
        socket.send_fds(_server(next(_TURNS)), [json.dumps(request).encode()], write)
        for pipe in write:
            os.close(pipe)
        self._out, self._err, self._told = (open(pipe) for pipe in read)
        self.pid, self.returncode = int(self._told.readline()), None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """What it prints and says on stderr, until it has ended."""
        said = []
        other = threading.Thread(target=lambda: said.append(self._err.read()))
        other.start()
        printed = self._out.read()
        other.join()
        self.returncode = int(self._told.readline())
        for pipe in (self._out, self._err, self._told):
            pipe.close()
        return printed, said[0]


# Two, one after the other: as two that are started anew, a process and the one that goes on have other hashes of text.
_TURNS = itertools.cycle(range(2))


@functools.cache
def _server(turn: int) -> socket.socket:
    """Where number `turn` of this process is asked; it ends when this process does."""
    # JAX reads it when it is imported; of a process here only the one that it is given counts, if any.
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=env,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def end():
        ours.close()
        server.wait()

    atexit.register(end)
    return ours
