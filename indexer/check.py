"""Whether the index is whole: each check looks for one kind of damage, and every problem says how to mend it.

A check is a function of a read-only connection that gives problems; one that is added to CHECKS is run and shown.
"""

from __future__ import annotations

import os
import sqlite3

from . import private, rollups
from .batch import OFFSET_BITS
from .store import real_path, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NamedTuple

    class Problem(NamedTuple):
        """What is wrong, and what to do about it."""

        problem: str
        fix: str

    Check = Callable[[sqlite3.Connection], Iterator[Problem]]
else:
    from collections import namedtuple

    Problem = namedtuple("Problem", "problem fix")

_RESTORE = (
    "put a backup in its place with `cm restore FILE`; without one move the index away, run `cm refresh`, which reads"
    " what transcripts there still are, and get what is only in the old one with the sqlite3 shell's .recover"
)
_READ_AGAIN = "run `cm refresh --full`, which reads it again"
# Transcripts of this machine that were read, as they are now.
_READ = "host_id = 1 AND replaced_at IS NULL AND size >= 0"
_OFFSETS = f"SELECT path, size, offset FROM files WHERE {_READ} ORDER BY path"
_COVERAGE = f"""
SELECT f.path, f.line_count, f.indexed_lines, count(s.id) AS skipped
FROM files AS f
LEFT JOIN skipped_lines AS s
  ON s.id >= f.id << {OFFSET_BITS} AND s.id < (f.id << {OFFSET_BITS}) + f.offset AND NOT s.is_partial
WHERE f.replaced_at IS NULL AND f.size >= 0
GROUP BY f.id
HAVING f.line_count <> f.indexed_lines + skipped
ORDER BY f.path
"""
_BEHIND = f"""
SELECT f.path, count(*)
FROM files AS f
JOIN records AS r
  ON r.id >= f.id << {OFFSET_BITS} AND r.id < (f.id + 1) << {OFFSET_BITS}
    AND (r.id & {(1 << OFFSET_BITS) - 1}) + r.length > max(f.size, f.offset)
WHERE f.replaced_at IS NULL AND f.size >= 0
GROUP BY f.id
ORDER BY f.path
"""


def check(connection: sqlite3.Connection) -> dict[str, list[Problem]]:
    """The problems that each of CHECKS found, by its name; read in one transaction."""
    with snapshot(connection):
        return {name: _run(look, connection) for name, look in CHECKS.items()}


def _run(look: Check, connection: sqlite3.Connection) -> list[Problem]:
    try:
        return list(look(connection))
    except sqlite3.DatabaseError as error:  # so damaged that it cannot be looked at
        return [Problem(f"it cannot be read: {error}", _RESTORE)]


def integrity(connection: sqlite3.Connection) -> Iterator[Problem]:
    """SQLite's own check of every page, row and index."""
    for (found,) in connection.execute("PRAGMA integrity_check"):
        if found != "ok":
            yield Problem(" ".join(found.split()), _RESTORE)


def foreign_keys(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Rows that name others that are not there."""
    found: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        found[table, parent] = found.get((table, parent), 0) + 1
    for (table, parent), count in found.items():
        yield Problem(f"{count:,} rows of {table} name rows of {parent} that are not there", _RESTORE)


def offsets(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Offsets that are not where a line of the transcript ends, and records that reach behind what was read."""
    for path, size, offset in connection.execute(_OFFSETS):
        if not 0 <= offset <= size:
            yield Problem(f"{path}: read up to byte {offset:,}, and it had {size:,}", _READ_AGAIN)
        elif offset and not _is_line_end(path, size, offset):
            yield Problem(f"{path}: byte {offset:,}, up to which it was read, is within a line", _READ_AGAIN)
    for path, count in connection.execute(_BEHIND):
        yield Problem(f"{path}: {count:,} records reach behind what was read of it", _READ_AGAIN)


def _is_line_end(path: str, size: int, offset: int) -> bool:
    """Whether a newline stands before the offset; of a file that is gone or shrank it is not asked."""
    try:
        descriptor = os.open(real_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return os.fstat(descriptor).st_size < size or os.pread(descriptor, 1, offset - 1) == b"\n"
    except OSError:
        return True
    finally:
        os.close(descriptor)


def coverage(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Transcripts whose lines are not each indexed or skipped with a reason."""
    for path, lines, indexed, skipped in connection.execute(_COVERAGE):
        yield Problem(f"{path}: of {lines:,} lines {indexed:,} are indexed and {skipped:,} skipped", _READ_AGAIN)


def sums(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Rollups that are not what the responses and tool calls sum to."""
    for table, count in rollups.wrong(connection).items():
        yield Problem(f"{count:,} rows of {table} are not what the responses sum to", _READ_AGAIN)


def privacy(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Files of the index that other users of the machine could read."""
    path = next(str(row[2]) for row in connection.execute("PRAGMA database_list") if row[1] == "main")
    for suffix in ("", "-wal", "-shm", ".lock"):
        try:
            status = os.stat(f"{path}{suffix}")
        except OSError:
            continue
        if private.is_open_to_others(status):
            yield Problem(f"{path}{suffix} can be read or written by others", f"run `chmod 600 {path}{suffix}`")


def secrets(connection: sqlite3.Connection) -> Iterator[Problem]:
    """What was stored before it was to be redacted."""
    from . import erasure

    for problem, fix in erasure.problems(connection):
        yield Problem(problem, fix)


CHECKS: dict[str, Check] = {
    "integrity": integrity,
    "foreign keys": foreign_keys,
    "offsets": offsets,
    "coverage": coverage,
    "sums": sums,
    "privacy": privacy,
    "secrets": secrets,
}
