"""The pages of `icegrt rank`: naming oneself, ranking, results, adjudication."""

import dataclasses
import functools
import pathlib
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from icegrt_jax.evaluation.asked.wording import CRITERIA, HIGHEST, LOWEST
from icegrt_jax.pages import access, web
from icegrt_jax.pages.rank import agree, desk, export

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the pages are told.

    Attributes:
      folder: where the store lies and files are written.
      guideline: what annotators are to go by, "" for none.
      apart: see `export.write`.
      waits: somebody waits for the rankings: the lead may end it.
    """

    folder: pathlib.Path
    guideline: str = ""
    apart: bool = False
    waits: bool = False


class Pages:
    """The endpoints. `finished`: the lead has said that it is enough."""

    def __init__(self, at: desk.Desk, settings: Settings):
        self.desk, self.settings, self.finished = at, settings, False

    def app(self, tokens: Mapping[str, str]) -> ASGIApp:
        """The application behind its guard."""
        routes = [
            Route("/", self.start),
            Route("/name", self.name, methods=["POST"]),
            Route("/rank", named(self.rank)),
            Route("/rank", named(self.save), methods=["POST"]),
            Route("/before", named(self.before)),
            Route("/results", lead(self.results)),
            Route("/export", lead(self.export), methods=["POST"]),
            Route("/rankings.jsonl", lead(self.download)),
            Route("/adjudicate", lead(named(self.conflicts))),
            Route("/adjudicate", lead(named(self.decide)), methods=["POST"]),
            Route("/adjudicate/{number:int}", lead(named(self.conflict))),
            Route("/finish", lead(self.finish), methods=["POST"]),
            web.static(),
        ]
        told = {HTTPException: web.told}
        return access.Guard(Starlette(routes=routes, exception_handlers=told), tokens)

    async def start(self, request: Request) -> Response:
        if web.named(request) and "change" not in request.query_params:
            return RedirectResponse("/rank", 303)
        return self._page(request, "name.html", title="Your name")

    async def name(self, request: Request) -> Response:
        name = web.name_of((await web.form(request)).get("name", ""))
        if not name:
            raise HTTPException(
                400, f"Give a name of {web.LONGEST_NAME} characters at most; it is kept beside what you say."
            )
        return web.with_name(RedirectResponse("/rank", 303), name)

    async def rank(self, request: Request) -> Response:
        shown = self.desk.next(web.named(request))
        return self._all_done(request) if shown is None else self._show(request, shown)

    async def before(self, request: Request) -> Response:
        """The judgement before the one that is shown, to be changed."""
        number = web.whole(dict(request.query_params), "item", 0, len(self.desk.keys)) or 0
        again = request.query_params.get("again") == "1"
        shown = self.desk.before(web.named(request), number, again)
        return RedirectResponse("/rank", 303) if shown is None else self._show(request, shown)

    async def save(self, request: Request) -> Response:
        self.desk.save(web.named(request), await web.form(request))
        return RedirectResponse("/rank", 303)

    async def results(self, request: Request) -> Response:
        return await self._results(request)

    async def export(self, request: Request) -> Response:
        apart = (await web.form(request)).get("apart") == "1"
        await run_in_threadpool(export.write, self.desk.store, self.settings.folder, apart=apart)
        return await self._results(request, written=str(self.settings.folder / export.RANKINGS))

    async def download(self, request: Request) -> Response:
        """The records as they are now."""
        store = self.desk.store
        apart = request.query_params.get("apart") == "1"
        found = export.rankings(store.all_items(), store.judgements(), store.decisions(), apart=apart)
        return Response(
            export.lines(found), media_type="application/jsonl; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="{export.RANKINGS}"'},
        )  # fmt: skip

    async def conflicts(self, request: Request) -> Response:
        decided, found = self.desk.store.decisions(), agree.conflicts(self.desk.store.judgements())
        rows = [
            {"number": number, "pairs": count, "by": decided[number].adjudicator if number in decided else ""}
            for number, count in found.items()
        ]
        return self._page(
            request, "conflicts.html", title="Conflicts", rows=sorted(rows, key=lambda row: bool(row["by"]))
        )

    async def conflict(self, request: Request) -> Response:
        number = request.path_params["number"]
        shown = self.desk.show(desk.ADJUDICATOR, number, False)
        said = [one for one in self.desk.store.judgements(item=number) if one.ranks is not None and not one.again]
        decided = self.desk.store.decisions().get(number)
        answers = shown.answers()
        for answer, place in zip(answers, shown.places, strict=True):
            answer["said"] = [(one.annotator, one.ranks[place] if one.ranks else None) for one in said]
            answer["rank"] = decided.ranks[place] if decided else None
        notes = [(one.annotator, one.note) for one in said if one.note]
        return self._page(
            request, "adjudicate.html", title=f"Conflict {number}", shown=shown, answers=answers, notes=notes,
            note=decided.note if decided else "", guideline=self.settings.guideline,
        )  # fmt: skip

    async def decide(self, request: Request) -> Response:
        self.desk.decide(web.named(request), await web.form(request))
        return RedirectResponse("/adjudicate", 303)

    async def finish(self, request: Request) -> Response:
        if not self.settings.waits:
            raise HTTPException(404, "Nothing waits for these rankings.")
        self.finished = True
        return self._page(request, "message.html", title="Thank you", said="The run goes on with what has been ranked.")

    def _show(self, request: Request, shown: desk.Shown) -> Response:
        own = self.desk.store.judgements(web.named(request))
        return self._page(
            request, "rank.html", title="Rank", shown=shown, answers=shown.answers(),
            done=sum(not said.again for said in own), total=len(self.desk.keys), any_before=bool(own),
            ranked=len(self.desk.store.counts()) if self.desk.votes else None,
            changes=shown.said is not None, skipped=shown.said is not None and shown.said.ranks is None,
            note=shown.said.note if shown.said else "", opened=desk.tick(), guideline=self.settings.guideline,
        )  # fmt: skip

    def _all_done(self, request: Request) -> Response:
        return self._page(request, "done.html", title="All done", total=len(self.desk.keys))

    async def _results(self, request: Request, written: str = "") -> Response:
        store = self.desk.store
        judgements = store.judgements()
        records = export.rankings(store.all_items(), judgements, store.decisions(), apart=self.settings.apart)
        said = await run_in_threadpool(export.summary, store, judgements, len(records))
        return self._page(
            request, "results.html", title="Results", said=said, written=written, apart=self.settings.apart,
            waits=self.settings.waits,
        )  # fmt: skip

    def _page(self, request: Request, name: str, **values) -> Response:
        return web.page(
            name, heading="icegrt rank", me=web.named(request), leads=request.scope["role"] == access.LEAD,
            criteria=CRITERIA, scale=range(LOWEST, HIGHEST + 1), **values,
        )  # fmt: skip


def named(endpoint: Endpoint) -> Endpoint:
    """For whoever has given a name; all others are asked for it."""

    @functools.wraps(endpoint)
    async def asked(request: Request) -> Response:
        return await endpoint(request) if web.named(request) else RedirectResponse("/", 303)

    return asked


def lead(endpoint: Endpoint) -> Endpoint:
    """For whoever has the lead's token: annotators do not see what others say."""

    @functools.wraps(endpoint)
    async def asked(request: Request) -> Response:
        if request.scope["role"] != access.LEAD:
            raise HTTPException(
                403, "Not allowed: this page is for whoever leads the annotation, at the other address."
            )
        return await endpoint(request)

    return asked
