"""What must hold of a judge that is a language model, before it is asked."""

import re
import urllib.parse

from icegrt_jax.config.options import JudgeModelOptions
from icegrt_jax.errors import UserError


def check_judge_model(prefix: str, section: JudgeModelOptions, used: str) -> None:
    """Refuses what cannot be asked, and what would write a key into a config.

    Args:
      prefix: of its keys. used: the key that names this judge, "" for none.
    """
    if used and not section.model:
        raise UserError(f"{used}='model', but {prefix}model is empty; name a model of an endpoint, or a folder.")
    if section.url:
        _check_url(f"{prefix}url", section.url)
    if section.key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", section.key_env):
        # Not shown: it may be the key itself.
        raise UserError(
            f"{prefix}key_env is no name of an environment variable, in capitals; give that there, never the key."
        )
    if section.key_env and not section.url:
        raise UserError(f"{prefix}key_env={section.key_env!r} is for an endpoint; set {prefix}url, or leave it out.")


def _check_url(key: str, url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urllib.parse.urlsplit(""), None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: it may hold a key.
        raise UserError(f"{key} holds more than a place; leave out names, passwords and what follows a ?, see key_env.")
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{key}={url!r}; expected http://HOST/v1 or https://HOST/v1, without /chat/completions.")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise UserError(f"{key}={url!r}; leave out /chat/completions, which is put behind it.")
