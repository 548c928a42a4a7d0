"""Pages of the viewer, and the checks of requests for them.

A page needs the token and this very address, and shows only runs that are listed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harness import UsageError
from harness.internals import FolderError, ForeignFolder, printable, read_events, reporting_write_errors
from harness_report import comparison, page, reading
from harness_report import formatting as spelt
from harness_view.labels import DRAW_KINDS, RANDOM, LabelId, LabelQueue, label_queues
from harness_view.live import live_parts
from harness_view.runs import REPORT, Runs

PAGE_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"  # the rest is in the page itself
# a file of a run's folder may be anybody's: no origin of ours
REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'none'"
MAX_FORM_BYTES = 100_000  # bytes of a form
MAX_ANSWER_CHARS = 100_000  # characters of an answer
REFRESH_INTERVAL_S = 1.0  # seconds between two looks at a run
PAIR, MET = {"1": "First is better", "2": "Second is better", "0": "A tie"}, {"1": "Met", "2": "Not met"}  # the keys


class HostCheck:
    """Middleware that refuses requests from outside the viewer's own pages.

    These have another Host or Origin, or lack the token.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str) -> None:
        self.app, self.hosts, self.token = app, hosts, token
        self.cookie = f"harness-view-{min(hosts).rpartition(':')[2]}"  # cookies do not tell ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", PAGE_POLICY)
                headers.update({"x-content-type-options": "nosniff", "cache-control": "no-store"})
                headers.update({"referrer-policy": "same-origin", "cross-origin-resource-policy": "same-origin"})
            await send(message)

        answer = self.refused(Request(scope)) or self.app
        await answer(scope, receive, safe)

    def refused(self, request: Request) -> Response | None:
        """Return the response in place of a page, or None.

        The right token in the address becomes a cookie, by a redirect.
        """
        given, origins = (request.headers.getlist(name) for name in ("host", "origin"))
        if len(given) != 1 or given[0] not in self.hosts:
            return PlainTextResponse("this server has another address", HTTPStatus.MISDIRECTED_REQUEST)
        own = origins == [f"http://{given[0]}"]
        if not own and (origins or request.method not in ("GET", "HEAD")):
            return PlainTextResponse("only the pages of harness view may do this", HTTPStatus.FORBIDDEN)
        if not _is_same_token(request.cookies.get(self.cookie, ""), self.token):
            if not _is_same_token(request.query_params.get("token", ""), self.token):
                return PlainTextResponse("open the address that harness view printed", HTTPStatus.UNAUTHORIZED)
            entered = RedirectResponse("/", HTTPStatus.SEE_OTHER)
            entered.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return entered
        return None


def _is_same_token(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


class Pages:
    """Handlers of the pages.

    A run's folder is looked up among those that exist, and never made of a path.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def list(self, request: Request) -> Response:
        """Every run."""
        return _render_html_response(
            "list.html", "Runs", name=self.runs.folder.resolve().name, runs=self.runs.list_runs()
        )

    def run(self, request: Request) -> Response:
        """Return the report from a run's folder, or its progress so far."""
        folder = self._require_run_folder(request.path_params["name"])
        if not (folder / REPORT).exists():
            found = read_events(folder)
            watched = found.running is not False
            return _render_html_response(
                "watch.html", found.run.suite, name=folder.name, watched=watched, **live_parts(found)
            )
        try:
            content = ForeignFolder(folder).read(page.FILE)
            return _make_report_response(content.decode("utf-8", "replace"))
        except FolderError as error:
            if not error.missing:
                raise UsageError(f"{error.problem}; remove it") from None
            kept = reading.read_folder(folder)
            return _make_report_response(page.render_run(kept, reading.previous_run(kept)))

    async def events(self, request: Request) -> Response:
        """A run as it goes, for as long as it goes."""
        folder = self._require_run_folder(request.path_params["name"])
        await run_in_threadpool(read_events, folder)
        return StreamingResponse(_iterate_server_sent_events(folder), media_type="text/event-stream")

    def compare(self, request: Request) -> Response:
        """Two runs beside each other, the later one first."""
        names = request.query_params.getlist("run")
        if len({*names}) != 2:
            raise UsageError(f"{len({*names})} runs are selected; select two")
        runs = [reading.read_folder(self._require_run_folder(name)) for name in names]
        before, now = sorted(runs, key=lambda kept: kept.run.started)
        return _make_report_response(comparison.render_comparison(now, before, []))

    def label(self, request: Request) -> Response:
        """Return the next label question, or a form for the person's name."""
        name, asked = request.path_params["name"], request.query_params
        items = label_queues(self._require_run_folder(name))
        given = {"run": name, "items": items, "draws": DRAW_KINDS, "by": asked.get("by", "").strip()}
        if not given["by"]:
            return _render_html_response("label.html", "Label", name=name, queue=None, **given)
        queue = _require_label_queue(items, dict(asked))
        question = queue.next(given["by"])
        given |= {
            "item": asked["item"],
            "queue": queue,
            "standing": [*map(printable, queue.progress_lines())],
            "q": question,
        }
        if question:  # blind: nothing of whose answer it is, or what the judge said
            answers = [spelt.make_excerpt(answer, MAX_ANSWER_CHARS) for answer in question.answers]
            given |= {
                "prompt": spelt.make_excerpt(question.prompt, MAX_ANSWER_CHARS),
                "reference": spelt.make_excerpt(question.reference, MAX_ANSWER_CHARS),
            }
            given |= {"answers": answers[::-1] if question.is_baseline_first(given["by"]) else answers}
            given |= {"buttons": list((MET if question.criterion else PAIR).items())}
        return _render_html_response("label.html", "Label", name=name, **given)

    async def labelled(self, request: Request) -> Response:
        """Write a label, and ask on."""
        size = request.headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MAX_FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        said = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
        name = request.path_params["name"]
        await run_in_threadpool(self._write, name, said)
        again = {key: said[key] for key in ("item", "drawn", "by")}
        return RedirectResponse(f"/label/{quote(name, safe='')}?{urlencode(again)}", HTTPStatus.SEE_OTHER)

    def _write(self, name: str, said: dict[str, str]) -> None:
        queue, by = _require_label_queue(label_queues(self._require_run_folder(name)), said), said.get("by", "").strip()
        question = queue.questions.get(LabelId(said.get("id", ""), said.get("criterion", "")))
        if not by or question is None or said.get("pressed") not in (MET if question.criterion else PAIR):
            raise UsageError("this is not a label of this run; go back and try again")
        with reporting_write_errors(queue.path, "; free space and try again"):
            queue.add(question, said["pressed"], by)

    def _require_run_folder(self, name: str) -> Path:
        if folder := self.runs.run_folders().get(name):
            return folder
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such run")


def _require_label_queue(items: dict[str, dict[str, LabelQueue]], said: dict[str, str]) -> LabelQueue:
    try:
        return items[said["item"]][said.setdefault("drawn", RANDOM)]
    except KeyError:
        raise UsageError("this is not a judged item of this run; go back and choose one") from None


async def _iterate_server_sent_events(folder: Path) -> AsyncIterator[str]:
    """Yield the part that changes whenever it does, and the end."""
    last = ""
    while True:
        found = await run_in_threadpool(read_events, folder)
        html = page.make_environment("harness_view").get_template("seen.html").render(**live_parts(found))
        if html != last:
            yield "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
        last = html
        if found.ended or found.running is False:
            yield "event: end\ndata:\n\n"
            return
        await asyncio.sleep(REFRESH_INTERVAL_S)


def _render_html_response(template: str, title: str, **given: Any) -> Response:
    return HTMLResponse(page.fill_template(template, "harness_view", "view.js", title=printable(title), **given))


def _make_report_response(html: str) -> Response:
    return HTMLResponse(html, headers={"content-security-policy": REPORT_POLICY})


async def _make_bad_request_response(request: Request, error: Exception) -> Response:
    return PlainTextResponse(printable(str(error)), HTTPStatus.BAD_REQUEST)


def make_app(runs: Runs, hosts: frozenset[str], token: str) -> ASGIApp:
    """Return the application for some names of this server."""
    pages = Pages(runs)
    routes = [
        Route("/", pages.list),
        Route("/compare", pages.compare),
        Route("/run/{name}", pages.run),
        Route("/run/{name}/events", pages.events),
        Route("/label/{name}", pages.label),
        Route("/label/{name}", pages.labelled, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={UsageError: _make_bad_request_response})
    app.router.redirect_slashes = False
    return HostCheck(app, hosts, token)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server that runs until the process is interrupted."""
    quiet: dict[str, Any] = {"log_level": "error", "access_log": False}
    return uvicorn.Server(uvicorn.Config(app, **quiet, ws="none", lifespan="off", timeout_graceful_shutdown=1))
