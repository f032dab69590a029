"""The Datasette plugin: what cm hooks into Datasette 0.65 and 1.0 alike. It keeps quiet where no index is served.

Templates stand in templates/cm and are called cm/….html, so that none takes the place of one of Datasette's.
"""

from __future__ import annotations

import os
import re
import sqlite3
from datetime import UTC, datetime
from urllib.parse import quote

from datasette import hookimpl
from jinja2 import ChoiceLoader, FileSystemLoader
from markupsafe import Markup

from ..errors import IndexUnusable
from . import endpoints, guard, metadata, pages, served, uncounted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from datasette.app import Datasette
    from jinja2 import Environment

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
# Bytes of the longest text or blob: above what any line of a transcript has had.
LONGEST = 100_000_000
# Columns that are times, and how many of their units make a second.
TIMES = {r"at|\w+_at|valid_from|valid_until": 1000, r"mtime_ns|checked_ns": 10**9}
YEAR_10000 = 253_402_300_800


@hookimpl
def asgi_wrapper(datasette: Datasette) -> Callable[[guard.App], guard.App]:
    index = served.find(datasette)
    if index is None:
        return lambda app: app
    return lambda app: guard.wrap(datasette, uncounted.wrap(datasette, index, app))


@hookimpl
def register_routes(datasette: Datasette) -> list[tuple[str, Any]]:
    return [*pages.ROUTES, *endpoints.ROUTES] if served.find(datasette) is not None else []


@hookimpl
def prepare_jinja2_environment(env: Environment, datasette: Datasette) -> None:
    if served.find(datasette) is None:
        return
    env.loader = ChoiceLoader([*filter(None, [env.loader]), FileSystemLoader(TEMPLATES)])
    env.add_extension(guard.Nonces)
    env.globals |= {
        "csp_nonce": guard.nonce,
        "cm_static": lambda name: datasette.urls.path(endpoints.static_url(name)),
    }


@hookimpl
def startup(datasette: Datasette) -> Awaitable[None] | None:
    from datasette import handle_exception  # not before the plugins of which it is one

    index = served.find(datasette)
    if index is None:
        return None
    # Else rich prints the stack with all its variables, on stdout, for every page that is not there.
    handle_exception.rich = None
    # `datasette cm.db` is to be as fast as `cm serve`, and to show what that shows.
    datasette._settings |= metadata.SETTINGS
    datasette.sql_time_limit_ms = metadata.SETTINGS["sql_time_limit_ms"]
    has_database = hasattr(datasette, "set_column_metadata")  # 1.0
    return metadata.install(datasette, index.name, str(index.path)) if has_database else None


@hookimpl(optionalhook=True)  # 0.65
def get_metadata(datasette: Datasette) -> dict[str, Any]:
    index = served.find(datasette)
    if index is None:
        return {}
    try:
        return {"databases": {index.name: metadata.of(str(index.path))}}
    except IndexUnusable:
        return {}


@hookimpl(optionalhook=True)  # 0.65
def canned_queries(datasette: Datasette, database: str) -> dict[str, Any]:
    index = served.find(datasette)
    return metadata.canned() if index is not None and database == index.name else {}


@hookimpl
def prepare_connection(conn: sqlite3.Connection, database: str, datasette: Datasette) -> None:
    # Datasette's time limit ends a query between two steps; it cannot end a function that makes a text of gigabytes.
    conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)


@hookimpl
def extra_css_urls(datasette: Datasette) -> list[str]:
    return [datasette.urls.path(endpoints.static_url("datasette.css"))] if served.find(datasette) is not None else []


@hookimpl
def menu_links(datasette: Datasette) -> list[dict[str, str]]:
    return [{"href": datasette.urls.instance(), "label": "cm"}] if served.find(datasette) is not None else []


@hookimpl
def render_cell(value: Any, column: str, database: str, datasette: Datasette) -> Markup | None:
    """What people read: dates for milliseconds, and sessions as links. What programs get stays what it is."""
    index = served.find(datasette)
    if index is None or database != index.name:
        return None
    if column == "session_id" and isinstance(value, str) and value:
        address = datasette.urls.path(f"/-/cm/session/{quote(value, safe='')}")
        return Markup('<a href="{}">{}</a>').format(address, value)
    units = next((units for names, units in TIMES.items() if re.fullmatch(names, column)), 0)
    return _time(value, units) if units and type(value) is int else None


def _time(value: int, units: int) -> Markup | None:
    """A time in so many units a second; None: it stands for always."""
    if not 0 < value // units < YEAR_10000:
        return None
    when = datetime.fromtimestamp(value // units, UTC).isoformat().removesuffix("+00:00")
    return Markup('<time datetime="{0}Z" title="{1}">{0}.{2:03}Z</time>').format(
        when, value, value % units * 1000 // units
    )
