"""What programs ask for: the totals as JSON, the same for Prometheus, whether all is well, and the pages' files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from contextlib import closing
from functools import cache

from datasette.utils.asgi import Response

from .. import __version__, metrics, schema, store
from ..errors import IndexUnusable
from ..output import dumps
from . import exposition, served

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from datasette.app import Datasette
    from datasette.utils.asgi import Request

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
JSON = "application/json; charset=utf-8"
_LAST_REFRESH = """
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1000.0, 'unixepoch') AS started_at,
  seconds,
  CAST(strftime('%s', 'now') - started_at / 1000 AS INTEGER) AS age_seconds
FROM refreshes
ORDER BY id DESC
LIMIT 1
"""
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": JSON,
    ".map": JSON,
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


async def answer(
    datasette: Datasette,
    request: Request,
    key: Any,
    build: Callable[[sqlite3.Connection], bytes],
    content_type: str = JSON,
) -> Response:
    """A response that is built once for each state of the index; 304 for who has it already."""
    if request.method not in ("GET", "HEAD"):
        return Response.text("405: only GET\n", status=405, headers={"allow": "GET, HEAD"})
    try:
        found = await served.answers(datasette).get(key, build)
    except IndexUnusable as error:
        return Response(dumps({"error": str(error)}), status=503, content_type=JSON)
    headers = {"etag": found.etag, "cache-control": "private, no-cache"}
    if is_known(request, found.etag):
        return Response("", status=304, headers=headers, content_type=content_type)
    return Response(found.body, headers=headers, content_type=content_type)


def is_known(request: Request, etag: str) -> bool:
    """Whether who asks has that answer already."""
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return etag in tags or "*" in tags


async def stats(datasette: Datasette, request: Request) -> Response:
    """The object of `cm stats --json`."""
    return await answer(datasette, request, "stats", _stats)


def _stats(connection: sqlite3.Connection) -> bytes:
    return (dumps(metrics.from_index(connection), indent=True) + "\n").encode()


async def prometheus(datasette: Datasette, request: Request) -> Response:
    """The same and more for Prometheus."""
    return await answer(datasette, request, "metrics", _prometheus, exposition.CONTENT_TYPE)


def _prometheus(connection: sqlite3.Connection) -> bytes:
    (path,) = (file for _, name, file in connection.execute("PRAGMA database_list") if name == "main")
    return exposition.text(connection, path).encode()


async def health(datasette: Datasette, request: Request) -> Response:
    """How old the index is: 200, or 503 while it is not complete or cannot be read."""
    body = await asyncio.to_thread(_health, served.answers(datasette).path)
    status = 200 if body["status"] == "ok" else 503
    return Response(dumps(body), status, {"cache-control": "no-store"}, content_type=JSON)


def _health(path: str) -> dict[str, Any]:
    about = {"version": __version__, "schema_version": schema.VERSION}
    try:
        with closing(store.open_reader(path)) as connection:
            is_loading = connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is not None
            last = store.fetch_dicts(connection, _LAST_REFRESH)
    except (IndexUnusable, sqlite3.Error) as error:
        return {"status": "unusable", **about, "error": str(error)}
    return {"status": "loading" if is_loading else "ok", **about, "last_refresh": last[0] if last else None}


async def static(datasette: Datasette, request: Request) -> Response:
    """A file of the pages. With its version in the address a browser keeps it for good."""
    name = request.url_vars["name"]
    if name not in os.listdir(FOLDER):
        return Response.text("404: there is no such file\n", status=404)
    body, etag = _file(os.path.join(FOLDER, name), os.stat(os.path.join(FOLDER, name)).st_mtime_ns)
    is_versioned = request.args.get("v") == etag.strip('"')
    headers = {"etag": etag, "cache-control": f"private, max-age={31_536_000 if is_versioned else 0}"}
    kind = _KINDS.get(os.path.splitext(name)[1], "application/octet-stream")
    if is_known(request, etag):
        return Response("", status=304, headers=headers, content_type=kind)
    return Response(body, headers=headers, content_type=kind)


def static_url(name: str) -> str:
    """The path of a file of the pages, with its version; a template says `{{ cm_static("app.css") }}`."""
    path = os.path.join(FOLDER, name)
    version = _file(path, os.stat(path).st_mtime_ns)[1].strip('"')
    return f"/-/cm/static/{name}?v={version}"


@cache
def _file(path: str, mtime_ns: int) -> tuple[bytes, str]:
    with open(path, "rb") as file:
        body = file.read()
    return body, f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'


ROUTES = [
    (r"^/-/cm/stats\.json$", stats),
    (r"^/-/cm/metrics$", prometheus),
    (r"^/-/cm/health$", health),
    (r"^/-/cm/static/(?P<name>[\w.-]+)$", static),
]
