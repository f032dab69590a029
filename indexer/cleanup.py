"""What Claude Code deletes by itself: which transcripts are next, and what its prompt history tells of earlier ones."""

from __future__ import annotations

import os
import time

from .discovery import discover
from .reader import open_regular
from .store import display_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .discovery import Found

DEFAULT_DAYS = 30
HORIZON_DAYS = 7
_DAY = 86_400
_YEAR_10000 = 253_402_300_800_000

_READ_TO_THE_END = """
SELECT path, size, mtime_ns FROM files WHERE host_id = 1 AND replaced_at IS NULL AND gone_at IS NULL AND error IS NULL
"""
_AS_TEXT = """
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', ? / 1000.0, 'unixepoch'), strftime('%Y-%m-%dT%H:%M:%fZ', ? / 1000.0, 'unixepoch')
"""


def report(connection: sqlite3.Connection, roots: Sequence[str]) -> dict[str, Any]:
    """Transcripts that are deleted next, and prompts whose transcripts the index never saw."""
    found = discover(roots).files
    return {"deletions": _deletions(connection, roots, found), "gone_before_index": _gone(connection, roots, found)}


def period_days(root: str) -> int:
    """Days that Claude Code keeps a transcript after its last change: as its settings say, else 30."""
    days = DEFAULT_DAYS
    for name in ("settings.json", "settings.local.json"):
        value = _settings(os.path.join(root, name)).get("cleanupPeriodDays")
        # Claude Code takes nothing below a day for a setting.
        if type(value) is int and value >= 1:
            days = value
    return days


def _settings(path: str) -> dict[str, Any]:
    import orjson

    try:
        with open(open_regular(path), "rb") as file:
            found = orjson.loads(file.read())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _deletions(connection: sqlite3.Connection, roots: Sequence[str], found: Sequence[Found]) -> dict[str, Any]:
    """What is old enough to be deleted within a week, as it is on disk now, and how much of that is indexed."""
    now = time.time()
    indexed = {path: (size, mtime_ns) for path, size, mtime_ns in connection.execute(_READ_TO_THE_END)}
    by_root: list[dict[str, Any]] = []
    for root in roots:
        days = period_days(root)
        ends = {file: file.mtime_ns / 1e9 + days * _DAY for file in found if file.root == root}
        due = [file for file, end in ends.items() if end <= now + HORIZON_DAYS * _DAY]
        unread = [file for file in due if indexed.get(display_path(file.path)) != (file.size, file.mtime_ns)]
        by_root.append(
            {
                "root": root,
                "cleanup_period_days": days,
                "transcripts": len(ends),
                "due": len(due),
                "overdue": sum(ends[file] <= now for file in due),
                "not_indexed": len(unread),
            }
        )
    total = {key: sum(root[key] for root in by_root) for key in ("due", "overdue", "not_indexed")}
    return {"within_days": HORIZON_DAYS, **total, "roots": by_root}


def _gone(connection: sqlite3.Connection, roots: Sequence[str], found: Sequence[Found]) -> dict[str, Any]:
    """Prompts of sessions that neither the index nor a transcript knows: theirs were deleted before they were read.

    The oldest prompts name no session; these count if they are older than everything indexed.
    """
    known = {row[0] for row in connection.execute("SELECT session_id FROM sessions WHERE record_count > 0")}
    known.update(os.path.basename(file.path).removesuffix(".jsonl") for file in found)
    (first,) = connection.execute("SELECT min(at) FROM records").fetchone()
    sessions, times = set(), []
    for root in roots:
        for session, at in _prompts(os.path.join(root, "history.jsonl")):
            if session is None:
                is_gone = first is not None and at < first
            else:
                is_gone = session not in known
            if is_gone:
                times.append(at)
                sessions.add(session)
    span = (min(times), max(times)) if times else (None, None)
    first_at, last_at = connection.execute(_AS_TEXT, span).fetchone()
    return {"prompts": len(times), "sessions": len(sessions - {None}), "first_at": first_at, "last_at": last_at}


def _prompts(path: str) -> Iterator[tuple[str | None, int]]:
    """Session and time, in milliseconds, of the prompts in a history file; unreadable lines are passed over."""
    import orjson

    try:
        with open(open_regular(path), "rb") as file:
            lines = file.readlines()
    except OSError:
        return
    for line in lines:
        try:
            prompt = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        at = prompt.get("timestamp") if isinstance(prompt, dict) else None
        if type(at) is not int or not 0 < at < _YEAR_10000:
            continue
        # A session in which nothing was said but /login or /exit never had a transcript.
        if not str(prompt.get("display", "")).startswith("/"):
            session = prompt.get("sessionId")
            yield session if isinstance(session, str) and session else None, at
