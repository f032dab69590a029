"""The full-text index `search` over passages: made at the first search, kept up by every refresh from then on.

Until that first search it costs nothing. A refresh adds what it added, in the transaction that stores it.
"""

from __future__ import annotations

from .passages import INPUT, MESSAGE, RESULT, THINKING, of
from .store import fetch_dicts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from typing import Any

    from .sources import Source

    # Called with what is done and what there is to do.
    Progress = Callable[[int, int], None]

_BATCH = 20_000

_TABLE = """
CREATE VIRTUAL TABLE search USING fts5(
  text, about, content = 'searchable', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
)
"""
# Told by everything else, or said again and again: what was typed while Claude was at work comes as a prompt, too.
_UNSAID = """
SELECT id FROM record_types
WHERE
  type IN ('queue-operation', 'pr-link', 'agent-name', 'ai-title', 'custom-title')
  OR type = 'user' AND subtype = 'interruption'
"""
_MESSAGES = f"""
INSERT INTO {{into}}
SELECT r.id, {MESSAGE}
FROM {{source}} r.text IS NOT NULL AND r.type_id NOT IN ({_UNSAID})
"""
_INDEX = "INSERT INTO search (rowid, text, about) SELECT id, text, about FROM searchable WHERE id > ? AND id <= ?"
_LAST = "SELECT coalesce(max(id), 0) FROM search_docsize"
INSERT = "INSERT INTO passages (record_id, kind, tool, text) VALUES (?, ?, ?, ?)"


def kept(connection: sqlite3.Connection) -> frozenset[int] | None:
    """Kinds of passages that are kept; None before the first search."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'search'").fetchone()
    if row is None:
        return None
    import json  # which nobody needs before

    return frozenset(json.loads(row[0]))


def add(connection: sqlite3.Connection, spans: Sequence[tuple[int, int]]) -> None:
    """Indexes the records between these ids, first and last, and the passages of them that are stored already."""
    import json

    source = "json_each(?) AS s JOIN records AS r ON r.id BETWEEN s.value ->> 0 AND s.value ->> 1 WHERE"
    connection.execute(_MESSAGES.format(into="passages (record_id, kind)", source=source), (json.dumps(spans),))
    _index_new(connection)


def adopt(connection: sqlite3.Connection, records: str) -> None:
    """Indexes the records that a query names, which were taken over from elsewhere, and their passages."""
    source = f"records AS r WHERE r.id IN ({records}) AND"
    connection.execute(_MESSAGES.format(into="passages (record_id, kind)", source=source))
    _index_new(connection)


def _index_new(connection: sqlite3.Connection) -> None:
    (last,) = connection.execute(_LAST).fetchone()
    connection.execute(_INDEX, (last, 1 << 62))


def remove(connection: sqlite3.Connection, records: str, parameters: Any = ()) -> None:
    """Takes the records that a query names out of the search; before they are deleted, because FTS5 must be told what
    it is to forget."""
    (last,) = connection.execute(_LAST).fetchone()
    connection.execute(
        "INSERT INTO search (search, rowid, text, about)"
        " SELECT 'delete', s.id, s.text, s.about FROM passages AS p JOIN searchable AS s ON s.id = p.id"
        f" WHERE p.record_id IN ({records}) AND p.id <= {last}",
        parameters,
    )
    connection.execute(f"DELETE FROM passages WHERE record_id IN ({records})", parameters)


# The first time

# Where the passages that are not kept yet may stand.
_WANTED = {
    INPUT: "r.id IN (SELECT record_id FROM tool_uses)",
    RESULT: "r.id IN (SELECT record_id FROM tool_results)",
    THINKING: "r.block IS NOT NULL AND r.id NOT IN (SELECT record_id FROM tool_uses)",
}
_TO_READ = """
SELECT r.id, r.length, r.uuid, r.digest
FROM records AS r
JOIN record_types AS t ON t.id = r.type_id
JOIN contexts AS c ON c.id = r.context_id
WHERE t.type IN ('user', 'assistant') AND ({wanted}) AND c.session_id NOT IN (SELECT id FROM forgotten)
ORDER BY r.id
"""
# By time: where very many match, the newest of them are ranked.
_IN_ORDER = """
INSERT INTO passages (record_id, kind, tool, text)
SELECT f.record_id, f.kind, f.tool, f.text FROM temp.found AS f JOIN records AS r ON r.id = f.record_id
ORDER BY r.at, r.id
"""


def build(
    connection: sqlite3.Connection,
    kinds: frozenset[int],
    source: Source,
    mask: Callable[[str], str] = str,
    progress: Progress | None = None,
) -> None:
    """Makes the full-text index anew, of messages and of passages of these kinds. The caller holds the refresh lock.

    Args:
        source: what is not kept already is read from there; its `missing` says what could not be.
        mask: what is done to a text before it is stored.
    """
    had = kept(connection) or frozenset()
    execute = connection.execute
    execute("DELETE FROM meta WHERE key = 'search'")
    execute("DROP TABLE IF EXISTS search")
    execute("CREATE TEMP TABLE found (record_id INTEGER, kind INTEGER, tool TEXT, text TEXT)")
    stays = f"kind IN ({', '.join(map(str, sorted(kinds & had)))})"
    execute(f"INSERT INTO temp.found SELECT record_id, kind, tool, text FROM passages WHERE {stays}")
    _catch_up(connection, kinds - had, source, mask, progress)
    execute(_MESSAGES.format(into="temp.found (record_id, kind)", source="records AS r WHERE"))
    execute("DELETE FROM passages")
    execute(_IN_ORDER)
    execute("DROP TABLE temp.found")
    _fill(connection, progress)
    execute("INSERT INTO meta VALUES ('search', ?)", (f"[{', '.join(map(str, sorted(kinds)))}]",))


def _catch_up(
    connection: sqlite3.Connection,
    kinds: frozenset[int],
    source: Source,
    mask: Callable[[str], str],
    progress: Progress | None,
) -> None:
    wanted = " OR ".join(_WANTED[kind] for kind in sorted(kinds)) or "0"
    rows = fetch_dicts(connection, _TO_READ.format(wanted=wanted))
    for done, row in enumerate(rows, 1):
        record = source.record(row)
        if record is not None:
            found = [(*passage[:3], mask(passage[3])) for passage in of(record, row["id"], kinds)]
            connection.executemany(INSERT.replace("passages", "temp.found"), found)
        if progress is not None and done % 1000 == 0:
            progress(done, 2 * len(rows))


def _fill(connection: sqlite3.Connection, progress: Progress | None) -> None:
    """In batches, so that the log of a large history does not grow with it."""
    connection.execute(_TABLE)
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM passages").fetchone()
    for start in range(0, last, _BATCH):
        connection.execute(_INDEX, (start, start + _BATCH))
        if progress is not None:
            progress(last + min(start + _BATCH, last), 2 * last)
