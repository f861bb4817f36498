"""The report's HTML: one file that needs no other and asks no network, every text in it escaped.

Tables are written here; charts and the browser of answers are made in the page from the data in it. Of scripts only
those of this package run, by their checksum, and the chart library, which the page unpacks from itself: a text of a
prompt, an answer or a config is never more than a text.
"""

import base64
import functools
import gzip
import hashlib
import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from icegrt_jax.errors import UserError

ASSETS = pathlib.Path(__file__).parent / "assets"
SCRIPTS = {
    "report.html": ("theme.js", "charts.js", "browser.js", "report.js"),
    "compare.html": ("theme.js", "charts.js", "compare.js"),
}
LIBRARY = "package_data/plotly.min.js"


def render(template: str, data: Mapping[str, Any], **shown: Any) -> str:
    """The page of a template of `SCRIPTS`.

    Args:
      data: for its scripts. shown: for its template.
    """
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS[template])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template(template).render(
        **shown, policy=policy, style=Markup((ASSETS / "style.css").read_text(encoding="utf-8")),
        script=Markup(script), data=Markup(as_json(data)), plotly=Markup(plotly()),
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a pair of UTF-16, which no file can hold


def as_json(value: Any) -> str:
    """JSON that is harmless in a page: it holds no `<`, so nothing in it ends its element or begins a comment."""
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@functools.cache
def plotly() -> str:
    """Plotly's script as its package has it, packed and in base64."""
    found = importlib.util.find_spec("plotly")
    folders = list(found.submodule_search_locations or ()) if found else []
    path = next((path for folder in folders if (path := pathlib.Path(folder) / LIBRARY).is_file()), None)
    if path is None:
        raise UserError("the report draws with Plotly, which is not installed; pip install plotly")
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
