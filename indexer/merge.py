"""Another machine's index into this one: its transcripts as that machine knew them, and what derives from all.

attach read-only → which generations of transcripts are new, or further on, than here → their rows, with the file ids
of this index → what a later state of a host has no more → derive responses, tool calls and sessions

Only the machine that a transcript is on reads it, so of two states of a host the later one is right. Which generation
is which, `files.identity` tells in every index that has it. So it is all the same in which order indexes are merged,
how often, and over which others their rows came. Nothing is lost on the way: a generation that the later state of its
host has no more (it was read again, or the index was made anew) goes only as far as its records stand in that state.
"""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager

from . import accounting, erasure, fulltext, hosts, prices, rows, schema, store
from .batch import OFFSET_BITS
from .errors import BadInput, IndexUnusable
from .writer import BULK_PRAGMAS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# What a generation is read up to.
_CHECKPOINT = (
    "size, mtime_ns, offset, head_hash, tail_hash, line_count, indexed_lines, tail, session_id, first_at, last_at,"
    " parser_version"
)
# Where it is, and what became of it.
_PLACE = "root, path, device, inode, checked_ns, gone_at, error"
_TEMPORARY = (
    # is_later: the other index knows a later state of the host. as_of in milliseconds: of the later of both.
    "merged_hosts (other_id INTEGER PRIMARY KEY, id INTEGER, is_later INTEGER, as_of INTEGER)",
    # start: offset from which on the other index's records count.
    "merged_files (other_id INTEGER PRIMARY KEY, id INTEGER, host_id INTEGER, is_new INTEGER, is_later INTEGER,"
    " has_records INTEGER, start INTEGER)",
    "merged_records (old INTEGER PRIMARY KEY, new INTEGER)",
    "outdated (id INTEGER PRIMARY KEY, as_of INTEGER)",
    "standing (host_id INTEGER, session_id INTEGER, same, length INTEGER)",
    "repeated (id INTEGER PRIMARY KEY)",
)


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


def _copy(table: str, key: str) -> str:
    """Copies the rows of a table that belong to the records taken over."""
    columns = rows.FACTS[table]
    values = ", ".join("n.new" if column == key else f"r.{column}" for column in columns.split(", "))
    return (
        f"INSERT INTO main.{table} ({columns}) SELECT {values}"
        f" FROM temp.merged_records AS n CROSS JOIN other.{table} AS r ON r.{key} = n.old"
    )


# Known generations: changed in a later state of their host, or read further than here. What this machine can still
# read itself is its own.
_KNOWN_FILES = f"""
INSERT INTO temp.merged_files
SELECT
  f.id, m.id, h.id, 0, h.is_later AND m.host_id <> {hosts.THIS},
  f.offset > m.offset OR h.is_later AND m.host_id <> {hosts.THIS} AND f.offset = m.offset, m.offset
FROM other.files AS f
JOIN temp.merged_hosts AS h ON h.other_id = f.host_id
JOIN main.files AS m ON m.identity = f.identity
WHERE
  h.is_later AND m.host_id <> {hosts.THIS}
  AND (f.offset, f.size, h.id, f.replaced_at, {_of("f", _PLACE)})
  IS NOT (m.offset, m.size, m.host_id, m.replaced_at, {_of("m", _PLACE)})
  OR f.offset > m.offset AND (m.host_id <> {hosts.THIS} OR coalesce(m.gone_at, m.replaced_at) IS NOT NULL)
"""
_NEW_FILES = """
INSERT INTO temp.merged_files
SELECT
  f.id, (SELECT coalesce(max(id), 0) FROM main.files) + row_number() OVER (ORDER BY f.id), h.id, 1, h.is_later, 1, 0
FROM other.files AS f
JOIN temp.merged_hosts AS h ON h.other_id = f.host_id
WHERE NOT EXISTS (SELECT 1 FROM main.files AS m WHERE m.identity = f.identity)
"""
# Generations that the later of both states of their host does not have.
_OUTDATED = """
INSERT INTO temp.outdated
SELECT m.id, h.as_of
FROM main.files AS m
JOIN temp.merged_hosts AS h ON h.id = m.host_id AND h.is_later
WHERE NOT EXISTS (SELECT 1 FROM other.files AS f WHERE f.identity = m.identity)
UNION ALL
SELECT g.id, h.as_of
FROM temp.merged_files AS g
JOIN temp.merged_hosts AS h ON h.id = g.host_id
WHERE g.is_new AND NOT g.is_later
"""
# A path has one current generation at any time: those that will not be current, or get another path, step back first.
_STEP_BACK = """
UPDATE files SET replaced_at = coalesce(replaced_at, (SELECT as_of FROM temp.outdated AS o WHERE o.id = files.id), 0)
WHERE id IN (SELECT id FROM temp.outdated UNION SELECT id FROM temp.merged_files WHERE is_later)
"""
_UPDATE_PLACES = f"""
UPDATE files SET (host_id, replaced_at, {_PLACE}) = (g.host_id, f.replaced_at, {_of("f", _PLACE)})
FROM temp.merged_files AS g
JOIN other.files AS f ON f.id = g.other_id
WHERE g.id = files.id AND g.is_later
"""
_UPDATE_CHECKPOINTS = f"""
UPDATE files SET ({_CHECKPOINT}) = ({_of("f", _CHECKPOINT)})
FROM temp.merged_files AS g
JOIN other.files AS f ON f.id = g.other_id
WHERE g.id = files.id AND g.has_records
"""
_INSERT_FILES = f"""
INSERT INTO files (id, host_id, identity, {_CHECKPOINT}, {_PLACE}, replaced_at)
SELECT g.id, g.host_id, f.identity, {_of("f", _CHECKPOINT)}, {_of("f", _PLACE)}, coalesce(f.replaced_at, o.as_of)
FROM temp.merged_files AS g
JOIN other.files AS f ON f.id = g.other_id
LEFT JOIN temp.outdated AS o ON o.id = g.id
WHERE g.is_new
"""
# What is not to come, does not come here.
_MERGED_RECORDS = f"""
INSERT INTO temp.merged_records
SELECT r.id, r.id + ((g.id - g.other_id) << {OFFSET_BITS})
FROM temp.merged_files AS g
CROSS JOIN other.records AS r ON
  r.id >= (g.other_id << {OFFSET_BITS}) + g.start AND r.id < (g.other_id + 1) << {OFFSET_BITS}
WHERE g.has_records
"""
# What this index has of the same bytes: the last line, which had no newline yet.
_SUPERSEDED = f"""
SELECT r.id
FROM temp.merged_files AS g
CROSS JOIN main.records AS r ON r.id >= (g.id << {OFFSET_BITS}) + g.start AND r.id < (g.id + 1) << {OFFSET_BITS}
WHERE g.has_records AND NOT g.is_new
"""
_SUPERSEDED_LINES = f"""
DELETE FROM skipped_lines WHERE id IN (
  SELECT s.id
  FROM temp.merged_files AS g
  CROSS JOIN main.skipped_lines AS s ON
    s.id >= (g.id << {OFFSET_BITS}) + g.start AND s.id < (g.id + 1) << {OFFSET_BITS}
  WHERE g.has_records AND NOT g.is_new
)
"""
# A path decides between copies that agree in all else.
_MOVED = f"""
SELECT r.id
FROM temp.merged_files AS g
CROSS JOIN main.records AS r ON r.id >= g.id << {OFFSET_BITS} AND r.id < (g.id + 1) << {OFFSET_BITS}
WHERE g.is_later AND NOT g.is_new
"""
_DICTIONARIES = (
    "INSERT OR IGNORE INTO record_types SELECT * FROM other.record_types",
    "INSERT OR IGNORE INTO contexts SELECT * FROM other.contexts WHERE id IN ("
    " SELECT r.context_id FROM temp.merged_records AS n JOIN other.records AS r ON r.id = n.old)",
    "INSERT OR IGNORE INTO sessions (id, session_id) SELECT id, session_id FROM other.sessions WHERE id IN ("
    " SELECT session_id FROM main.contexts UNION SELECT session_id FROM main.files)",
    f"INSERT INTO agents ({rows.AGENT_COLUMNS}) SELECT {rows.AGENT_COLUMNS} FROM other.agents"
    f" WHERE session_id IN (SELECT id FROM main.sessions){rows.BETTER_AGENT}",
)
_SKIPPED_LINES = f"""
INSERT INTO skipped_lines (id, line, length, reason, is_partial)
SELECT s.id + ((g.id - g.other_id) << {OFFSET_BITS}), s.line, s.length, s.reason, s.is_partial
FROM temp.merged_files AS g
CROSS JOIN other.skipped_lines AS s ON
  s.id >= (g.other_id << {OFFSET_BITS}) + g.start AND s.id < (g.other_id + 1) << {OFFSET_BITS}
WHERE g.has_records
"""

# Records of the hosts' current states, in the sessions that outdated generations have a part in.
_STANDING = f"""
INSERT INTO temp.standing
SELECT DISTINCT f.host_id, c.session_id, coalesce(r.uuid, r.digest), r.length
FROM contexts AS c
JOIN records AS r ON r.context_id = c.id
JOIN files AS f ON f.id = r.id >> {OFFSET_BITS}
WHERE
  f.id NOT IN (SELECT id FROM temp.outdated)
  AND c.session_id IN (
    SELECT x.session_id
    FROM temp.outdated AS o
    CROSS JOIN records AS y ON y.id >= o.id << {OFFSET_BITS} AND y.id < (o.id + 1) << {OFFSET_BITS}
    JOIN contexts AS x ON x.id = y.context_id
  )
"""
_REPEATED = f"""
INSERT INTO temp.repeated
SELECT r.id
FROM temp.outdated AS o
JOIN files AS f ON f.id = o.id
CROSS JOIN records AS r ON r.id >= o.id << {OFFSET_BITS} AND r.id < (o.id + 1) << {OFFSET_BITS}
JOIN contexts AS c ON c.id = r.context_id
WHERE EXISTS (
  SELECT 1
  FROM temp.standing AS s
  WHERE
    s.session_id = c.session_id AND s.same = coalesce(r.uuid, r.digest) AND s.length = r.length
    AND s.host_id = f.host_id
)
"""
_EMPTY_FILES = f"""
SELECT o.id
FROM temp.outdated AS o
WHERE NOT EXISTS (
  SELECT 1 FROM records AS r WHERE r.id >= o.id << {OFFSET_BITS} AND r.id < (o.id + 1) << {OFFSET_BITS}
)
"""
_COUNTS = """
SELECT
  (SELECT count(*) FROM temp.merged_files WHERE is_new) AS files_added,
  (SELECT count(*) FROM temp.merged_files WHERE NOT is_new AND has_records) AS files_updated,
  (SELECT count(*) FROM temp.merged_records) AS records_added
"""


def merge(other: str, path: str) -> dict[str, Any]:
    """Takes over what another index has more; the object that `cm merge --json` prints of it.

    Args:
        other: the other machine's index, or a copy of it; it is only read.
        path: this index, which a refresh has made.

    Raises:
        BadInput: both are the same. IndexUnusable: the other is none, is not complete, or a newer cm made it.
    """
    started = time.perf_counter()
    _check_is_another(other, path)
    with store.Lock(path, wait=True), ExitStack() as stack:
        for left in glob.glob(f"{glob.escape(path)}.merge-*"):  # by a merge that was killed
            shutil.rmtree(left)
        source = stack.enter_context(_readable(other, path))
        connection = stack.enter_context(closing(store.open_writer(path)))
        try:
            found = _merge(connection, source)
        except sqlite3.Error as error:
            raise store.explain(other if "malformed" in str(error) else path, error) from error
    return {"database": store.display_path(other), **found, "seconds": time.perf_counter() - started}


def _check_is_another(other: str, path: str) -> None:
    if not os.path.isfile(other):
        raise BadInput(f"{other}: there is no such file; name another machine's index, such as a copy of its cm.db")
    if os.path.samefile(other, path):
        raise BadInput(f"{other} is this index itself; name another machine's")


@contextmanager
def _readable(other: str, path: str) -> Iterator[str]:
    """What this code can attach: the other index, or a copy of an older one, migrated."""
    # Where SQLite cannot put the files of its WAL mode it reads only what is known not to change.
    is_fixed = not os.access(os.path.dirname(os.path.abspath(other)), os.W_OK) and not os.path.exists(f"{other}-wal")
    found = store.uri(os.path.abspath(other), "ro&immutable=1" if is_fixed else "ro")
    try:
        with closing(sqlite3.connect(found, uri=True, timeout=store.BUSY_SECONDS)) as connection:
            if _version(connection, other) == schema.VERSION:
                yield found
                return
            beside, name = os.path.split(path)
            with tempfile.TemporaryDirectory(prefix=f"{name}.merge-", dir=beside) as folder:
                copy = os.path.join(folder, "other.db")
                _migrated(connection, copy)
                yield store.uri(copy, "ro")
    except sqlite3.Error as error:
        raise store.explain(other, error) from error


def _version(connection: sqlite3.Connection, other: str) -> int:
    """The schema of the other index. Raises IndexUnusable."""
    found = schema.version(connection)
    if found > schema.VERSION:
        raise IndexUnusable(f"{other} was made by a newer cm (schema {found}, this is {schema.VERSION}): update cm")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not found or not tables >= schema.OURS:
        raise IndexUnusable(f"{other} is not an index of cm; name another machine's cm.db")
    if connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone():
        raise IndexUnusable(f"{other}: its first refresh has not completed; run `cm refresh` there")
    return found


def _migrated(connection: sqlite3.Connection, copy: str) -> None:
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(copy, isolation_level=None)) as target:
        connection.backup(target)
        schema.migrate(target)


def _merge(connection: sqlite3.Connection, source: str) -> dict[str, Any]:
    # What is added goes everywhere: by digest, not to the end.
    connection.executescript(f"{BULK_PRAGMAS} PRAGMA cache_size = -32768; {accounting.TOUCHED}")
    # What must not be stored comes along and is taken out at the end: nothing of it is to be left in free space.
    connection.execute("PRAGMA secure_delete = ON")
    for table in _TEMPORARY:
        connection.execute(f"DROP TABLE IF EXISTS temp.{table.partition(' ')[0]}")
        connection.execute(f"CREATE TEMP TABLE {table}")
    connection.execute("CREATE INDEX temp.standing_same ON standing (session_id, same)")
    connection.execute("ATTACH ? AS other", (source,))
    # One transaction: the other index is read as it is at one moment, and this one changes at one.
    found: dict[str, Any] = store.transaction(connection, lambda: _take_over(connection))
    return found


def _take_over(connection: sqlite3.Connection) -> dict[str, Any]:
    execute = connection.execute
    names = _match_hosts(connection)
    for sql in (_KNOWN_FILES, _NEW_FILES, _OUTDATED, _STEP_BACK, _UPDATE_PLACES, _INSERT_FILES, _MERGED_RECORDS):
        execute(sql)
    accounting.forget(connection, _SUPERSEDED)
    for sql in (_SUPERSEDED_LINES, _UPDATE_CHECKPOINTS, *_DICTIONARIES):
        execute(sql)
    models = execute("SELECT id, name FROM other.models").fetchall()
    connection.executemany(rows.MODEL, [(key, name, prices.canonical(name)) for key, name in models])
    execute(_copy("records", "id"))
    for table in accounting.BY_RECORD:
        execute(_copy(table, "record_id"))
    execute(_SKIPPED_LINES)
    kept = fulltext.kept(connection)
    if kept is not None:
        execute(f"{_copy('passages', 'record_id')} AND r.kind IN ({', '.join(map(str, kept))})")
    _drop_repeated(connection)
    if kept is not None:
        fulltext.adopt(connection, "SELECT new FROM temp.merged_records")
    accounting.touch(connection, "SELECT new FROM temp.merged_records")
    accounting.touch(connection, _MOVED)
    execute(f"DELETE FROM hosts WHERE id <> {hosts.THIS} AND id NOT IN (SELECT host_id FROM files)")
    (counts,) = store.fetch_dicts(connection, _COUNTS)
    added = accounting.derive(connection)
    erasure.enforce(connection)
    return {"hosts": names, **counts, "responses_added": added}


def _match_hosts(connection: sqlite3.Connection) -> list[str]:
    """Finds the other index's hosts in this one, and of which of them it has a later state; their names."""
    names = []
    as_of = f"SELECT coalesce({hosts.AS_OF_NS}, -1) FROM {{}}.files WHERE host_id = ?"
    for other_id, name, user in connection.execute("SELECT id, name, user FROM other.hosts ORDER BY id").fetchall():
        host_id = hosts.identify(connection, name, user)
        connection.execute("INSERT OR IGNORE INTO main.hosts (id, name, user) VALUES (?, ?, ?)", (host_id, name, user))
        (theirs,) = connection.execute(as_of.format("other"), (other_id,)).fetchone()
        (ours,) = connection.execute(as_of.format("main"), (host_id,)).fetchone()
        is_later = host_id != hosts.THIS and theirs > ours
        row = (other_id, host_id, is_later, max(theirs, ours) // 10**6)
        connection.execute("INSERT INTO temp.merged_hosts VALUES (?, ?, ?, ?)", row)
        names.append(f"{user}@{name}")
    return names


def _drop_repeated(connection: sqlite3.Connection) -> None:
    """Takes away what outdated generations have in common with the later state of their host."""
    if not connection.execute("SELECT 1 FROM temp.outdated LIMIT 1").fetchone():
        return
    connection.execute(_STANDING)
    connection.execute(_REPEATED)
    accounting.forget(connection, "SELECT id FROM temp.repeated")
    for table, column in (("skipped_lines", f"id >> {OFFSET_BITS}"), ("files", "id")):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN ({_EMPTY_FILES})")
