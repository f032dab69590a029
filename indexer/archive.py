"""The archive: the transcripts' bytes, compressed, in a database of its own beside the index.

    transcript → whole lines → (worker) masked, compressed → chunks, committed → the index's rows, committed

It is committed first, so that it is never behind what the index claims. What it holds of a transcript it knows by
offsets of its own, and by digests of every chunk: after a kill, when the index was made anew, and when `keep` is
configured late, it goes on where its bytes are still the transcript's, and starts a new generation where they are not.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import namedtuple
from functools import partial

from . import store
from .checkpoint import UNFINISHED
from .chunks import LINES_MASKED, PACKED_LEVEL, Archived, compress, decompress
from .errors import IndexUnusable
from .store import display_path, insert

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import NamedTuple

    from .checkpoint import Checkpoint
    from .chunks import Chunk
    from .discovery import Found, Stat
    from .transcripts import Job, Part

    class State(NamedTuple):
        """What the archive knows of the present generation of a transcript: columns of `files`."""

        id: int
        file_id: int | None
        size: int
        mtime_ns: int
        offset: int
        dropped: str | None

else:
    State = namedtuple("State", "id file_id size mtime_ns offset dropped")

_MIGRATIONS = (
    """
CREATE TABLE meta ( -- which index this belongs to
  key TEXT PRIMARY KEY, -- name
  value TEXT -- its value
) STRICT, WITHOUT ROWID;
CREATE TABLE files ( -- transcripts, one row per generation: a rewritten file starts a new one
  id INTEGER PRIMARY KEY, -- chunks.file_id
  root TEXT NOT NULL, -- Claude config directory it was found under
  path TEXT NOT NULL, -- absolute path, as in the index
  session TEXT NOT NULL, -- session it belongs to; a subagent's is that of its parent
  file_id INTEGER, -- row of `files` in the index; NULL: this index has not read it
  size INTEGER NOT NULL, -- bytes when it was kept to its end; -1 while it is not
  mtime_ns INTEGER NOT NULL, -- st_mtime_ns of then; -1 while it is not
  offset INTEGER NOT NULL, -- end of its whole lines that are kept
  started_at INTEGER NOT NULL, -- when this generation began, milliseconds since 1970 UTC
  replaced_at INTEGER, -- when a newer one began; NULL: this is the current one
  dropped TEXT, -- pruned or forgotten: why its bytes are not here
  is_masked INTEGER NOT NULL, -- 1: some bytes differ from the transcript's, by redaction or by forgetting
  is_packed INTEGER NOT NULL, -- 1: its chunks were packed together
  meta BLOB -- compressed .meta.json of a subagent
) STRICT;
CREATE UNIQUE INDEX files_path ON files (path) WHERE replaced_at IS NULL;
CREATE INDEX files_file_id ON files (file_id);
CREATE INDEX files_session ON files (session);
CREATE TABLE chunks ( -- bytes of transcripts
  file_id INTEGER NOT NULL REFERENCES files (id), -- transcript
  start INTEGER NOT NULL, -- first byte
  end INTEGER NOT NULL, -- byte behind the last
  digest INTEGER NOT NULL, -- of the bytes that are kept
  data BLOB NOT NULL, -- zstd
  PRIMARY KEY (file_id, start)
) STRICT;
""",
)
VERSION = len(_MIGRATIONS)

# Reading one record unpacks what it is packed with.
_PACKED_BYTES = 64 * 1024 * 1024
_QUIET_NS = 86_400 * 10**9
# A report reads for less; a server may hold on for ever.
_READER_MS = 2_000
# Of the time that the refresh took so far; at least one transcript.
_PACKING_SHARE = 0.05
_CURRENT = "SELECT path, id, file_id, size, mtime_ns, offset, dropped FROM files WHERE replaced_at IS NULL"
_FILE = insert(
    "files", "root, path, session, file_id, size, mtime_ns, offset, started_at, is_masked, is_packed, meta", ""
)
_CHUNK = insert("chunks", "file_id, start, end, digest, data", "OR REPLACE")


def place(db: str) -> str:
    """Where the archive of an index is."""
    return f"{os.path.splitext(db)[0]}-archive.db"


# The writer


class Archive:
    """The archive as a refresh writes it; the caller holds the refresh lock."""

    def __init__(self, db: str, index: sqlite3.Connection) -> None:
        """Opens it, made or migrated where it must be. Raises IndexUnusable."""
        self.path = place(db)
        self._connection = connection = open_archive(self.path, is_writer=True)
        self._execute = connection.execute
        self._forgotten = {row[0] for row in index.execute("SELECT session_id FROM forgotten")}
        # What went in: `kept` in `cm refresh --json`.
        self.added = {"transcripts": 0, "bytes": 0, "packed_bytes": 0}
        self._added: set[int] = set()
        self._ids: dict[int, int] = {}
        self._now = time.time_ns() // 10**6
        self._match(index)

    def _match(self, index: sqlite3.Connection) -> None:
        """Rows of another index, or of this one before it was made anew, name files that are now others."""
        row = index.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
        if row is not None and row[0] == index_of(self._connection):
            return
        (name,) = (
            row or index.execute("INSERT INTO meta VALUES ('id', lower(hex(randomblob(8)))) RETURNING value").fetchone()
        )
        self._execute("UPDATE files SET file_id = NULL")
        self._execute("INSERT OR REPLACE INTO meta VALUES ('index', ?)", (name,))

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._execute("BEGIN IMMEDIATE")

    def kept(self, expected: set[Stat]) -> set[Stat]:
        """The same, but that those that are not kept as they are have no size: there is something to do for them."""
        known = self._current()
        return {
            (path, size if _is_kept(known.get(path), size, mtime_ns) else None, mtime_ns, inode)
            for path, size, mtime_ns, inode in expected
        }

    def behind(self, found: Iterable[Found]) -> list[Found]:
        """Transcripts that are not kept as they are now."""
        known = self._current()
        return [file for file in found if not _is_found(known.get(display_path(file.path)), file)]

    def _current(self) -> dict[str, State]:
        return {row[0]: State._make(row[1:]) for row in self._execute(_CURRENT)}

    def move(self, old: str, new: Found) -> None:
        """Follows a transcript to another path."""
        self._begin()
        path = display_path(new.path)
        self._execute("UPDATE files SET replaced_at = ? WHERE path = ? AND replaced_at IS NULL", (self._now, path))
        sql = "UPDATE files SET path = ?, root = ?, mtime_ns = ? WHERE path = ? AND replaced_at IS NULL"
        self._execute(sql, (path, display_path(new.root), new.mtime_ns, old))

    def prepare(self, jobs: list[Job], found: Iterable[Found], known: dict[str, Checkpoint]) -> list[Job]:
        """Tells the jobs what is kept already, and adds jobs for what only the archive lacks."""
        from .transcripts import Job

        current = self._current()
        planned = {job.found.path for job in jobs}
        for file in found:
            before = known.get(display_path(file.path))
            if before is None or file.path in planned or _is_found(current.get(display_path(file.path)), file):
                continue
            job = Job(file, before.id, False)
            job.offset, job.session, job.is_for_archive = before.offset, before.session, True
            jobs.append(job)
        for job in jobs:
            job.archived = self._kept(job, current.get(display_path(job.found.path)))
        return [job for job in jobs if job.archived is not None or not job.is_for_archive]

    def _kept(self, job: Job, state: State | None) -> Archived | None:
        forgotten = tuple(sorted(self._forgotten))
        if state is None or state.dropped == "pruned":
            return Archived(False, 0, [], forgotten)
        if state.dropped is not None:
            return None
        # The index has just seen that what it knows of the transcript is still true.
        is_sure = (state.file_id, state.offset) == (job.file_id, job.offset)
        sql = "SELECT start, end, digest FROM chunks WHERE file_id = ? ORDER BY start"
        return Archived(True, state.offset, [] if is_sure else self._execute(sql, (state.id,)).fetchall(), forgotten)

    def add(self, part: Part) -> None:
        """Stores the chunks of a part."""
        job = part.job
        if job.archived is None or part.error is not None:
            return
        self._begin()
        if job.file_id not in self._ids:
            self._ids[job.file_id] = self._generation(part)
        file_id = self._ids[job.file_id]
        session = part.state[0]
        if session is not None:
            self._execute("UPDATE files SET session = ? WHERE id = ? AND session <> ?", (session, file_id, session))
        if part.is_forgotten or (session or _session(job)) in self._forgotten:
            self._drop(file_id, "forgotten")
            return
        self._connection.executemany(_CHUNK, [(file_id, *chunk[:-1]) for chunk in part.chunks])
        self._count(job.file_id, part.chunks)
        for chunk in part.chunks:
            if chunk.is_whole:
                self._execute("UPDATE files SET offset = ?, is_packed = 0 WHERE id = ?", (chunk.end, file_id))
        if part.masked:
            self._execute("UPDATE files SET is_masked = is_masked | ? WHERE id = ?", (part.masked, file_id))
        if part.is_last:
            sql = "UPDATE files SET size = ?, mtime_ns = ?, meta = coalesce(?, meta) WHERE id = ?"
            self._execute(sql, (job.found.size, job.found.mtime_ns, part.meta, file_id))

    def _count(self, file_id: int, chunks: Sequence[Chunk]) -> None:
        if chunks:
            self._added.add(file_id)
            self.added["transcripts"] = len(self._added)
            self.added["bytes"] += sum(chunk.end - chunk.start for chunk in chunks)
            self.added["packed_bytes"] += sum(len(chunk.data) for chunk in chunks)

    def _generation(self, part: Part) -> int:
        """The row that the chunks of a job belong to: the present one while its bytes are the transcript's."""
        job = part.job
        path = display_path(job.found.path)
        # An index that was restored gives other transcripts ids that it had given before.
        self._execute("UPDATE files SET file_id = NULL WHERE file_id = ? AND path <> ?", (job.file_id, path))
        sql = "SELECT id, offset, dropped FROM files WHERE path = ? AND replaced_at IS NULL"
        before = self._execute(sql, (path,)).fetchone()
        if before is not None and (part.is_same or before[2] is not None):
            # Behind the whole lines stands what was the open last line; it is read again.
            self._execute("DELETE FROM chunks WHERE file_id = ? AND start >= ?", (before[0], before[1]))
            sql = (
                "UPDATE files SET file_id = ?, size = -1, mtime_ns = ?, dropped = NULL, is_masked = is_masked & ?"
                " WHERE id = ?"
            )
            self._execute(sql, (job.file_id, UNFINISHED, LINES_MASKED, before[0]))
            return int(before[0])
        if before is not None:
            self._execute("UPDATE files SET replaced_at = ? WHERE id = ?", (self._now, before[0]))
        row = (display_path(job.found.root), path, _session(job), job.file_id, -1, UNFINISHED, 0, self._now, 0, 0, None)
        return int(self._execute(_FILE, row).lastrowid or 0)

    def _drop(self, file_id: int, reason: str) -> None:
        drop(self._connection, [file_id], reason)

    def commit(self) -> None:
        """Commits; to be called before the index's own commit."""
        if self._connection.in_transaction:
            self._execute("COMMIT")

    def pack(self, seconds: float | None = None) -> int:
        """Packs the chunks of transcripts that were quiet for a day, for that long; returns of how many."""
        end = time.perf_counter() + _PACKING_SHARE * (seconds or 0)
        sql = (
            "SELECT id FROM files WHERE NOT is_packed AND dropped IS NULL AND size >= 0 AND mtime_ns < ?"
            " ORDER BY mtime_ns"
        )
        count = 0
        for (file_id,) in self._execute(sql, (time.time_ns() - _QUIET_NS,)).fetchall():
            store.transaction(self._connection, partial(self._pack, file_id))
            count += 1
            if seconds is not None and time.perf_counter() > end:
                break
        return count

    def _pack(self, file_id: int) -> None:
        """Replaces the chunks of a transcript by few large ones; its open last line stays by itself."""
        from .digest import digest

        (offset,) = self._execute("SELECT offset FROM files WHERE id = ?", (file_id,)).fetchone()
        sql = "SELECT start, end, data FROM chunks WHERE file_id = ? AND start < ? ORDER BY start"
        for group in _groups(self._execute(sql, (file_id, offset))):
            data = b"".join(decompress(chunk) for _, _, chunk in group)
            start, end = group[0][0], group[-1][1]
            self._execute("DELETE FROM chunks WHERE file_id = ? AND start >= ? AND start < ?", (file_id, start, end))
            self._execute(_CHUNK, (file_id, start, end, digest(data), compress(data, PACKED_LEVEL)))
        self._execute("UPDATE files SET is_packed = 1 WHERE id = ?", (file_id,))

    def compact(self) -> None:
        """Gives free pages back."""
        compact(self._connection)

    def close(self) -> None:
        self._connection.close()


def _is_found(state: State | None, found: Found) -> bool:
    return _is_kept(state, found.size, found.mtime_ns)


def _is_kept(state: State | None, size: int | None, mtime_ns: int) -> bool:
    if state is None:
        return False
    return state.dropped == "forgotten" or (state.size, state.mtime_ns) == (size, mtime_ns)


def _session(job: Job) -> str:
    from .transcripts import fallback_session

    return job.session or fallback_session(display_path(job.found.path))


def _groups(chunks: Iterable[tuple[int, int, bytes]]) -> Iterator[list[tuple[int, int, bytes]]]:
    """Neighbouring chunks that are packed together."""
    group: list[tuple[int, int, bytes]] = []
    for chunk in chunks:
        if group and chunk[1] - group[0][0] > _PACKED_BYTES:
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def drop(connection: sqlite3.Connection, file_ids: Iterable[int], reason: str) -> None:
    """Takes the bytes of transcripts out; what is left of each says why."""
    for file_id in file_ids:
        connection.execute("DELETE FROM chunks WHERE file_id = ?", (file_id,))
        sql = "UPDATE files SET dropped = ?, offset = 0, is_packed = 0, meta = NULL WHERE id = ?"
        connection.execute(sql, (reason, file_id))


def rewrite(connection: sqlite3.Connection, change: Callable[[bytes], bytes]) -> None:
    """Changes the bytes of all chunks, and what describes subagents, to others of the same length."""
    from .digest import digest

    for file_id, start in connection.execute("SELECT file_id, start FROM chunks").fetchall():
        at = (file_id, start)
        (packed,) = connection.execute("SELECT data FROM chunks WHERE file_id = ? AND start = ?", at).fetchone()
        data = decompress(packed)
        changed = change(data)
        if changed != data:
            sql = "UPDATE chunks SET data = ?, digest = ? WHERE file_id = ? AND start = ?"
            connection.execute(sql, (compress(changed, PACKED_LEVEL), digest(changed), *at))
            connection.execute("UPDATE files SET is_masked = is_masked | ? WHERE id = ?", (LINES_MASKED, file_id))
    for file_id, packed in connection.execute("SELECT id, meta FROM files WHERE meta IS NOT NULL").fetchall():
        data = described(packed)
        changed = change(data)
        if changed != data:
            connection.execute("UPDATE files SET meta = ? WHERE id = ?", (compress(changed[:-1]), file_id))


def described(meta: bytes) -> bytes:
    """A `.meta.json` as a whole line: it ends without a newline, and is not torn."""
    return decompress(meta) + b"\n"


# Opening


def open_archive(path: str, is_writer: bool = False) -> sqlite3.Connection:
    """The archive; made and migrated by a writer, who holds the refresh lock. Raises IndexUnusable."""
    if is_writer:
        store.make_private(path)
    try:
        connection = store.connect(path, is_writer)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise IndexUnusable(f"{path} was made by a newer cm (schema {version}, this is {VERSION}): update cm")
        if is_writer:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            for number, script in enumerate(_MIGRATIONS[version:], version + 1):
                connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT")
    except sqlite3.Error as error:
        raise store.explain(path, error) from error
    return connection


def index_of(connection: sqlite3.Connection) -> str | None:
    """Which index the archive belongs to."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'index'").fetchone()
    return None if row is None else str(row[0])


# Reading


class Reader:
    """The archive as it is, read-only."""

    def __init__(self, path: str) -> None:
        self.connection = open_archive(path)
        self._last: tuple[int, int, bytes] | None = None

    def is_of(self, index: sqlite3.Connection) -> bool:
        """Whether `files.file_id` names rows of this index."""
        row = index.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
        return row is not None and row[0] == index_of(self.connection)

    def read(self, file_id: int, offset: int, length: int) -> bytes | None:
        """Bytes of a transcript by its row in the index; None where they are not kept."""
        sql = (
            "SELECT c.file_id, c.start, c.end FROM files AS f JOIN chunks AS c ON c.file_id = f.id"
            " WHERE f.file_id = ? AND c.start <= ? ORDER BY f.replaced_at IS NOT NULL, f.id DESC, c.start DESC LIMIT 1"
        )
        row = self.connection.execute(sql, (file_id, offset)).fetchone()
        if row is None or row[2] < offset + length:
            return None
        data = self._chunk(row[0], row[1])
        return data[offset - row[1] : offset - row[1] + length]

    def _chunk(self, file_id: int, start: int) -> bytes:
        # Records are mostly asked for in their order.
        if self._last is None or self._last[:2] != (file_id, start):
            sql = "SELECT data FROM chunks WHERE file_id = ? AND start = ?"
            (data,) = self.connection.execute(sql, (file_id, start)).fetchone()
            self._last = (file_id, start, decompress(data))
        return self._last[2]

    def bytes_of(self, file_id: int) -> Iterator[bytes]:
        """The bytes of a generation in order, by its row in the archive."""
        sql = "SELECT data FROM chunks WHERE file_id = ? ORDER BY start"
        for (data,) in self.connection.execute(sql, (file_id,)):
            yield decompress(data)

    def close(self) -> None:
        self.connection.close()


def open_reader(db: str, index: sqlite3.Connection) -> Reader | None:
    """The archive of an index, where it has one; `read` is by this index's files."""
    if not os.path.exists(place(db)):
        return None
    reader = Reader(place(db))
    if reader.is_of(index):
        return reader
    reader.close()
    return None


def compact(connection: sqlite3.Connection) -> bool:
    """Leaves nothing of what was deleted in free pages or the WAL; False if a reader is in the way."""
    connection.execute("VACUUM")
    connection.execute(f"PRAGMA busy_timeout = {_READER_MS}")
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy
