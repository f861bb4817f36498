"""What a program that a model wrote can and cannot do in the sandbox."""

import json
import os
import pathlib
import socket
import sys

import pytest

from icegrt_jax.errors import UserError
from icegrt_jax.evaluation import sandbox, sandbox_child
from icegrt_jax.evaluation.tasks import sets
from tests.stand_in import instead

try:
    HELD = sandbox.run("pass").passed
except UserError as error:
    HELD = False
    assert "not run here" in str(error)
held = pytest.mark.skipif(not HELD, reason="this system cannot hold a program")


@held
def test_a_program_that_computes_passes_and_one_that_fails_does_not():
    imports = "import collections, functools, hashlib, heapq, itertools, math, random, re, string, typing"
    assert sandbox.run(
        f"{imports}\nassert sorted([random.random() for _ in range(9)])\nhashlib.md5(b'').hexdigest()"
    ).passed
    for program, why in (
        ("assert 1 == 2", "AssertionError"),
        ("1 +", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "was left early"),
        (
            "import os\nfor fd in range(3, 9):\n  try: os.write(fd, b'passed 0')\n  except OSError: pass",
            "was left early",
        ),
        ("print('passed')\nraise ValueError", "ValueError"),
        ("def f(): f()\nf()", "RecursionError"),
    ):
        ended = sandbox.run(program)
        assert (ended.passed, ended.why) == (False, why), program


REFUSED = (
    "try:\n    {}\nexcept OSError as error:\n    assert error.errno in (1, 13), error\nelse:\n    raise RuntimeError"
)


@held
def test_files_network_processes_and_permissions_are_out_of_reach(tmp_path, monkeypatch):
    """Each is tried, and refused with EPERM or EACCES; the same succeeds outside."""
    (tmp_path / "secret").write_text("s")
    with socket.create_server(("127.0.0.1", 0)) as server:
        tried = [
            f"open({str(tmp_path / 'secret')!r})",
            f"open({str(tmp_path / 'new')!r}, 'w')",
            f"os.listdir({str(tmp_path)!r})",
            f"os.unlink({str(tmp_path / 'secret')!r})",
            f"os.rename({str(tmp_path / 'secret')!r}, 'mine')",
            f"os.mkdir({str(tmp_path / 'folder')!r})",
            f"os.chmod({str(tmp_path / 'secret')!r}, 0)",
            f"os.utime({str(tmp_path / 'secret')!r})",
            f"os.truncate({str(tmp_path / 'secret')!r}, 0)",
            f"os.symlink({str(tmp_path / 'secret')!r}, 'link')",
            f"os.link({str(tmp_path / 'secret')!r}, 'link')",
            f"open({str(pathlib.Path(sandbox.__file__))!r})",
            "open('/etc/passwd')",
            "open('/proc/self/environ')",
            "open('/dev/tty')",
            f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)",
            "socket.socket(socket.AF_UNIX)",
            "os.fork()",
            "os.execv('/bin/true', ['true'])",
            f"os.kill({os.getpid()}, 0)",
            "os.kill(os.getpid(), 9)",
            "os.setpriority(os.PRIO_PROCESS, 0, 19)",
            "os.pipe()",
            "os.memfd_create('a')",
        ]
        program = "import os, socket\n" + "\n".join(REFUSED.format(one) for one in tried)
        ended = sandbox.run(program)
    assert ended.passed, ended.why
    assert (tmp_path / "secret").read_text() == "s" and os.listdir(tmp_path) == ["secret"]
    assert sandbox.run(
        "import _thread\ntry: _thread.start_new_thread(print, ())\nexcept RuntimeError: pass\nelse: 1/0"
    ).passed
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert sandbox.run("import os\nassert not [name for name in os.environ if name != 'LC_CTYPE'], os.environ").passed


@held
def test_a_program_writes_into_a_folder_of_its_own_which_is_gone_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sandbox.run("open('a', 'w').write('b')\nassert open('a').read() == 'b'\nimport os\nos.mkdir('c')").passed
    assert not list(tmp_path.iterdir())
    assert sandbox.run("with open('a', 'w') as file:\n    file.write('b' * 2000)", file_size=1000).why == "OSError"


@held
def test_time_and_memory_have_limits():
    assert sandbox.run("while True: pass", seconds=1).why == "took too long"
    assert sandbox.run("import time\ntime.sleep(99)", seconds=1).why == "took too long"
    more = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))"
    assert sandbox.run(more, seconds=1).why == "ValueError", "its limits are its limits"
    program = "x = bytearray(200 * 2**20)"
    assert sandbox.run(program).passed and sandbox.run(program, memory=150 * 2**20).why == "MemoryError"
    catching = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert sandbox.run(catching, seconds=1).why == "took too long"


@pytest.mark.parametrize(("platform", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_a_system_that_cannot_hold_a_program_is_said(monkeypatch, platform, machine):
    """The child itself would say so; here its check."""
    monkeypatch.setattr(sandbox_child, "sys", instead(sys, platform=platform))
    named = type("Named", (), {"machine": machine})
    monkeypatch.setattr(sandbox_child, "os", instead(os, uname=lambda: named))
    with pytest.raises(sandbox_child.Unavailable, match=f"there is no sandbox for {platform} on {machine}"):
        sandbox_child.hold({})


def test_what_the_child_cannot_hold_is_not_run(monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    child.write_text("import os, sys\nsys.stdin.read()\nos.write(1, b'unavailable the kernel is old')\nos._exit(3)\n")
    monkeypatch.setattr(sandbox_child, "__file__", str(child))
    with pytest.raises(UserError, match=r"^programs that a model wrote are not run here: the kernel is old\.$"):
        sandbox.run("pass")


@held
def test_an_answer_of_humaneval_passes_by_the_tests_of_its_row():
    doc = {
        "prompt": "def add(a, b):\n    \"\"\"Sum.\"\"\"\n", "entry_point": "add",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\n",
    }  # fmt: skip
    for answer, passed in (
        ("    return a + b\n", 1.0),
        ("    return a - b\n", 0.0),
        ("    import sys; sys.exit(0)\n", 0.0),
    ):
        assert sets.humaneval_results(doc, [answer]) == {"pass@1": passed}


@held
@pytest.mark.skipif("ICEGRT_DATA" not in os.environ, reason="needs the public sets")
def test_the_published_solutions_pass():
    path = pathlib.Path(os.environ["ICEGRT_DATA"]) / "bench" / "humaneval" / "test.jsonl"
    docs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][::16]
    assert [
        doc["task_id"] for doc in docs if not sets.humaneval_results(doc, [doc["canonical_solution"]])["pass@1"]
    ] == []
