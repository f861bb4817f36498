"""A headless Chromium for the tests of pages: each error on its console is kept, axe-core looks for faults of access.

A test takes the fixture `browser`, which is skipped with a sentence where something is missing:

    def test_the_page_is_readable(browser):
        with visit(browser, "file:///page.html", width=360) as seen:
            seen.page.get_by_role("button", name="More").click()
            assert seen.errors == [] and seen.faults() == [] and seen.overflow() == 0

It needs `pip install playwright axe-playwright-python` (of the extra `test`) and a Chromium: the one that
ICEGRT_CHROMIUM names, else the first of `NAMES` on the PATH. The axe.min.js of a folder that ICEGRT_AXE names comes
before the package's.
"""

import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
HERE = ("http://127.0.0.1:", "http://localhost:")  # what a page of a server of the test's own may ask
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")  # of axe-core


@dataclasses.dataclass
class Visit:
    """A page that is open.

    Attributes:
      page: as Playwright has it.
      errors: what its console and its scripts have said of errors and warnings, and requests that were refused.
    """

    page: Any
    errors: list[str] = dataclasses.field(default_factory=list)

    def faults(self, within: str = "") -> list[str]:
        """Faults of access that axe-core finds, each with its place; `within` a selector."""
        self.page.evaluate(axe_script())
        context = f"document.querySelector({within!r})" if within else "document"
        rules = {"type": "tag", "values": list(RULES)}
        found = self.page.evaluate(f"axe.run({context}, {{runOnly: {rules}}})")
        return [
            f"{fault['id']}: {node['target']} {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
            for fault in found["violations"]
            for node in fault["nodes"]
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window; 0: it does not scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, started once for a file of tests: while it is open, an event loop runs in this thread."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no browser: pip install playwright")
    from playwright.sync_api import sync_playwright

    path = os.environ.get("ICEGRT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH; name one in ICEGRT_CHROMIUM")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield opened
        finally:
            opened.close()


@contextlib.contextmanager
def visit(
    browser: Any, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, cookies: Sequence[dict] = ()
) -> Iterator[Visit]:
    """A page in a window of its own, which has no network: all that is not on this machine is refused, and an error.

    Args:
      url: file:// (then there is no network at all) or that of a server of the test's own.
      width, height: of the window, in pixels.
      dark: the person prefers dark pages.
      cookies: as Playwright takes them.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    try:
        if cookies:
            context.add_cookies(list(cookies))
        page = context.new_page()
        page.set_default_timeout(15_000)
        seen = Visit(page)
        page.on("console", lambda said: seen.errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        if url.startswith("file:"):
            context.set_offline(True)
        else:
            page.route(lambda asked: not asked.startswith(HERE), lambda route: _refuse(route, seen))
        page.goto(url)
        yield seen
    finally:
        context.close()


def _refuse(route: Any, seen: Visit) -> None:
    seen.errors.append(f"asked for {route.request.url}")
    route.abort()


def axe_script() -> str:
    """The text of axe.min.js; skips the test where there is none."""
    folder = os.environ.get("ICEGRT_AXE")
    if not folder:
        found = importlib.util.find_spec("axe_playwright_python")
        if found is None or not found.submodule_search_locations:
            pytest.skip("no axe-core: pip install axe-playwright-python, or name its folder in ICEGRT_AXE")
        folder = found.submodule_search_locations[0]
    return (pathlib.Path(folder) / "axe.min.js").read_text(encoding="utf-8")
