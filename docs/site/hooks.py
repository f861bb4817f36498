"""Hooks of the site: the page of the Python API is made of the public names, and one without a docstring is a warning.

Links from a page to a place outside docs/ lead to the file's name in the repository, which the site has not.
"""

import functools
import logging
import pathlib
import re

import griffe

LOG = logging.getLogger("mkdocs.hooks.icegrt_jax")
ROOT = pathlib.Path(__file__).parents[2]
MODULES = {
    "icegrt_jax": "Models, trainings, samples",
    "icegrt_jax.rl": "The maths",
    "icegrt_jax.training": "The update steps",
}
HERE = "<!-- every public name -->"


@functools.cache
def package() -> griffe.Object | griffe.Alias:
    """The source, read and not imported."""
    return griffe.load("icegrt_jax", search_paths=[ROOT])


def public(module: str) -> list[str]:
    """The full names that a module offers; modules in it, and names that begin with two underscores, are left out."""
    found = package() if module == "icegrt_jax" else package()[module.partition(".")[2]]
    names = []
    for name in sorted(map(str, found.exports or ())):
        if name.startswith("__"):
            continue
        value = found[name]
        value = value.final_target if value.is_alias else value
        if value.is_module:
            continue
        if not value.has_docstring:
            LOG.warning("%s.%s has no docstring", module, name)
        names.append(value.path)
    return names


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Fills the page of the API, and turns links that leave docs/ into the path they name."""
    if HERE in markdown:
        parts = []
        for module, title in MODULES.items():
            parts.append(f"## {title}: `{module}`\n")
            parts += [f"::: {name}\n" for name in public(module)]
        markdown = markdown.replace(HERE, "\n".join(parts))
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)\)", r"\1 (`\2`)", markdown)
