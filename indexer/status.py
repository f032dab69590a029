"""The index's health: what it covers, what it could not use, what is not certain, and how old it is."""

from __future__ import annotations

import os
import time

from . import cleanup, config, hosts, keeping, pricing, schema
from .store import display_path, fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from typing import Any

_PRESENT = "replaced_at IS NULL AND gone_at IS NULL"

# Transcripts and lines are this machine's, whose files can be looked at; responses are of the whole index.
_FILES = f"""
SELECT
  coalesce(sum({_PRESENT}), 0) AS present,
  coalesce(sum(replaced_at IS NULL AND gone_at IS NOT NULL), 0) AS gone,
  coalesce(sum(replaced_at IS NOT NULL), 0) AS rewritten,
  coalesce(sum({_PRESENT} AND error IS NOT NULL), 0) AS failed,
  coalesce(sum(CASE WHEN {_PRESENT} THEN max(size, 0) END), 0) AS bytes
FROM files
WHERE host_id = {hosts.THIS}
"""

_COVERAGE = f"""
SELECT
  coalesce(sum(line_count + (tail IS NOT NULL)), 0) AS lines_seen,
  coalesce(sum(indexed_lines + coalesce(tail = 'indexed', 0)), 0) AS lines_indexed,
  coalesce(sum(tail = 'pending'), 0) AS lines_pending
FROM files
WHERE {_PRESENT} AND host_id = {hosts.THIS}
"""

_SKIPPED = f"""
SELECT s.reason, count(*)
FROM skipped_lines AS s
JOIN files AS f ON f.id = s.id >> 40
WHERE f.replaced_at IS NULL AND f.gone_at IS NULL AND f.host_id = {hosts.THIS} AND NOT s.is_partial
GROUP BY s.reason
ORDER BY 2 DESC, 1
"""

# Numbers whose every source is gone: the index alone still has them.
_KEPT = f"""
SELECT count(*) AS responses, coalesce(sum(tokens), 0) AS tokens
FROM (
  SELECT r.input_tokens + r.output_tokens + r.cache_write_tokens + r.cache_read_tokens AS tokens
  FROM record_usage AS u
  JOIN responses AS r ON r.id = u.response_id
  WHERE r.part = 0
  GROUP BY r.id
  HAVING NOT max(u.record_id >> 40 IN (SELECT id FROM files WHERE {_PRESENT}))
)
"""

_UNDERCOUNTED = "SELECT coalesce(sum(undercounted_responses), 0) FROM usage_days"

_REFRESHES = """
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', started_at / 1000.0, 'unixepoch') AS started_at, seconds, command, pid,
  files_seen, files_parsed, files_failed, bytes_read, records_added, lines_skipped
FROM refreshes
ORDER BY id DESC
LIMIT 5
"""

_OLD_SECONDS = 86_400


def status(connection: sqlite3.Connection, db: str, option: Sequence[str] = ()) -> dict[str, Any]:
    """The object that `cm status --json` prints, of the roots that are named or configured; read in one transaction."""
    roots, _ = config.roots(option)
    with snapshot(connection):
        (files,) = fetch_dicts(connection, _FILES)
        (kept,) = fetch_dicts(connection, _KEPT)
        refreshes = fetch_dicts(connection, _REFRESHES)
        found: dict[str, Any] = {
            "database": db,
            "database_bytes": _size(db),
            "schema_version": schema.version(connection),
            "roots": [display_path(root) for root in roots],
            "indexed_roots": hosts.roots(connection),
            "hosts": hosts.listed(connection),
            "files": files,
            "coverage": coverage(connection),
            "records": _count(connection, "SELECT count(*) FROM records"),
            "responses": _count(connection, "SELECT coalesce(sum(responses), 0) FROM usage_days"),
            "undercounted_responses": _count(connection, _UNDERCOUNTED),
            "implausible_responses": _count(connection, "SELECT count(*) FROM responses WHERE flags & 8"),
            "unpriced": pricing.unpriced(connection),
            "sources_gone": kept,
            "failures": dict(
                connection.execute(
                    f"SELECT path, error FROM files WHERE {_PRESENT} AND host_id = {hosts.THIS} AND error IS NOT NULL"
                    " UNION SELECT x.key, x.value FROM meta AS m, json_each(m.value) AS x WHERE m.key = 'unreadable'"
                    " ORDER BY path"
                )
            ),
            "last_refresh": refreshes[0] if refreshes else None,
            "refreshes": refreshes,
            **cleanup.report(connection, roots),
            "keep": keeping.status(connection, db),
        }
        return found | {"warnings": _warnings(connection, found["deletions"], option)}


def _warnings(connection: sqlite3.Connection, deletions: dict[str, Any], option: Sequence[str]) -> list[str]:
    """What to do something about."""
    found = []
    if missing := config.missing_roots(option):
        found.append(missing)
    (last,) = connection.execute("SELECT max(started_at) FROM refreshes").fetchone()
    age = time.time() - last / 1000 if last else 0
    if age > _OLD_SECONDS:
        days = int(age // _OLD_SECONDS)
        found.append(
            f"the last refresh was {days} day{'s' * (days > 1)} ago: run `cm refresh`, or have `cm schedule` do it"
        )
    if connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone():
        found.append("the first refresh has not completed: these are not all numbers yet; run `cm refresh`")
    if deletions["not_indexed"]:
        found.append(
            f"{deletions['not_indexed']:,} transcripts that Claude Code deletes within {deletions['within_days']} days"
            " are not indexed as they are now: run `cm refresh`"
        )
    return found


def coverage(connection: sqlite3.Connection) -> dict[str, Any]:
    """Lines of the transcripts as they are now: seen = indexed + skipped + pending."""
    (found,) = fetch_dicts(connection, _COVERAGE)
    reasons: dict[str, int] = dict(connection.execute(_SKIPPED).fetchall())
    return {
        "lines_seen": found["lines_seen"],
        "lines_indexed": found["lines_indexed"],
        "lines_skipped": sum(reasons.values()),
        "lines_pending": found["lines_pending"],
        "skipped_by_reason": reasons,
    }


def _count(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])


def _size(db: str) -> int:
    return sum(os.path.getsize(path) for path in (db, f"{db}-wal") if os.path.exists(path))
