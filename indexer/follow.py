"""Follows the index: what a transcript has that it did not have when it was looked at before."""

from __future__ import annotations

from typing import Any, NamedTuple

from .batch import OFFSET_BITS
from .store import display_path, fetch_dicts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator


class Change(NamedTuple):
    """A transcript that changed: its path, whether it is gone, and the rows of `messages` that are new."""

    path: str
    is_gone: bool
    messages: list[dict[str, Any]]


_FILES = """
SELECT id, path, offset, gone_at IS NOT NULL
FROM files
WHERE host_id = 1 AND replaced_at IS NULL
"""
# A path and all below it; what else that finds has not changed.
_BELOW = f"{_FILES} AND path >= :path AND path < :path || '0'"
_MESSAGES = "SELECT * FROM messages WHERE id >= ? AND id < ? ORDER BY id"


class Follower:
    """Remembers how far each transcript was indexed, by whomever, when its changes were last given."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known = {row[0]: row[2:] for row in connection.execute(_FILES)}

    def changes(self, paths: Collection[str] | None) -> Iterator[Change]:
        """What changed at or below these paths, or anywhere, each thing once."""
        if paths is None:
            rows = self._connection.execute(_FILES).fetchall()
        else:
            names = [display_path(path) for path in paths]
            rows = [row for path in names for row in self._connection.execute(_BELOW, {"path": path})]
        for file_id, path, offset, is_gone in rows:
            before, was_gone = self._known.get(file_id, (0, 0))
            if (offset, is_gone) != (before, was_gone):
                self._known[file_id] = (offset, is_gone)
                start = file_id << OFFSET_BITS
                messages = fetch_dicts(self._connection, _MESSAGES, (start + before, start + offset))
                yield Change(path, bool(is_gone), messages)
