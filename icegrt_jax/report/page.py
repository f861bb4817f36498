"""The report's HTML: one file that needs no other, every text in it escaped."""

import base64
from collections.abc import Sequence
from typing import Any

import jinja2

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1d232a; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #d5dae0; }
  img { max-width: 100%; display: block; margin: 1rem 0; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; margin: 1rem 0; }
  th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #e3e6ea; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  .alarms th, .alarms td { text-align: left; white-space: normal; vertical-align: top; }
  td.best { font-weight: 700; }
  .note { color: #5a636e; }
  .example { border: 1px solid #d5dae0; border-radius: 6px; padding: .2rem 1rem; margin: 1rem 0; }
  .example pre { white-space: pre-wrap; font: inherit; margin: .2rem 0 .8rem; }
  .example b { color: #1f6fb4; }
  pre.config { background: #f5f7f9; padding: 1rem; overflow-x: auto; font-size: .85rem; }
</style>
<h1>{{ title }}</h1>
{% if table %}
<h2>Evaluation</h2>
<div class="wide"><table>
  <tr><th>model</th>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
  {% for row in table.rows %}
  <tr><td>{{ row.name }}</td>
    {%- for cell in row.cells %}<td{% if cell.best %} class="best"{% endif %}>{{ cell.text }}</td>{% endfor %}</tr>
  {% endfor %}
</table></div>
{% endif %}
{% if differences %}
<p class="note">Prompt by prompt, in points; in brackets 95 % intervals by bootstrap over the prompts.</p>
{% for compared in differences %}
<div class="wide"><table>
  <tr><th>{{ compared.title }}</th><th></th></tr>
  {% for title, text in compared.rows %}
  <tr><td>{{ title }}</td><td>{{ text }}</td></tr>
  {% endfor %}
</table></div>
{% endfor %}
{% endif %}
{% if annotations %}
<h2>Annotations</h2>
<div class="wide"><table>
  <tr>{% for name in annotations.columns %}<th>{{ name }}</th>{% endfor %}</tr>
  {% for row in annotations.rows %}
  <tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
  {% endfor %}
</table></div>
{% endif %}
{% for section in sections %}
<h2 id="{{ section.name }}">{{ section.title }}</h2>
<p class="note">{{ section.note }}</p>
{% if section.alarms %}
<div class="wide"><table class="alarms">
  <tr>{% for name in section.alarms.columns %}<th>{{ name }}</th>{% endfor %}</tr>
  {% for row in section.alarms.rows %}
  <tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
  {% endfor %}
</table></div>
{% endif %}
{% for image in section.images %}
<img alt="{{ section.title }}" src="data:image/png;base64,{{ image }}">
{% endfor %}
{% endfor %}
{% if examples %}
<h2>Examples</h2>
{% for example in examples %}
<div class="example">
  <p><b>prompt</b></p><pre>{{ example.prompt }}</pre>
  {% for name, answer in example.answers %}
  <p><b>{{ name }}</b></p><pre>{{ answer }}</pre>
  {% endfor %}
</div>
{% endfor %}
{% endif %}
<h2>Config</h2>
<details><summary>the resolved config of this run</summary><pre class="config">{{ config }}</pre></details>
</html>
"""


def render(
    *, title: str, table: dict | None, differences: Sequence[dict] = (), annotations: dict | None = None,
    sections: list[dict], examples: list[dict], config: str,
) -> str:  # fmt: skip
    """Returns the page.

    Args:
      title: its heading.
      table: "columns", a list of names, and "rows", each a "name" and "cells" of "text" and "best"; None without one.
      differences: of its rows: each a "title" and "rows" of what differs and by how much.
      annotations: "columns" and "rows" of texts, of a run with several rounds.
      sections: each "name", "title", "note" and "images", PNG files as bytes; "alarms", "columns" and "rows" of texts.
      examples: each "prompt" and "answers", pairs of model and text.
      config: shown as it is.
    """
    encoded = lambda section: {"images": [base64.b64encode(png).decode() for png in section["images"]]}
    sections = [{"alarms": None, **section, **encoded(section)} for section in sections]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    values: dict[str, Any] = {
        "title": title, "table": table, "differences": differences, "annotations": annotations, "sections": sections,
        "examples": examples,
    }  # fmt: skip
    return template.render(**values, config=config)
