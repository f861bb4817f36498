"""docs/ as a site: it is built without a warning, and every public name of the Python API is on it."""

import html
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import icegrt_jax as ice

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_on_the_site(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


def test_every_public_name_has_its_docstring_there(site, hooks):
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8")))
    names = [name for module in hooks.MODULES for name in hooks.public(module)]
    exported = {name for module in (ice, ice.rl, ice.training) for name in module.__all__} - {"__version__"}
    assert exported - {name.rpartition(".")[2] for name in names} == {"options", "rl", "training"}
    assert len(names) > 60
    assert [name for name in names if name.rpartition(".")[2] not in page] == []
    assert "&gt;&gt;&gt; " not in re.sub(r"<pre.*?</pre>", "", (site / "api.html").read_text(), flags=re.DOTALL), "code"
    assert page.count(">>> ") > 20
    assert "Clipped surrogate loss of PPO" in page  # the first line of a docstring


def test_nothing_is_fetched_from_elsewhere(site):
    fetched = [
        (path.name, url)
        for path in site.glob("*.html")
        for url in re.findall(r'(?:src|<link[^>]+href)="(https?://[^"]+)"', path.read_text(encoding="utf-8"))
    ]
    assert fetched == []


def test_a_public_name_without_a_docstring_is_a_warning(hooks, monkeypatch, caplog):
    monkeypatch.setattr(hooks.package()["rl.advantages.gae"], "docstring", None)
    hooks.public("icegrt_jax.rl")
    assert "icegrt_jax.rl.gae has no docstring" in caplog.text
