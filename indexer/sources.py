"""Records as they stand in their transcripts, or in the archive once those are gone."""

from __future__ import annotations

import os

from . import config, lines
from .digest import digest
from .store import real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import Any

    Row = dict[str, Any]
    # Bytes of a record by its file's id, its offset and its length; None where they are not kept.
    Archive = Callable[[int, int, int], bytes | None]


class Source:
    """Records as they stand in transcripts, or in the archive."""

    def __init__(self, connection: sqlite3.Connection, archive: Archive | None, is_forgotten: bool = False) -> None:
        self._connection = connection
        self._archive = archive
        self._is_forgotten = is_forgotten  # whose transcript may still be there
        self._patterns = config.patterns()
        self._files: dict[int, tuple[str, str | None, int | None]] = {}
        self.missing: dict[tuple[str, str], int] = {}

    def close(self) -> None:
        for _, _, descriptor in self._files.values():
            if descriptor is not None:
                os.close(descriptor)
        self._files.clear()

    def record(self, row: Row, is_needed: bool = True) -> Row | None:
        """The record as it may be stored; None if nobody has it any more: it is missing, where it is needed."""
        data = self.data(row, is_needed)
        return None if data is None else _parsed(self._masked(data))

    def data(self, row: Row, is_needed: bool = True) -> bytes | None:
        """The bytes of a record."""
        file_id, offset, length = row["id"] >> 40, row["id"] & ((1 << 40) - 1), row["length"]
        path, reason, descriptor = self._file(file_id)
        if descriptor is not None:
            found = os.pread(descriptor, length, offset)
            if _is_record(found, row) or _is_record(self._masked(found), row):
                return found
            reason = "rewritten"
        kept = self._archive(file_id, offset, length) if self._archive is not None else None
        if kept is None and is_needed:
            self.missing[path, reason or "deleted"] = self.missing.get((path, reason or "deleted"), 0) + 1
        return kept

    def _masked(self, data: bytes) -> bytes:
        if not self._patterns:
            return data
        from .redaction import redactor

        return redactor(self._patterns).mask(data)

    def _file(self, file_id: int) -> tuple[str, str | None, int | None]:
        """Path of a transcript, why it cannot be read, and its descriptor if it can."""
        if file_id not in self._files:
            sql = "SELECT path, host_id <> 1, replaced_at IS NOT NULL FROM files WHERE id = ?"
            path, is_elsewhere, is_rewritten = self._connection.execute(sql, (file_id,)).fetchone()
            reason, descriptor = "on another machine" if is_elsewhere else "rewritten" if is_rewritten else None, None
            if self._is_forgotten:
                reason = "forgotten"
            if reason is None:
                try:
                    descriptor = os.open(real_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except FileNotFoundError:
                    reason = "deleted"
                except OSError as error:
                    reason = error.strerror or str(error)
            self._files[file_id] = (path, reason, descriptor)
        return self._files[file_id]


def _parsed(data: bytes) -> Row | None:
    found = [piece.record for piece in lines.pieces(data) if piece.record is not None]
    return found[0] if found else None


def _is_record(data: bytes, row: Row) -> bool:
    """Whether bytes are the record that the index knows: something may have been written in its place."""
    if len(data) != row["length"]:
        return False
    if row["uuid"] is None:
        return bool(digest(data.strip()) == row["digest"])
    record = _parsed(data)
    return record is not None and bool(record.get("uuid") == row["uuid"])
