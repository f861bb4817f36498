"""Replies of a judge kept on disk, by the content of what it was asked: the same is not asked twice."""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from icegrt_jax.errors import UserError


class Replies:
    """A folder of them, a file for each; without a folder nothing is kept.

    A file holds what was asked, prompt and answers included, and the reply. No key of an endpoint is among it.
    """

    def __init__(self, folder: str):
        self._folder = pathlib.Path(folder).expanduser() if folder else None

    def get(self, asked: Mapping[str, Any]) -> str | None:
        """The reply, None where there is none that can be read."""
        if self._folder is None:
            return None
        try:
            content = json.loads(self._path(asked).read_text(encoding="utf-8"))
            return content["reply"] if content["asked"] == asked else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, asked: Mapping[str, Any], reply: str) -> None:
        """Keeps a reply; readers see the whole file or none."""
        if self._folder is None:
            return
        path, temporary = self._path(asked), ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own: several programs may be told the same at a time.
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
                temporary = file.name
                json.dump({"asked": asked, "reply": reply}, file, ensure_ascii=False)
            os.replace(temporary, path)
        except OSError as error:
            if temporary:
                pathlib.Path(temporary).unlink(missing_ok=True)
            raise UserError(
                f"{path.parent}: a judge's reply cannot be kept there ({error.strerror}); name another folder."
            ) from error

    def _path(self, asked: Mapping[str, Any]) -> pathlib.Path:
        assert self._folder is not None
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.json"
