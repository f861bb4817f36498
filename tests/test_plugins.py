"""The user's own code by name: found, executed once, and every mistake one sentence."""

import sys

import pytest

from icegrt_jax import plugins
from icegrt_jax.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the command runs; what is imported from there is forgotten after the test."""
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if "pytest-of-" not in entry]  # what other tests have left there
    sys.modules.pop("mine", None)
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def written(folder, text, name="mine.py"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_name_is_found_by_relative_and_absolute_path_and_in_a_module(folder):
    path = written(folder, "def f():\n    return 7\n", "sub/mine.py")
    written(folder, "", "sub/__init__.py")
    assert plugins.load("k", "sub/mine.py:f")() == plugins.load("k", f"{path}:f")() == 7
    assert plugins.load("k", "sub.mine:f")() == 7
    assert plugins.file_of("sub.mine:f") == plugins.file_of("sub/mine.py:f") == path


def test_a_file_is_executed_once_and_anew_when_it_has_changed(folder):
    written(folder, "made = []\nclass A: pass\nclass B: pass\n")
    first = plugins.load("k", "mine.py:A")
    assert plugins.load("other", str(folder / "mine.py:A")) is first
    assert plugins.load("k", "mine.py:B").__module__ == first.__module__
    written(folder, "made = []\nclass A: pass\nclass C: pass\n")  # of the same length, within the same second
    assert plugins.load("k", "mine.py:C") and plugins.load("k", "mine.py:A") is not first


def test_modules_beside_it_can_be_imported_dataclasses_work_and_nothing_is_written_for_the_file(folder):
    written(folder, "VALUE = 3\n", "beside_mine.py")
    written(
        folder,
        "from __future__ import annotations\nimport dataclasses\nimport beside_mine\n"
        "@dataclasses.dataclass\nclass D:\n    x: int = beside_mine.VALUE\n",
    )
    assert plugins.load("k", "mine.py:D")().x == 3
    assert not list(folder.rglob("mine*.pyc"))


def test_a_file_called_as_a_library_hides_none(folder):
    written(folder, "raise RuntimeError\n", "json.py")
    written(folder, "import json\nf = json.dumps\n")
    assert plugins.load("k", "mine.py:f")([1]) == "[1]"


@pytest.mark.parametrize("spec, text, problem", [
    ("none.py:f", "", "there is no file none.py in "),
    ("no.such.module:f", "", "there is no module no.such.module, neither installed nor in "),
    ("mine.py:jugde", "def judge(): pass", "mine.py defines no jugde; did you mean judge?"),
    ("mine.py:x", "def judge(): pass\nclass Other: pass", "mine.py defines no x; it has judge, Other."),
    ("mine.py:x", "", "mine.py defines no x; it has no function and no class."),
    ("mine.py:f", "x = 1\ny = nowhere\n", "mine.py, line 2: NameError: name 'nowhere' is not defined"),
    ("mine.py:f", "import no_such_library\n", "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_lib"),
    ("mine.py:f", "x = 1\ndef f(:\n", "mine.py, line 2: invalid syntax."),
    ("mine.py:f", "import math\ndef g():\n    return math.sqrt(-1)\ng()\n", "mine.py, line 3: ValueError: "),
    ("mine:f", "import no_such_library\n", "mine.py, line 1: ModuleNotFoundError: No module named 'no_such_lib"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_the_key_the_file_and_the_line(folder, spec, text, problem):
    written(folder, text)
    with pytest.raises(UserError) as error:
        plugins.load("evaluate.judge", spec)
    assert str(error.value).startswith(f"evaluate.judge={spec!r}: ") and problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["a/mine.txt:f", "mine.py:", "mine.py:a b", ":f", "a/b:f"])
def test_another_form_is_refused_before_any_file_is_opened(spec):
    with pytest.raises(UserError, match=r"expected FILE\.py:NAME, or package\.module:NAME"):
        plugins.check_name("k", spec, ("exact",))


def test_a_name_that_is_not_known_is_refused_and_one_of_a_file_is_not_opened():
    plugins.check_name("k", "exact", ("exact",))
    plugins.check_name("k", "no/such/file.py:f", ("exact",))
    with pytest.raises(UserError, match=r"^k='exakt'; expected one of 'exact', or FILE\.py:NAME\.$"):
        plugins.check_name("k", "exakt", ("exact",))


@pytest.mark.parametrize("made, problem", [
    (lambda record: 1, "f(record) cannot be called as f(record, answer): too many positional arguments."),
    (lambda a, b, *, c: 1, "f(a, b, *, c) cannot be called as f(record, answer): missing a required argument: 'c'."),
    (dict, "f is a class; expected a function f(record, answer)."),
    (3, "f is of type int; expected a function f(record, answer)."),
])  # fmt: skip
def test_what_cannot_be_called_as_it_will_be_is_refused(made, problem):
    with pytest.raises(UserError) as error:
        plugins.check_function("k", "mine.py:f", made, "record", "answer")
    assert str(error.value) == f"k='mine.py:f': {problem}"


@pytest.mark.parametrize("made", [lambda a, b: 1, lambda *a: 1, lambda a, b, c=3: 1, max])
def test_what_can_be_called_passes(made):
    plugins.check_function("k", "mine.py:f", made, "record", "answer")


def test_the_line_named_is_the_users_own_though_a_library_raised(folder):
    path = written(folder, "import json\ndef f(text):\n    return json.loads(text)\n")
    call = plugins.load("k", "mine.py:f")
    with pytest.raises(UserError, match=rf"^asked: {path}, line 3: json.decoder.JSONDecodeError: Expecting value"):
        plugins.explained("asked", lambda: call("?"), path)


def test_a_fingerprint_is_that_of_the_file(folder):
    written(folder, "a = 1\n")
    before = plugins.fingerprint("mine.py:a")
    assert before == plugins.fingerprint("mine:a") == plugins.fingerprint("mine.py:other") and len(before) == 64
    written(folder, "a = 2\n")
    assert plugins.fingerprint("mine.py:a") != before
    assert plugins.fingerprint("none.py:a") is None and plugins.fingerprint("no.module:a") is None
