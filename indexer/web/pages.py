"""The pages: their addresses and what they show."""

from __future__ import annotations

import asyncio
import time

import orjson
from datasette.utils.asgi import Response

from .. import __version__
from ..errors import BadInput, IndexUnusable
from ..output import dumps
from . import dashboard, endpoints, found, metadata, served, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

    from datasette.app import Datasette
    from datasette.utils.asgi import Request

# Numbers that depend on the time, of today or of the running block, are at most so old while nothing is indexed.
_FRESH_SECONDS = 300


async def page(datasette: Datasette, request: Request) -> Response:
    """The page at `/`: an empty frame, which asks for its numbers."""
    return Response.html(await datasette.render_template("cm/page.html", _frame(datasette, "page"), request))


async def page_json(datasette: Datasette, request: Request) -> Response:
    """The numbers of the page for the choices in the query; 400 with the reason if there are none."""
    wanted = dashboard.Wanted(
        request.args.get("since"),
        request.args.get("until"),
        tuple(request.args.getlist("project")),
        tuple(request.args.getlist("model")),
        hosts=tuple(request.args.getlist("host")),
    )

    def build(connection: sqlite3.Connection) -> bytes:
        return dumps(dashboard.numbers(connection, wanted)).encode()

    try:
        return await endpoints.answer(datasette, request, ("page", wanted, time.time() // _FRESH_SECONDS), build)
    except BadInput as error:
        return Response(dumps({"error": str(error)}), status=400, content_type=endpoints.JSON)


async def session_page(datasette: Datasette, request: Request) -> Response:
    """A session with its conversation; 404 with the reason where there is none."""
    wanted, number = request.url_vars["session"], request.args.get("page", "1")
    page = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1

    def build(connection: sqlite3.Connection) -> bytes:
        return dumps(session.read(connection, wanted, max(page, 1))).encode()

    context: dict[str, Any] = _frame(datasette)
    try:
        found = await served.answers(datasette).get(("session", wanted, page), build)
        context["session"], status = orjson.loads(found.body), 200
    except BadInput as error:
        context["problem"], status = str(error), 404
    return Response.html(await datasette.render_template("cm/session.html", context, request), status=status)


async def search_page(datasette: Datasette, request: Request) -> Response:
    """What was said that has the words of the query; where there is none, only the field for it."""
    text = (request.args.get("q") or "").strip()
    context: dict[str, Any] = _frame(datasette, "search") | {"text": text, "most": found.MOST}
    if text:

        def build(connection: sqlite3.Connection) -> bytes:
            return dumps(found.read(connection, text)).encode()

        try:
            answer = await served.answers(datasette).get(("search", text), build)
            context["found"] = orjson.loads(answer.body)
        except BadInput as error:
            context["problem"] = str(error)
    return Response.html(await datasette.render_template("cm/search.html", context, request))


async def tables_page(datasette: Datasette, request: Request) -> Response:
    """What can be asked: tables, views and named queries, those first that a person looks for."""
    index = served.find(datasette)
    files = [database.name for database in datasette.databases.values() if database.path and database is not index]
    context = _frame(datasette, "tables") | {
        "others": {name: datasette.urls.database(name) for name in files},
        "queries": {name: query["description"] for name, query in metadata.canned().items()},
    }
    try:
        context["groups"] = await asyncio.to_thread(metadata.grouped, served.answers(datasette).path)
    except IndexUnusable as error:
        context["problem"] = str(error)
    return Response.html(await datasette.render_template("cm/tables.html", context, request))


def _frame(datasette: Datasette, here: str = "") -> dict[str, Any]:
    """What every page has around its content; `here` is its name in the navigation."""
    index = served.find(datasette)
    return {
        "here": here,
        "version": __version__,
        "at": {
            "page": datasette.urls.path("/"),
            "json": datasette.urls.path("/-/cm/page.json"),
            "session": datasette.urls.path("/-/cm/session"),
            "search": datasette.urls.path("/-/cm/search"),
            "all_tables": datasette.urls.path("/-/cm/tables"),
            "tables": datasette.urls.database(index.name) if index is not None else "",
        },
    }


ROUTES: list[tuple[str, Any]] = [
    (r"^/$", page),
    (r"^/-/cm/page\.json$", page_json),
    (r"^/-/cm/search$", search_page),
    (r"^/-/cm/tables$", tables_page),
    (r"^/-/cm/session/(?P<session>[^/]+)$", session_page),
]
