"""A shard: a small index of some transcripts that a worker process builds, and the writer takes over whole.

What is costly is done by the workers: parsing, storing rows, deriving responses and tool calls. Ids are digests, or
were given out before, so that taking over is copying; only what stands in two shards is derived again.
"""

from __future__ import annotations

import glob
import os

from . import accounting, rollups, rows, staging, transcripts
from .batch import Batch
from .privacy import Tombstones

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from .transcripts import Job, Part

# Bytes of transcripts in a shard: what a worker's death may cost to read again, against 10 ms to make and take one, and
# what stands in several, which the writer derives again: with 24 MB of 600 that takes a fifth longer, with 96 as long.
# Of a worker's time parsing is 64 % (decoding 25), storing rows 19, deriving 17. Tried: mypyc makes parsing a fifth
# faster and needs a compiler.
BYTES = 48 * 1024 * 1024
_SHARED = ("projects", "models", "record_types", "contexts")
_OF_SESSIONS = ("sessions", "session_facts", "session_relations")
_OF_CALLS = ("responses", "tool_calls")
_TABLES = (*rows.FACTS, *_SHARED, *_OF_SESSIONS, *_OF_CALLS, *rollups.SUMMED, "agents", "hosts", "files", "forgotten")
_VIEW = "response_kinds"
# Pages of 8 KB: a twentieth of the time that rows take to store and to derive; larger ones gain nothing more, nor do
# temporary tables in memory.
_PRAGMAS = """
PRAGMA page_size = 8192; PRAGMA cache_size = -16384;
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
"""
# What deriving looks up by. Tried: one that has all that a response is summed from takes as long to sort as it saves in
# look-ups, and so does one that has what a call says.
_INDEXES = """
CREATE INDEX record_usage_response ON record_usage (response_id, owner_rank, model_id, advised_id);
CREATE INDEX tool_uses_call ON tool_uses (call_id, owner_rank);
CREATE INDEX tool_results_call ON tool_results (call_id, is_error, bytes, web_searches, agent);
CREATE INDEX tool_calls_response ON tool_calls (response_id) WHERE web_searches > 0;
CREATE INDEX records_context ON records (context_id, at, type_id);
CREATE INDEX contexts_session ON contexts (session_id);
"""


class Shard:
    """Where a shard is, and the parts of transcripts in it; rows are not held in memory."""

    __slots__ = ("bytes_read", "parts", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.parts: list[Part] = []
        self.bytes_read = 0


class Blueprint:
    """What a worker must know to build shards of an index: where, and its tables and a view."""

    __slots__ = ("forgotten", "host", "path", "tables", "tombstones")

    def __init__(self, connection: sqlite3.Connection) -> None:
        (self.path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
        marks = ", ".join("?" * len(_TABLES))
        sql = f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name IN ({marks}) OR name = '{_VIEW}'"
        self.tables = ";\n".join(row[0] for row in connection.execute(sql, _TABLES))
        self.tombstones = Tombstones(connection)
        self.forgotten = connection.execute("SELECT * FROM forgotten").fetchall()
        self.host = connection.execute("SELECT name, user FROM hosts WHERE id = 1").fetchone()


def build(blueprint: Blueprint, jobs: Sequence[Job], reading: Callable[[int], None]) -> Iterator[Shard]:
    """Shards of the transcripts, in order; says which of them it reads, because it may die of one."""
    shard: _Building | None = None
    for number, job in enumerate(jobs):
        reading(number)
        for part in transcripts.read(job):
            if shard is None:
                shard = _Building(blueprint)
            shard.add(part)
            if shard.size >= BYTES:
                yield shard.finish()
                shard = None
    if shard is not None:
        yield shard.finish()


class _Building:
    def __init__(self, blueprint: Blueprint) -> None:
        self.shard = Shard(f"{blueprint.path}.shard-{os.getpid()}-{os.urandom(4).hex()}")
        os.close(os.open(self.shard.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        import apsw

        # A row takes 0.43 of its time through sqlite3. Never both on one file in one process: each lets go of the
        # other's locks.
        # For what is done here it is as sqlite3's. Only one thread uses it: a mutex for each value is a tenth of a row.
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
        self._connection: Any = apsw.Connection(self.shard.path, flags)
        self._connection.execute(_PRAGMAS + "BEGIN;" + blueprint.tables + ";").fetchall()  # a pragma answers
        self._connection.execute("INSERT INTO hosts VALUES (1, ?, ?)", blueprint.host)
        self._connection.executemany("INSERT INTO forgotten VALUES (?, ?, ?, ?)", blueprint.forgotten)
        self._tombstones = blueprint.tombstones
        self._files: set[int] = set()
        self._shared = Batch()  # most transcripts refer to the same, which is stored once
        self.size = 0  # of what was read, or is carried for the archive

    def add(self, part: Part) -> None:
        """Stores the rows of a part, which then are no longer in it."""
        self.shard.parts.append(part)
        self.shard.bytes_read += part.bytes_read
        self.size += max(part.bytes_read, sum(chunk.end - chunk.start for chunk in part.chunks))
        if part.is_for_archive:
            return
        self._tombstones.apply(part)
        if part.job.file_id not in self._files:
            self._files.add(part.job.file_id)
            rows.add_file(self._connection, part.job, 0)
        batch = part.take_batch()
        self._shared.take_shared(batch)
        rows.add_facts(self._connection, batch)

    def finish(self) -> Shard:
        """The shard, with all that can be derived within it."""
        rows.add_shared(self._connection, self._shared)
        self._connection.execute(_INDEXES + accounting.TOUCHED)
        accounting.derive_all(self._connection)
        rollups.sum_unpriced(self._connection)
        self._connection.execute("COMMIT")
        self._connection.close()
        return self.shard


# What the shard and the index both know is derived again, and so are the sessions that the shard has it in. While an
# index is loaded its facts have no indexes yet, and all that waits for its other half stays touched to the end.
_TOUCH = (
    "INSERT OR IGNORE INTO temp.touched_sessions SELECT id FROM shard.sessions INTERSECT SELECT id FROM main.sessions",
    "INSERT OR IGNORE INTO temp.touched_calls SELECT call_id FROM shard.tool_results AS s"
    " WHERE NOT EXISTS (SELECT 1 FROM shard.tool_calls WHERE id = s.call_id)",
)
_TOUCH_CALLS = (
    "INSERT OR IGNORE INTO temp.touched_responses"
    " SELECT id FROM shard.responses AS s WHERE EXISTS (SELECT 1 FROM main.responses WHERE id = s.id)",
    "INSERT OR IGNORE INTO temp.touched_sessions"
    " SELECT session_id FROM shard.responses WHERE id IN (SELECT id FROM temp.touched_responses)",
    "INSERT OR IGNORE INTO temp.touched_calls"
    " SELECT id FROM shard.tool_calls AS s WHERE EXISTS (SELECT 1 FROM main.tool_calls WHERE id = s.id)",
    "INSERT OR IGNORE INTO temp.touched_sessions"
    " SELECT session_id FROM shard.tool_calls WHERE id IN (SELECT id FROM temp.touched_calls)",
    "INSERT OR IGNORE INTO temp.touched_calls"
    " SELECT id FROM shard.tool_calls AS s WHERE EXISTS (SELECT 1 FROM main.tool_results WHERE call_id = s.id)",
)
# Of a call that is derived again, the response that the shard charged with its searches is so, too.
_TOUCH_SEARCHED = """
INSERT OR IGNORE INTO temp.touched_responses
SELECT response_id FROM shard.tool_calls
WHERE web_searches > 0 AND response_id IS NOT NULL AND id IN (SELECT id FROM temp.touched_calls)
"""
_NEW_RESPONSES = (
    "SELECT count(*) FROM shard.responses WHERE part = 0 AND id NOT IN (SELECT id FROM temp.touched_responses)"
)
# Without an index SQLite copies whole rows of an equal table, in half the time; else `*` names computed columns, too.
_INDEX = "SELECT 1 FROM main.sqlite_master WHERE type = 'index' AND tbl_name = 'records'"


def copy(connection: sqlite3.Connection, is_loading: bool) -> int:
    """Takes over the attached shard and touches what must be derived again; returns responses not known before.

    Those of a load are staged, and counted at its end.
    """
    added = 0 if is_loading else _touch_calls(connection)
    for sql in _TOUCH:
        connection.execute(sql)
    is_bare = connection.execute(_INDEX).fetchone() is None
    for table, columns in rows.FACTS.items():
        values = f"SELECT * FROM shard.{table}" if is_bare else f"({columns}) SELECT {columns} FROM shard.{table}"
        connection.execute(f"INSERT INTO main.{table} {values}")
    _copy_new(connection, (*_SHARED, *_OF_SESSIONS))
    agents = f"({rows.AGENT_COLUMNS}) SELECT {rows.AGENT_COLUMNS} FROM shard.agents WHERE true{rows.BETTER_AGENT}"
    connection.execute(f"INSERT INTO main.agents {agents}")
    if is_loading:
        staging.add(connection)
    else:
        connection.execute(_TOUCH_SEARCHED)
        _copy_new(connection, _OF_CALLS)
        accounting.price_days(connection, accounting.SHARD_DAYS)
        rollups.touch_shard(connection)
    return added


def _touch_calls(connection: sqlite3.Connection) -> int:
    for sql in _TOUCH_CALLS:
        connection.execute(sql)
    (added,) = connection.execute(_NEW_RESPONSES).fetchone()
    return int(added)


def _copy_new(connection: sqlite3.Connection, tables: Iterable[str]) -> None:
    for table in tables:
        connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM shard.{table}")


def spans(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """First and last record that each transcript has in the attached shard."""
    return connection.execute("SELECT min(id), max(id) FROM shard.records GROUP BY file_id").fetchall()


def remove_left(connection: sqlite3.Connection) -> None:
    """Removes the shards of a refresh that was killed. The caller holds the lock."""
    (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    for left in glob.glob(f"{glob.escape(path)}.shard-*"):
        os.unlink(left)
