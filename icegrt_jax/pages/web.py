"""What both pages are made with: templates, forms, names, and the server they run in."""

import pathlib
import socket
import unicodedata
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from icegrt_jax.errors import UserError

FOLDER = pathlib.Path(__file__).parent
LONGEST_FORM = 2**20  # bytes
LONGEST_NAME = 60  # characters
NAME = "icegrt_name"  # the cookie
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


def page(name: str, status: int = 200, **values: Any) -> Response:
    """A template as a page; whatever is put into it is text."""
    return HTMLResponse(_TEMPLATES.get_template(name).render(values), status)


def static() -> BaseRoute:
    """Style sheet and scripts."""
    return Mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")


async def form(request: Request) -> dict[str, str]:
    """The fields of a form that was sent; of those that stand in it twice the last one."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise HTTPException(413, f"More than {LONGEST_FORM:,} bytes; write less.")
    try:
        fields = urllib.parse.parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise HTTPException(400, "This is no form in UTF-8.") from error
    return {name: value.replace("\r\n", "\n") for name, value in fields}


def whole(fields: Mapping[str, str], name: str, lowest: int, highest: int) -> int | None:
    """A whole number of a form, None where the field is empty or not there."""
    text = fields.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and lowest <= int(text) <= highest):
        raise HTTPException(400, f"{name}: expected a whole number from {lowest} to {highest}, or nothing.")
    return int(text)


def name_of(text: str) -> str:
    """A person's name as it is kept: "" where it is none."""
    name = " ".join(unicodedata.normalize("NFC", text).split())
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def named(request: Request) -> str:
    """The name that whoever asks has given; "" for none."""
    return name_of(urllib.parse.unquote(request.cookies.get(NAME, "")))


def with_name(response: Response, name: str) -> Response:
    """The same response, after which `named` knows the name."""
    response.set_cookie(NAME, urllib.parse.quote(name), httponly=True, samesite="lax", max_age=365 * 24 * 3600)
    return response


def told(request: Request, error: Exception) -> Response:
    """A mistake as one sentence."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    said = error.detail if isinstance(error, HTTPException) else str(error)
    return PlainTextResponse(said, status)


def listen(host: str, port: int) -> socket.socket:
    """A socket there; port 0: any that is free."""
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)  # who comes before the server runs waits for it
    except OSError as error:
        opened.close()
        raise UserError(
            f"--host={host} --port={port}: cannot be listened at ({error.strerror or error}); give another, --port=0 "
            "for any that is free."
        ) from error
    return opened


def address(opened: socket.socket, token: str) -> str:
    """Where a browser finds the page."""
    host, port = opened.getsockname()[:2]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={urllib.parse.quote(token)}"


def serve(app: ASGIApp, opened: socket.socket, until: Callable[[], bool] = lambda: False) -> None:
    """Serves the page until Ctrl-C, SIGTERM, or `until`, which is asked once a second, says that it is enough."""

    async def look() -> None:
        server.should_exit = server.should_exit or until()

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=2,
        callback_notify=look, timeout_notify=0,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    with opened:
        server.run(sockets=[opened])
