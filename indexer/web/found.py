"""What was said that has some words in it, as the search page shows it."""

from __future__ import annotations

from itertools import pairwise

from .. import fulltext, projects, search, zones
from ..errors import BadInput
from ..output import printable
from ..store import snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

    Row = dict[str, Any]

MOST = 50


def read(connection: sqlite3.Connection, text: str) -> Row:
    """The best MOST messages: `sessions` with `session_id`, `title`, `project`, `label` and `hits`.

    A hit has `id` (the message's in the index), `at`, `at_local`, `what` (the tool, or who said it) and `parts`: texts,
    each with whether it is what was looked for.

    Raises BadInput: there is no word in the text, or no full-text index yet.
    """
    match, phrases = search.parse(text)
    if fulltext.kept(connection) is None:
        raise BadInput("There is no full-text index yet: run `cm search` with any word once.")
    zones.apply(connection)
    with snapshot(connection):
        found = search.find(connection, search.Query(match, phrases), MOST)
        labels = projects.labels(connection)
        when = zones.clock(connection)
    return {
        "count": len(found),
        "sessions": [
            {
                "session_id": rows[0]["session_id"],
                "title": printable(rows[0]["title"] or "Untitled session"),
                "project": rows[0]["project"] or "",
                "label": labels.get(rows[0]["project"], "no project"),
                "hits": [
                    {
                        "id": row["message_id"],
                        "at": row["at"],
                        "at_local": when(row["at"]),
                        "what": printable(row["tool"] or row["role"]),
                        "parts": list(_parts(row)),
                    }
                    for row in rows
                ],
            }
            for rows in search.by_session(found)
        ],
    }


def _parts(row: Row) -> Iterator[tuple[str, bool]]:
    text, inside = row["snippet"], {tuple(span) for span in row["highlights"]}
    edges = sorted({0, len(text), *(edge for span in inside for edge in span)})
    for span in pairwise(edges):
        yield printable(text[slice(*span)]), span in inside
