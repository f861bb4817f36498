"""Who may open a page: whoever has its token. Every request passes here, and every reply gets its headers here.

A token comes once in the address, becomes a cookie that scripts cannot read, and is compared in constant time. A page
may have two: one for its users and one for who leads them.
"""

import hashlib
import hmac
import os
import secrets
import urllib.parse
from collections.abc import Mapping, MutableMapping

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from icegrt_jax.errors import UserError

USER, LEAD = "user", "lead"
VARIABLES = {USER: "ICEGRT_PAGE_TOKEN", LEAD: "ICEGRT_PAGE_LEAD_TOKEN"}
SHORTEST = 12  # characters of a token that somebody has chosen
HEADERS = {
    # Nothing from elsewhere and no script or style in the page itself: what an answer says can only be text.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
REFUSED = "Not allowed: open the address that was printed when this page was started; it has a token."


def tokens(kept: MutableMapping[str, str], roles: tuple[str, ...] = (USER,)) -> dict[str, str]:
    """{role: token}: of the environment, else of an earlier start, else new.

    Args:
      kept: those of an earlier start by role; new ones are put there.
    """
    for role in roles:
        given = os.environ.get(VARIABLES[role], "")
        if given and len(given) < SHORTEST:
            raise UserError(f"{VARIABLES[role]} has {len(given)} characters; expected {SHORTEST} or more.")
        kept[role] = given or kept.get(role) or secrets.token_urlsafe(24)
    found = {role: kept[role] for role in roles}
    if len(set(found.values())) < len(found):
        raise UserError(f"{' and '.join(VARIABLES[role] for role in roles)} are the same; give each its own.")
    return found


class Guard:
    """Lets a request in that has a token, and refuses with 403 what has none; `scope["role"]` then says whose it is."""

    def __init__(self, app: ASGIApp, tokens: Mapping[str, str]):
        self._app, self._tokens = app, dict(tokens)
        # Cookies do not know ports: two pages of one machine each have their own.
        self._cookie = f"icegrt_{hashlib.sha256(''.join(sorted(tokens.values())).encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(Request(scope), scope) or self._app
        await answer(scope, receive, with_headers)

    def _answer(self, request: Request, scope: Scope) -> Response | None:
        """What is said in the place of the page; None where it may be seen."""
        if given := request.query_params.get("token"):
            if not self._role(given):
                return PlainTextResponse(REFUSED, 403)
            rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
            asked = urllib.parse.quote(request.url.path) + (f"?{urllib.parse.urlencode(rest)}" if rest else "")
            response = RedirectResponse(f"/{asked.lstrip('/')}", 303)
            response.set_cookie(self._cookie, given, httponly=True, samesite="lax")
            return response
        scope["role"] = self._role(request.cookies.get(self._cookie, ""))
        if not scope["role"] or request.method not in ("GET", "HEAD") and not _of_this_page(request):
            return PlainTextResponse(REFUSED, 403)
        return None

    def _role(self, given: str) -> str:
        """Whose token it is, "" for none; each is compared, however far another is the same."""
        same = [role for role, token in self._tokens.items() if hmac.compare_digest(given.encode(), token.encode())]
        return same[0] if same else ""


def _of_this_page(request: Request) -> bool:
    """Whether a form was sent from here and not by another page that the browser has open."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or urllib.parse.urlsplit(origin).netloc == request.headers.get("host")
