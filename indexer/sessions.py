"""Sessions: the one that is meant, what it was, what it used, and how it is taken up again."""

from __future__ import annotations

import re
import shlex
from collections import namedtuple
from datetime import UTC, datetime

from .digest import digest
from .errors import BadInput
from .store import fetch_dicts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from typing import Any, NamedTuple

    Row = dict[str, Any]

    class Target(NamedTuple):
        """A session by its row and its id, and the record in it that was asked for, if it was one."""

        id: int
        session_id: str
        record_id: int | None

else:
    Target = namedtuple("Target", "id session_id record_id")


_LISTED = 5
_TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
SPENT = """
SELECT
  r.id, r.session_id, r.model_id, r.part, r.input_tokens, r.output_tokens,
  r.cache_write_tokens AS cache_creation_tokens, r.cache_read_tokens,
  r.input + r.output + r.cache_write + r.cache_read + r.web_search AS cost_nano
FROM response_costs AS r
WHERE r.id IN (
  SELECT u.response_id
  FROM contexts AS c
  CROSS JOIN records AS d ON d.context_id = c.id
  CROSS JOIN record_usage AS u ON u.record_id = d.id
  WHERE c.session_id = ?
)
"""


def find(connection: sqlite3.Connection, wanted: str, projects: Sequence[int] | None = None) -> Target:
    """The session or message that is meant.

    Args:
        wanted: the beginning of a session's id, if it is the only one; `last`; or a message: its uuid, the API's id
            of it, or its id in the index.
        projects: ids of projects to look in; None is all.

    Raises:
        BadInput: there is none, or there are several; these are listed.
    """
    if wanted == "last":
        return _last(connection, projects)
    sql = "SELECT s.id, s.session_id FROM sessions AS s WHERE substr(s.session_id, 1, length(?)) = ?"
    found = connection.execute(f"{sql}{_of(projects)} ORDER BY s.last_at DESC", (wanted, wanted)).fetchall()
    found = [row for row in found if row[1] == wanted] or found
    if len(found) == 1:
        return Target(found[0][0], found[0][1], None)
    if found:
        raise BadInput(f"{len(found)} sessions begin with {wanted}: {_candidates(connection, found)}; give more of it")
    return _message(connection, wanted)


def _last(connection: sqlite3.Connection, projects: Sequence[int] | None) -> Target:
    sql = f"SELECT s.id, s.session_id FROM sessions AS s WHERE s.record_count > 0{_of(projects)}"
    row = connection.execute(f"{sql} ORDER BY s.prompt_count = 0, s.last_at DESC, s.session_id LIMIT 1").fetchone()
    if row is None:
        raise BadInput("there is no session yet" if projects is None else "there is no session of that project")
    return Target(row[0], row[1], None)


def _of(projects: Sequence[int] | None) -> str:
    return "" if projects is None else f" AND s.project_id IN ({', '.join(map(str, projects))})"


def _candidates(connection: sqlite3.Connection, found: Sequence[tuple[int, str]]) -> str:
    ids = ", ".join(str(row[0]) for row in found[:_LISTED])
    sql = f"SELECT session_id, title, last_at FROM sessions WHERE id IN ({ids}) ORDER BY last_at DESC"
    named = [
        f"{session} ({iso(at)[:10]}, {(title or 'no title')[:40]})" for session, title, at in connection.execute(sql)
    ]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return ", ".join(named) + more


def _message(connection: sqlite3.Connection, wanted: str) -> Target:
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 19 else -1
    response = digest(wanted.encode("utf-8", "replace"))
    sql = """
SELECT s.id, s.session_id, r.id
FROM records AS r
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
JOIN files AS f ON f.id = r.id >> 40
WHERE r.id IN (
  SELECT ? UNION ALL SELECT id FROM records WHERE uuid = ?
  UNION ALL SELECT owner_id FROM responses WHERE id = ? AND key = ?
)
ORDER BY f.gone_at IS NOT NULL OR f.replaced_at IS NOT NULL, c.is_background, r.at, s.session_id, r.id
LIMIT 1
"""
    row = connection.execute(sql, (number, wanted, response, wanted)).fetchone()
    if row is None:
        raise BadInput(f"no session or message begins with {wanted}; `cm sessions` and `cm search` list them")
    return Target._make(row)


def about(connection: sqlite3.Connection, session: int) -> Row:
    """What a session was: its row of the view `conversations`, what it led to, how it is resumed, and what it used.

    `changed_files, pull_request_urls, models` (of the main conversation, in their order), `forked_from` and `forks`
    (sessions that it repeats, or that repeat it) are lists, as are `parents` and `children`, sessions that it goes on
    from, the nearest first, or that go on from it: `session_id, relation, title`, and of parents `is_indexed`. The sums
    are of what it owns, as the reports have them.
    """
    (row,) = fetch_dicts(connection, _CONVERSATION, (session,))
    for name, sql in _LISTS.items():
        row[name] = [value for (value,) in connection.execute(sql, (session,))]
    row["parents"] = [
        {**parent, "is_indexed": bool(parent["is_indexed"])} for parent in fetch_dicts(connection, _PARENTS, (session,))
    ]
    row["children"] = fetch_dicts(connection, _CHILDREN, (session,))
    how = resumes(connection, [session]).get(session, NO_RESUME)
    spent = f"{SPENT.partition('WHERE')[0]} WHERE r.session_id = ?"
    return {**row, **how, **sums(fetch_dicts(connection, spent, (session,)))}


_CONVERSATION = """
SELECT v.*
FROM sessions AS s JOIN conversations AS v ON v.session_id = s.session_id
WHERE s.id = ?
"""
_LISTS = {
    "changed_files": """
SELECT f.path
FROM sessions AS s JOIN changed_files AS f ON f.session_id = s.session_id
WHERE s.id = ? ORDER BY f.path
""",
    "pull_request_urls": """
SELECT DISTINCT r.text
FROM contexts AS c
JOIN records AS r ON r.context_id = c.id
JOIN record_types AS t ON t.id = r.type_id
WHERE c.session_id = ? AND t.type = 'pr-link' AND r.text IS NOT NULL
ORDER BY r.at
""",
    "models": """
SELECT m.name
FROM responses AS r JOIN models AS m ON m.id = r.model_id
WHERE r.session_id = ? AND r.part = 0 AND NOT r.is_sidechain
GROUP BY m.id ORDER BY min(r.at), m.name
""",
    "forked_from": "SELECT parent FROM session_relations WHERE session_id = ? AND kind = 'fork' ORDER BY 1",
    "forks": """
SELECT s.session_id
FROM session_relations AS v JOIN sessions AS s ON s.id = v.session_id
WHERE v.parent_id = ? AND v.kind = 'fork' ORDER BY 1
""",
}
_CHILDREN = """
SELECT s.session_id, v.kind AS relation, s.title
FROM session_relations AS v JOIN sessions AS s ON s.id = v.session_id
WHERE v.parent_id = ? AND v.kind <> 'shared'
ORDER BY s.first_at, s.session_id
"""
_PARENTS = """
SELECT v.parent AS session_id, v.relation, v.parent_title AS title, v.is_indexed
FROM sessions AS s JOIN relations AS v ON v.session_id = s.session_id
WHERE s.id = ? AND v.relation <> 'shared'
ORDER BY v.rank
"""


def resumes(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Row]:
    """How sessions are taken up again: `resume`, a shell command, and `has_transcript`, whether it can work.

    Claude Code looks for a session among those of the directory it is started in, so it is started where it first was.
    """
    named = ", ".join(map(str, ids))
    found: dict[int, Row] = {}
    for session, session_id, path, is_gone in connection.execute(_TRANSCRIPTS.format(ids=named)):
        folder = path.split("/")[-2]
        directories = [row[0] for row in connection.execute(_DIRECTORIES, (session,))]
        home = next((cwd for cwd in directories if re.sub(r"[^a-zA-Z0-9]", "-", cwd)[:200] == folder[:200]), None)
        command = f"claude --resume {shlex.quote(session_id)}"
        command = command if home is None else f"cd {shlex.quote(home)} && {command}"
        found[session] = {"resume": command, "has_transcript": not is_gone}
    return found


NO_RESUME: Row = {"resume": None, "has_transcript": False}
# Those that are there come last, and stay.
_TRANSCRIPTS = """
SELECT s.id, s.session_id, f.path, f.gone_at IS NOT NULL OR f.host_id <> 1 AS is_gone
FROM files AS f
JOIN sessions AS s ON s.id = f.session_id
WHERE f.session_id IN ({ids}) AND f.replaced_at IS NULL AND f.path LIKE '%/' || s.session_id || '.jsonl'
ORDER BY is_gone DESC, f.id
"""
_DIRECTORIES = """
SELECT DISTINCT cwd FROM contexts WHERE session_id = ? AND cwd IS NOT NULL AND NOT is_sidechain ORDER BY id
"""


def sums(spent: Sequence[Row]) -> Row:
    """Tokens and cost of responses: the cost of those that have a price, None if none of several has one."""
    tokens = {name: sum(row[name] for row in spent) for name in _TOKENS}
    priced = [row["cost_nano"] for row in spent if row["cost_nano"] is not None]
    unpriced = sum(row[name] for row in spent if row["cost_nano"] is None for name in _TOKENS)
    return {
        **tokens,
        "total_tokens": sum(tokens.values()),
        "cost_usd": sum(priced) / 1e9 if priced or not spent else None,
        "unpriced_tokens": unpriced,
        "responses": sum(row["part"] == 0 for row in spent),
    }


def iso(at: int) -> str:
    """Milliseconds since 1970 as UTC ISO 8601."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"
