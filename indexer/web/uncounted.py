"""Views without the count of their rows: Datasette 0.65 works out the whole of a view to count it.

That takes as long again as to show it, or longer where only its first rows are shown. 1.0 stops counting at 10,000.
"""

from __future__ import annotations

import re
from contextlib import closing
from urllib.parse import parse_qs

from .. import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datasette.app import Datasette
    from datasette.database import Database

    from .guard import App, Receive, Scope, Send


def wrap(datasette: Datasette, index: Database, app: App) -> App:
    """The app, asked to leave the count where a page is one of a view."""
    if hasattr(datasette, "set_column_metadata"):  # 1.0
        return app
    with closing(store.connect(str(index.path))) as connection:
        views = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
    page = re.compile(f"{re.escape(datasette.urls.database(index.name))}/({'|'.join(views)})")

    async def without_count(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and page.fullmatch(scope["path"]) and not _asks_for_count(scope["query_string"]):
            scope = {**scope, "query_string": b"&".join(filter(None, [scope["query_string"], b"_nocount=1"]))}
        await app(scope, receive, send)

    return without_count


def _asks_for_count(query: bytes) -> bool:
    return "_nocount" in parse_qs(query.decode("latin-1"), keep_blank_values=True)
