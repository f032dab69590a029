"""Which session goes on from which: what transcripts say of it, and what two of them have in common.

A fork repeats its parent's records; newer versions of Claude Code say whose they are. A session that carries out a plan
or goes on after a compaction names the transcript before it. `/clear` leaves nothing that could be known by.
"""

from __future__ import annotations

from .digest import digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

FORK, CONTINUED, SHARED = "fork", "continued", "shared"

_TABLES = (
    "said (session_id INTEGER, parent_id INTEGER, parent TEXT, kind TEXT, PRIMARY KEY (session_id, parent_id))",
    "copied (id INTEGER PRIMARY KEY)",
    "shared (id INTEGER, at INTEGER, owner_id INTEGER, other_id INTEGER, PRIMARY KEY (id, other_id))",
)
_SAID = """
SELECT DISTINCT c.session_id, c.forked_from, c.continued_from, s.session_id
FROM contexts AS c JOIN sessions AS s ON s.id = c.session_id
WHERE coalesce(c.forked_from, c.continued_from) IS NOT NULL AND EXISTS (SELECT 1 FROM records WHERE context_id = c.id)
"""
# Responses that stand in two transcripts: of the touched sessions, or of all where most are touched, which reads one
# index in its order.
_COPIED = """
INSERT INTO temp.copied
SELECT DISTINCT u.response_id
FROM temp.touched_sessions AS t
CROSS JOIN contexts AS c ON c.session_id = t.id
CROSS JOIN records AS r ON r.context_id = c.id
CROSS JOIN record_usage AS u ON u.record_id = r.id
WHERE EXISTS (
  SELECT 1 FROM record_usage AS v WHERE v.response_id = u.response_id AND v.record_id >> 40 <> u.record_id >> 40
)
"""
_ALL_COPIED = """
INSERT INTO temp.copied
SELECT response_id FROM record_usage GROUP BY response_id HAVING min(record_id) >> 40 < max(record_id) >> 40
"""
_MOST = "SELECT 2 * (SELECT count(*) FROM temp.touched_sessions) > (SELECT count(*) FROM sessions)"
_SHARED = """
INSERT OR IGNORE INTO temp.shared
SELECT o.id, o.at, o.session_id, c.session_id
FROM temp.copied AS d
CROSS JOIN responses AS o ON o.id = d.id AND o.part = 0
CROSS JOIN record_usage AS u ON u.response_id = o.id
CROSS JOIN records AS r ON r.id = u.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id AND c.session_id <> o.session_id
"""
_TOUCHED = "IN (SELECT id FROM temp.touched_sessions)"
_OUTDATED = f"DELETE FROM session_relations WHERE session_id {_TOUCHED} OR parent_id {_TOUCHED}"
# Most have nothing to do with another.
_ARE_RELATED = f"""
SELECT
  EXISTS (SELECT 1 FROM temp.copied)
  OR EXISTS (SELECT 1 FROM temp.said WHERE session_id {_TOUCHED} OR parent_id {_TOUCHED})
"""
# Two sessions that have responses in common: the one that owns more of them is the parent of the other, unless they say
# otherwise. One that says whom it was copied from has no other parent.
_PAIRS = """
SELECT
  min(owner_id, other_id) AS lower_id, max(owner_id, other_id) AS higher_id,
  count(*) AS total, max(at) AS until, 2 * sum(owner_id < other_id) >= count(*) AS is_lower_first
FROM temp.shared
GROUP BY 1, 2
"""
_RELATIONS = f"""
INSERT OR IGNORE INTO session_relations
WITH pairs AS ({_PAIRS}), inferred AS (
  SELECT
    iif(is_lower_first, higher_id, lower_id) AS session_id, iif(is_lower_first, lower_id, higher_id) AS parent_id,
    total, until
  FROM pairs
  WHERE NOT EXISTS (
    SELECT 1 FROM temp.said AS s
    WHERE s.session_id = lower_id AND s.parent_id = higher_id OR s.session_id = higher_id AND s.parent_id = lower_id
  )
), known AS (
  SELECT s.session_id, s.parent_id, s.parent, s.kind, coalesce(n.total, 0) AS total, n.until
  FROM temp.said AS s
  LEFT JOIN pairs AS n ON n.lower_id = min(s.session_id, s.parent_id) AND n.higher_id = max(s.session_id, s.parent_id)
  UNION ALL
  SELECT
    i.session_id, i.parent_id, p.session_id,
    iif(
      EXISTS (SELECT 1 FROM temp.said AS s WHERE s.session_id = i.session_id AND s.kind = '{FORK}'),
      '{SHARED}', '{FORK}'
    ),
    i.total, i.until
  FROM inferred AS i JOIN sessions AS p ON p.id = i.parent_id
)
SELECT session_id, parent_id, parent, iif(total > 0 AND kind = '{CONTINUED}', '{FORK}', kind), total, until
FROM known
WHERE
  (session_id {_TOUCHED} OR parent_id {_TOUCHED})
  AND parent_id NOT IN (SELECT id FROM forgotten WHERE is_all)
"""
_COUNTS = f"""
UPDATE session_facts SET shared_count = n.total
FROM (
  SELECT session_id, count(DISTINCT id) AS total
  FROM (SELECT id, owner_id AS session_id FROM temp.shared UNION ALL SELECT id, other_id FROM temp.shared)
  WHERE session_id {_TOUCHED}
  GROUP BY session_id
) AS n
WHERE n.session_id = session_facts.session_id
"""
# Whoever has a copy of a response that changed, which another session may own now.
_HOLDERS = """
INSERT OR IGNORE INTO temp.touched_sessions
SELECT c.session_id
FROM temp.touched_responses AS t
CROSS JOIN record_usage AS u ON u.response_id = t.id
CROSS JOIN records AS r ON r.id = u.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id
"""


def touch(connection: sqlite3.Connection) -> None:
    """Marks the sessions whose relations the touched responses may change."""
    connection.execute(_HOLDERS)


def derive(connection: sqlite3.Connection) -> None:
    """Finds the relations of the touched sessions anew, and counts in their facts what they share."""
    execute = connection.execute
    for table in _TABLES:
        execute(f"CREATE TEMP TABLE IF NOT EXISTS {table}")
        execute(f"DELETE FROM temp.{table.partition(' ')[0]}")
    connection.executemany("INSERT OR IGNORE INTO temp.said VALUES (?, ?, ?, ?)", _said(connection))
    execute(_ALL_COPIED if execute(_MOST).fetchone()[0] else _COPIED)
    execute(_OUTDATED)
    if execute(_ARE_RELATED).fetchone()[0]:
        for sql in (_SHARED, _RELATIONS, _COUNTS):
            execute(sql)


def _said(connection: sqlite3.Connection) -> list[tuple[int, int, str, str]]:
    """What sessions say of whom they go on from, forks first: a copy of a session names the same as that does."""
    found = set()
    for session, forked_from, continued_from, name in connection.execute(_SAID):
        for kind, parent in ((FORK, forked_from), (CONTINUED, continued_from)):
            if parent is not None and parent != name:
                found.add((session, digest_text(parent), parent, kind))
    return sorted(found, key=lambda row: (row[3] != FORK, row))
