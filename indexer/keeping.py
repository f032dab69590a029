"""What the archive holds: told, given back, and thinned out."""

from __future__ import annotations

import os
import re
import time

from . import archive, config, store
from .chunks import decompress
from .errors import BadInput, CmError
from .store import display_path, fetch_dicts, real_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Sequence
    from typing import Any

_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}
_LISTED = 5
_HELD = """
SELECT
  f.id, f.root, f.path, f.session, f.size, f.mtime_ns, f.replaced_at, f.is_masked, f.is_packed, f.meta,
  sum(c.end - c.start) AS bytes, sum(length(c.data)) AS packed_bytes
FROM files AS f JOIN chunks AS c ON c.file_id = f.id
"""
_GONE = """
SELECT f.path, s.session_id
FROM files AS f LEFT JOIN sessions AS s ON s.id = f.session_id
WHERE f.host_id = 1 AND f.replaced_at IS NULL AND f.gone_at IS NOT NULL
"""
_PRESENT = "SELECT path FROM files WHERE host_id = 1 AND replaced_at IS NULL AND gone_at IS NULL AND size > 0"


def status(index: sqlite3.Connection, db: str) -> dict[str, Any]:
    """What is kept and what is only counted: `keep` in `cm status --json`.

    `transcripts` and their `bytes` are kept in `packed_bytes`; `only_here` of them were deleted since. `masked` differ
    from their transcript by redaction or forgetting. `counted_only` were deleted and are not kept: the index has their
    numbers, and its text. `not_kept` are there and not kept.
    """
    path = archive.place(db)
    held: list[dict[str, Any]] = []
    if os.path.exists(path):
        reader = archive.Reader(path)
        try:
            held = fetch_dicts(reader.connection, f"{_HELD} GROUP BY f.id")
        finally:
            reader.close()
    current = {row["path"]: row for row in held if row["replaced_at"] is None}
    gone = dict(index.execute(_GONE))
    counted = gone.keys() - current.keys()
    return {
        "is_on": config.keeps(),
        "archive": path if held else None,
        "archive_bytes": sum(os.path.getsize(file) for file in (path, f"{path}-wal") if os.path.exists(file)),
        "transcripts": len(current),
        "sessions": len({row["session"] for row in current.values()}),
        "bytes": sum(row["bytes"] for row in held),
        "packed_bytes": sum(row["packed_bytes"] for row in held),
        "earlier_generations": len(held) - len(current),
        "only_here": len(gone.keys() & current.keys()),
        "masked": sum(bool(row["is_masked"]) for row in current.values()),
        "counted_only": {"transcripts": len(counted), "sessions": len({gone[path] for path in counted} - {None})},
        "not_kept": sum(path not in current for (path,) in index.execute(_PRESENT)),
    }


def find(reader: archive.Reader, wanted: str) -> str:
    """The session whose id begins so. Raises BadInput: none is kept, or several."""
    sql = "SELECT DISTINCT session FROM files WHERE substr(session, 1, ?) = ? ORDER BY session"
    found = [row[0] for row in reader.connection.execute(sql, (len(wanted), wanted))]
    if wanted in found:
        return wanted
    if len(found) > 1:
        raise BadInput(f"{wanted} begins {len(found)} sessions: {', '.join(found[:_LISTED])}; write more of it")
    if not found:
        raise BadInput(f"{wanted}: no session that is kept begins so; `cm sessions` lists them, `cm keep` says what is")
    return str(found[0])


def restore(reader: archive.Reader, session: str, folder: str, with_earlier: bool = False) -> list[dict[str, Any]]:
    """Writes the transcripts of a session below a Claude config directory, as they were when they were last read.

    Their times are those of now: by their old ones Claude Code would delete them when it starts next.

    Args:
        with_earlier: also what transcripts held before they were rewritten, as `.jsonl.1`, the oldest first.

    Returns:
        One object for each file that was written: `path, bytes, is_masked` (it differs from what Claude Code wrote).

    Raises:
        CmError: nothing is kept of it, or a file stands in the way; nothing is written then.
    """
    sql = f"{_HELD} WHERE f.session = ? GROUP BY f.id ORDER BY f.path, f.id"
    rows = fetch_dicts(reader.connection, sql, (session,))
    rows = [row for row in rows if with_earlier or row["replaced_at"] is None]
    if not rows:
        raise CmError(f"{session}: nothing is kept of it (any more); `cm keep` says what is")
    targets = _targets(rows, folder)
    for target, _ in targets:
        if os.path.lexists(target):
            raise CmError(f"{target} is there already, and is not overwritten: name another directory")
    written: list[str] = []
    try:
        return [_write(reader, target, row, written) for target, row in targets]
    except OSError as error:
        for path in written:
            os.unlink(path)
        raise CmError(f"{error.filename or folder}: {error.strerror}; nothing was restored") from error


def _targets(rows: Sequence[dict[str, Any]], folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Where each transcript goes: to its place below `projects`; an earlier generation beside it, with its number."""
    found, earlier = [], 0
    for row in rows:
        place = os.path.relpath(real_path(row["path"]), real_path(row["root"]))
        target = os.path.join(os.path.abspath(os.path.expanduser(folder)), place)
        if row["replaced_at"] is None:
            earlier = 0
        else:
            earlier += 1
            target = f"{target}.{earlier}"
        found.append((target, row))
    return found


def _write(reader: archive.Reader, target: str, row: dict[str, Any], written: list[str]) -> dict[str, Any]:
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    _new_file(target, reader.bytes_of(row["id"]), written)
    if row["meta"] is not None and row["replaced_at"] is None:
        _new_file(f"{target.removesuffix('.jsonl')}.meta.json", [decompress(row["meta"])], written)
    return {"path": display_path(target), "bytes": row["bytes"], "is_masked": bool(row["is_masked"])}


def _new_file(path: str, pieces: Iterable[bytes], written: list[str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    written.append(path)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(pieces)


def age(text: str) -> int:
    """Nanoseconds of an age such as 90d, 12w, 6m or 1y. Raises BadInput."""
    found = re.fullmatch(r"(\d{1,4})([dwmy])", text.lower(), re.ASCII)
    if found is None:
        raise BadInput(f"{text}: write an age as 90d, 12w, 6m or 1y")
    return int(found[1]) * _DAYS[found[2]] * 86_400 * 10**9


def prune(
    db: str, older_than: int | None = None, sessions: Collection[str] | None = None, is_dry: bool = False
) -> dict[str, Any]:
    """Takes records out of the archive; the index stays as it is.

    Args:
        older_than: transcripts that were last written longer ago, in nanoseconds; None is any.
        sessions: only of these; None is all.

    Returns:
        `transcripts, bytes, packed_bytes` that went, and `only_here`: how many of these are nowhere else any more.

    Raises:
        Locked: a refresh is at work. IndexUnusable: the archive cannot be opened.
    """
    path = archive.place(db)
    if not os.path.exists(path):
        raise CmError(f"{path}: there is no archive; nothing is kept")
    with store.Lock(db, needs_index=False):
        connection = archive.open_archive(path, is_writer=True)
        try:
            limit = time.time_ns() - older_than if older_than is not None else None
            held = fetch_dicts(connection, f"{_HELD} GROUP BY f.id")
            rows = [row for row in held if _is_pruned(row, limit, sessions)]
            if rows and not is_dry:
                ids = [row["id"] for row in rows]
                store.transaction(connection, lambda: archive.drop(connection, ids, "pruned"))
                archive.compact(connection)
        finally:
            connection.close()
    return {
        "transcripts": len(rows),
        "bytes": sum(row["bytes"] for row in rows),
        "packed_bytes": sum(row["packed_bytes"] for row in rows),
        "only_here": sum(not os.path.exists(real_path(row["path"])) for row in rows),
    }


def _is_pruned(row: dict[str, Any], limit: int | None, sessions: Collection[str] | None) -> bool:
    if sessions is not None and row["session"] not in sessions:
        return False
    return limit is None or 0 <= row["mtime_ns"] < limit
