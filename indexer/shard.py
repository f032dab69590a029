"""A shard: a small index of some transcripts that a worker process builds, and the writer takes over whole.

What is costly is done by the workers: parsing, storing rows, deriving responses and tool calls. Ids are digests, or
were given out before, so that taking over is copying; only what stands in two shards is derived again.
"""

from __future__ import annotations

import glob
import os

from . import accounting, rollups, rows, transcripts
from .parser import Batch
from .privacy import Tombstones

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .transcripts import Job, Part

# Bytes of transcripts in a shard: what a worker's death may cost to read again, against 10 ms to make and take one.
# Of a worker's time parsing is 60 % (decoding 20), storing rows 19, deriving 21. Tried: mypyc makes parsing a fifth
# faster and needs a compiler; copying rows whole (SELECT *) saves the writer 0.1 s of 600 MB.
BYTES = 24 * 1024 * 1024
_SHARED = ("projects", "models", "record_types", "contexts")
_DERIVED = ("sessions", "session_facts", "session_relations", "responses", "tool_calls")
_TABLES = (*rows.FACTS, *_SHARED, *_DERIVED, "agents", "hosts", "files", "forgotten")
# With pages of 32 KiB storing and deriving take a tenth less than with 4; with 64 no less, and the file is larger.
_PRAGMAS = """
PRAGMA page_size = 32768;
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -16384;
"""
# What deriving looks up by.
_INDEXES = """
CREATE INDEX record_usage_response ON record_usage (response_id, owner_rank);
CREATE INDEX record_usage_advised ON record_usage (advised_id) WHERE advised_id IS NOT NULL;
CREATE INDEX tool_uses_call ON tool_uses (call_id, owner_rank);
CREATE INDEX tool_results_call ON tool_results (call_id);
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
    """What a worker must know to build shards of an index: where, and its tables."""

    __slots__ = ("forgotten", "host", "path", "tables", "tombstones")

    def __init__(self, connection: sqlite3.Connection) -> None:
        (self.path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
        marks = ", ".join("?" * len(_TABLES))
        sql = f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name IN ({marks})"
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
        accounting.touch_all(self._connection)
        accounting.derive_responses(self._connection, is_new=True)
        accounting.derive_sessions(self._connection)
        self._connection.execute("COMMIT")
        self._connection.close()
        return self.shard


# What the shard and the index both know is derived again, and so are the sessions that the shard has it in. While an
# index is loaded its facts have no indexes yet, and all that waits for its other half stays touched to the end.
_TOUCH = (
    "INSERT OR IGNORE INTO temp.touched_sessions SELECT id FROM shard.sessions INTERSECT SELECT id FROM main.sessions",
    "INSERT OR IGNORE INTO temp.touched_responses"
    " SELECT id FROM shard.responses AS s WHERE EXISTS (SELECT 1 FROM main.responses WHERE id = s.id)",
    "INSERT OR IGNORE INTO temp.touched_sessions"
    " SELECT session_id FROM shard.responses WHERE id IN (SELECT id FROM temp.touched_responses)",
    "INSERT OR IGNORE INTO temp.touched_calls"
    " SELECT id FROM shard.tool_calls AS s WHERE EXISTS (SELECT 1 FROM main.tool_calls WHERE id = s.id)",
    "INSERT OR IGNORE INTO temp.touched_calls SELECT call_id FROM shard.tool_results AS s"
    " WHERE NOT EXISTS (SELECT 1 FROM shard.tool_calls WHERE id = s.call_id)",
    "INSERT OR IGNORE INTO temp.touched_sessions"
    " SELECT session_id FROM shard.tool_calls WHERE id IN (SELECT id FROM temp.touched_calls)",
)
_TOUCH_ANSWERED = (
    "INSERT OR IGNORE INTO temp.touched_calls"
    " SELECT id FROM shard.tool_calls AS s WHERE EXISTS (SELECT 1 FROM main.tool_results WHERE call_id = s.id)"
)
_NEW_RESPONSES = (
    "SELECT count(*) FROM shard.responses WHERE part = 0 AND id NOT IN (SELECT id FROM temp.touched_responses)"
)


def copy(connection: sqlite3.Connection, is_loading: bool) -> int:
    """Copies all rows of the attached shard, touches what must be derived again; returns responses not known before."""
    execute = connection.execute
    for sql in _TOUCH if is_loading else (*_TOUCH, _TOUCH_ANSWERED):
        execute(sql)
    (added,) = execute(_NEW_RESPONSES).fetchone()
    for table, columns in rows.FACTS.items():
        execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM shard.{table}")
    for table in (*_SHARED, *_DERIVED):
        execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM shard.{table}")
    columns = rows.AGENT_COLUMNS
    execute(f"INSERT INTO main.agents ({columns}) SELECT {columns} FROM shard.agents WHERE true{rows.BETTER_AGENT}")
    if not is_loading:
        rollups.touch_shard(connection)
    return int(added)


def spans(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """First and last record that each transcript has in the attached shard."""
    return connection.execute("SELECT min(id), max(id) FROM shard.records GROUP BY file_id").fetchall()


def remove_left(connection: sqlite3.Connection) -> None:
    """Removes the shards of a refresh that was killed. The caller holds the lock."""
    (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    for left in glob.glob(f"{glob.escape(path)}.shard-*"):
        os.unlink(left)
