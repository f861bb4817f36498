"""The conversation as a page; each browser has its own."""

import asyncio
import pathlib
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from icegrt_jax.errors import UserError
from icegrt_jax.pages import access, web
from icegrt_jax.pages.chat import terminal
from icegrt_jax.pages.chat.talk import Settings, Talk, Voice

SESSION = "icegrt_talk"  # the cookie
MOST = 50  # conversations that are remembered


class Pages:
    """The endpoints. `keep` is the file of rankings."""

    def __init__(self, voices: Sequence[Voice], settings: Settings, keep: pathlib.Path, seed: int = 0):
        self._voices, self._settings, self._keep, self._seed = voices, settings, keep, seed
        self._talks: OrderedDict[str, Talk] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    def app(self, tokens: Mapping[str, str]) -> ASGIApp:
        """The application behind its guard."""
        post = {
            "/say": self.say,
            "/keep": self.keep,
            "/share": self.share,
            "/settings": self.settings,
            "/new": self.new,
        }
        routes = [
            Route("/", self.show),
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
            web.static(),
        ]
        told = {HTTPException: web.told, UserError: web.told}
        return access.Guard(Starlette(routes=routes, exception_handlers=told), tokens)

    async def show(self, request: Request) -> Response:
        session, talk = self._talk(request)
        voices = [
            {
                "number": n,
                "name": voice.name,
                "history": talk.histories[n - 1],
                "answer": talk.answers[n - 1] if talk.answers else None,
            }
            for n, voice in enumerate(talk.voices, 1)
        ]
        response = web.page(
            "chat.html", heading="icegrt chat", title="Chat", voices=voices, talk=talk, settings=talk.settings,
            same=len(set(map(str, talk.asked))) < 2, keep=self._keep,
        )  # fmt: skip
        response.set_cookie(SESSION, session, httponly=True, samesite="lax")
        return response

    async def say(self, request: Request) -> Response:
        text = (await web.form(request)).get("text", "")
        async with self._one_at_a_time:
            await run_in_threadpool(self._talk(request)[1].say, text)
        return RedirectResponse("/", 303)

    async def keep(self, request: Request) -> Response:
        talk, fields = self._talk(request)[1], await web.form(request)
        count = len(talk.voices)
        talk.keep([web.whole(fields, f"rank-{n}", 1, count) for n in range(1, count + 1)], self._keep)
        return RedirectResponse("/", 303)

    async def share(self, request: Request) -> Response:
        talk, fields = self._talk(request)[1], await web.form(request)
        talk.share((web.whole(fields, "voice", 1, len(talk.voices)) or 1) - 1)
        return RedirectResponse("/", 303)

    async def settings(self, request: Request) -> Response:
        talk, fields = self._talk(request)[1], await web.form(request)
        temperature = terminal.temperature(fields.get("temperature", ""))
        talk.settings = Settings(temperature, terminal.tokens(fields.get("tokens", "")))
        return RedirectResponse("/", 303)

    async def new(self, request: Request) -> Response:
        self._talk(request)[1].new()
        return RedirectResponse("/", 303)

    def _talk(self, request: Request) -> tuple[str, Talk]:
        """The conversation of whoever asks, under the name that their browser knows it by."""
        session = request.cookies.get(SESSION, "")
        if session not in self._talks:
            session = secrets.token_urlsafe(16)
            self._talks[session] = Talk(self._voices, self._settings, self._seed)
            while len(self._talks) > MOST:
                self._talks.popitem(last=False)
        self._talks.move_to_end(session)
        return session, self._talks[session]
