"""From what single records say to responses, tool calls and sessions, in SQL.

Each of them is derived anew from its records whenever one of these is added, read again or taken away, so the result
does not depend on the order in which files are found, or on how their bytes are cut into refreshes. What changed is
collected in temporary tables while rows are stored; the same transaction derives it.
"""

from __future__ import annotations

from . import fulltext, relations, rollups, session_facts
from .digest import digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

_TYPES = {
    **session_facts.TYPES,
    "ai_title": digest_text("ai-title", None),
    "custom_title": digest_text("custom-title", None),
    "summary": digest_text("summary", None),
}

# Which responses or calls: the touched ones, or all, without a look at each.
_TOUCHED = "IN (SELECT id FROM temp.touched_{})"
_ALL = "IS NOT NULL"

# Where worktrees of a repository are kept within it: by Claude Code, and by custom.
_WORKTREES = ((".claude", "worktrees"), (".worktrees",))

# What single records say, in rows that name them.
BY_RECORD = ("record_usage", "tool_uses", "tool_results")
_NOTHING: Mapping[str, int] = {}

TOUCHED = f"""{"".join(rollups.TOUCHED)}
CREATE TEMP TABLE IF NOT EXISTS touched_responses (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS touched_calls (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS touched_sessions (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS owners (
  id INTEGER PRIMARY KEY, record_id INTEGER, owner_rank INTEGER, model_id INTEGER, advised_id INTEGER,
  record_count INTEGER
);
CREATE TEMP TABLE IF NOT EXISTS notable (
  session_id INTEGER, type_id INTEGER, id INTEGER, is_sidechain INTEGER, PRIMARY KEY (session_id, type_id, id)
) WITHOUT ROWID;
"""

# A call belongs to the earliest original of the records that make it, as a response does.
_TOOL_CALLS = """
INSERT OR REPLACE INTO tool_calls
SELECT
  o.id, u.tool_use_id, u.name,
  CASE WHEN u.name LIKE 'mcp\\_\\_%\\_\\_%' ESCAPE '\\'
    THEN substr(u.name, 6, instr(substr(u.name, 6), '__') - 1) END,
  CASE WHEN u.name IN ('Skill', 'SlashCommand') THEN u.subject END,
  CASE WHEN u.name IN ('Task', 'Agent') THEN u.subject END,
  max(t.agent), o.record_id,
  -- A progress record is not itself an answer, but the one embedded in it is.
  coalesce(r.response_id, (SELECT e.response_id FROM record_usage AS e WHERE e.record_id = r.id AND e.part = 0)),
  c.session_id,
  max(t.is_error), max(t.bytes), coalesce(max(t.web_searches), 0), o.owner_rank & 17592186044415, min(b.at)
FROM temp.owners AS o
CROSS JOIN tool_uses AS u ON u.call_id = o.id AND u.record_id = o.record_id
CROSS JOIN records AS r ON r.id = o.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id
LEFT JOIN tool_results AS t ON t.call_id = o.id
LEFT JOIN records AS b ON b.id = t.record_id
GROUP BY o.id
"""

# Responses whose searches are told by the results of their tool calls: before the calls change hands, and after.
_SEARCHED = """
INSERT OR IGNORE INTO temp.touched_responses
SELECT response_id FROM tool_calls
WHERE id IN (SELECT id FROM temp.touched_calls) AND web_searches > 0 AND response_id IS NOT NULL
"""

# The price of a model on each day it was used. Only these rows are written when a price changes.
_DAILY_PRICES = """
INSERT OR REPLACE INTO daily_prices
SELECT r.model_id, r.day, x.id, x.long_context_above
FROM ({days}) AS r
JOIN models AS m ON m.id = r.model_id
LEFT JOIN prices AS x ON
  x.model = m.canonical AND r.day * 86400000 >= x.valid_from AND r.day * 86400000 < x.valid_until
"""
_TOUCHED_DAYS = """
SELECT DISTINCT model_id, at / 86400000 AS day
FROM responses
WHERE id IN (SELECT id FROM temp.touched_responses)
"""
SHARD_DAYS = "SELECT DISTINCT model_id, at / 86400000 AS day FROM shard.responses"
_KNOWN_DAYS = "SELECT model_id, day FROM daily_prices"

# The sessions that a response or a call leaves and enters when its owner changes are both recounted.
_SESSIONS_OF = """
INSERT OR IGNORE INTO temp.touched_sessions
SELECT session_id FROM {table} WHERE id IN (SELECT id FROM temp.{touched})
"""

_GONE = """
DELETE FROM {table}
WHERE id IN (SELECT id FROM temp.{touched}) AND NOT EXISTS (SELECT 1 FROM {facts} WHERE {id} = {table}.id)
"""

_NEW_RESPONSES = """
SELECT count(*) FROM temp.touched_responses AS t
WHERE
  NOT EXISTS (SELECT 1 FROM responses WHERE id = t.id)
  AND EXISTS (SELECT 1 FROM record_usage WHERE response_id = t.id AND part = 0)
"""

# With min() the other columns are those of the row that has the minimum.
_OWNERS = """
INSERT OR REPLACE INTO temp.owners
SELECT {id}, record_id, min(owner_rank), {of_responses}, count(*)
FROM {table} AS u
WHERE {id} {touched}
GROUP BY {id}
"""

# Copies agree in rank and time. The joins that decide between them would double the cost of a load, were they made for
# everything.
_TIED = """
  o.record_count > 1 AND EXISTS (
    SELECT 1 FROM {table} AS x WHERE x.{id} = o.id AND x.owner_rank = o.owner_rank AND x.record_id <> o.record_id
  )
"""
# Whether there are any owners, and any that must be decided between.
_FOUND = f"""
SELECT EXISTS (SELECT 1 FROM temp.owners), EXISTS (SELECT 1 FROM temp.owners AS o WHERE {_TIED})
"""
_TIED_OWNERS = f"""
INSERT OR REPLACE INTO temp.owners
SELECT {{id}}, record_id, owner_rank, model_id, advised_id, record_count FROM (
  SELECT
    u.{{id}}, u.record_id, u.owner_rank, {{of_responses}}, o.record_count,
    row_number() OVER (
      PARTITION BY u.{{id}}
      ORDER BY s.session_id, h.name, h.user, f.path, u.record_id & 1099511627775, u.record_id
    ) AS n
  FROM temp.owners AS o
  CROSS JOIN {{table}} AS u ON u.{{id}} = o.id AND u.owner_rank = o.owner_rank
  JOIN records AS r ON r.id = u.record_id
  JOIN contexts AS c ON c.id = r.context_id
  JOIN sessions AS s ON s.id = c.session_id
  JOIN files AS f ON f.id = u.record_id >> 40
  JOIN hosts AS h ON h.id = f.host_id
  WHERE {_TIED}
)
WHERE n = 1
"""

# An advisor's call belongs where the response does that it was made for. Few records have a flag.
_RESPONSES = """
INSERT OR REPLACE INTO responses
SELECT
  o.id, u.key, u.part, o.model_id, c.session_id, c.id, w.record_id,
  w.owner_rank & 17592186044415,
  w.owner_rank >> 46,
  max(u.input_tokens), max(u.output_tokens), max(u.cache_write_tokens), max(u.cache_write_1h_tokens),
  max(u.cache_read_tokens),
  max(max(u.web_searches), coalesce(t.web_searches, 0)),
  CASE WHEN max(u.flags) = 0 AND o.advised_id IS NULL THEN 0 ELSE (
    SELECT
      max(a.flags & 1) | max(a.flags & 2) | max(a.flags & 4)
      | max((a.response_id = o.id) * (a.flags & 8)) | max((a.response_id = o.id) * (a.flags & 16))
    FROM record_usage AS a WHERE a.response_id IN (o.id, o.advised_id)
  ) END,
  max(u.stop_reason), u.part = 0 AND max(u.output_tokens) <= 10 AND max(u.stop_reason) IS NULL,
  max(u.recorded_nano), o.record_count
FROM temp.owners AS o
CROSS JOIN temp.owners AS w ON w.id = coalesce(o.advised_id, o.id)
CROSS JOIN records AS r ON r.id = w.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id
LEFT JOIN (
  -- At once: at the end of a load tool calls have no indexes yet.
  SELECT response_id, sum(web_searches) AS web_searches
  FROM tool_calls
  WHERE web_searches > 0 AND response_id IN (SELECT id FROM temp.owners)
  GROUP BY response_id
) AS t ON t.response_id = o.id
CROSS JOIN record_usage AS u ON u.response_id = o.id
GROUP BY o.id
"""

# An advisor's calls follow the response they were made for.
_ADVISED = """
INSERT OR IGNORE INTO temp.touched_responses
SELECT response_id FROM record_usage
WHERE advised_id IS NOT NULL AND advised_id IN (SELECT id FROM temp.touched_responses)
"""

# In every session that has a copy of the call: a fork may be all that is left of a subagent's parent.
_CALLED_AGENTS = """
INSERT INTO agents (session_id, agent, type, description, source)
SELECT c.session_id, t.agent, u.subject, NULL, 2
FROM tool_results AS t
CROSS JOIN tool_uses AS u ON u.call_id = t.call_id
CROSS JOIN records AS r ON r.id = u.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id
WHERE t.call_id {touched} AND t.agent IS NOT NULL AND u.subject IS NOT NULL AND u.name IN ('Task', 'Agent')
ON CONFLICT DO UPDATE SET type = excluded.type
WHERE (excluded.source, excluded.type) < (source, type)
"""

# The records that a session's title and facts are taken from.
_NOTABLE = f"""
INSERT INTO temp.notable
SELECT c.session_id, r.type_id, r.id, c.is_sidechain
FROM contexts AS c
JOIN records AS r ON r.context_id = c.id
WHERE
  c.session_id IN (SELECT id FROM temp.touched_sessions)
  AND r.type_id IN ({", ".join(f":{name}" for name in _TYPES)})
"""

_SESSIONS = """
UPDATE sessions SET
  first_at = n.first_at, last_at = n.last_at, record_count = n.record_count,
  prompt_count = (
    SELECT count(DISTINCT coalesce(r.uuid, r.id))
    FROM temp.notable AS m JOIN records AS r ON r.id = m.id
    WHERE m.session_id = sessions.id AND m.type_id = :prompt AND NOT m.is_sidechain
  ),
  title = coalesce(
    (
      SELECT r.text
      FROM temp.notable AS m JOIN records AS r ON r.id = m.id JOIN files AS f ON f.id = r.id >> 40
      JOIN hosts AS h ON h.id = f.host_id
      WHERE m.session_id = sessions.id AND m.type_id IN (:ai_title, :custom_title) AND r.text IS NOT NULL
      ORDER BY r.at DESC, h.name DESC, h.user DESC, f.path DESC, r.id & 1099511627775 DESC, r.id DESC LIMIT 1
    ),
    (
      SELECT r.text
      FROM temp.notable AS m JOIN records AS r ON r.id = m.id JOIN files AS f ON f.id = r.id >> 40
      WHERE
        m.session_id = sessions.id AND m.type_id = :summary AND r.text IS NOT NULL
        -- Older versions wrote into a transcript what they thought of others.
        AND (
          r.parent_uuid IS NULL
          OR EXISTS (
            SELECT 1 FROM records AS l JOIN contexts AS x ON x.id = l.context_id
            WHERE l.uuid = r.parent_uuid AND x.session_id = sessions.id
          )
        )
      ORDER BY r.at DESC, f.path DESC, r.id & 1099511627775 DESC, r.id DESC LIMIT 1
    ),
    (
      SELECT substr(r.text, 1, 200)
      FROM temp.notable AS m JOIN records AS r ON r.id = m.id JOIN files AS f ON f.id = r.id >> 40
      JOIN hosts AS h ON h.id = f.host_id
      WHERE m.session_id = sessions.id AND m.type_id = :prompt AND NOT m.is_sidechain AND r.text IS NOT NULL
      ORDER BY r.at, h.name, h.user, f.path, r.id & 1099511627775, r.id LIMIT 1
    )
  )
FROM (
  -- Each of itself: the first and the last of a context SQLite finds without its other records.
  SELECT
    c.session_id,
    min((SELECT min(at) FROM records WHERE context_id = c.id)) AS first_at,
    max((SELECT max(at) FROM records WHERE context_id = c.id)) AS last_at,
    sum((SELECT count(*) FROM records WHERE context_id = c.id)) AS record_count
  FROM contexts AS c
  WHERE c.session_id IN (SELECT id FROM temp.touched_sessions)
  GROUP BY c.session_id
  HAVING first_at IS NOT NULL
) AS n
WHERE n.session_id = sessions.id
"""

# The first directory a session worked in; where it was never said, the transcript's own.
_DIRECTORIES = """
SELECT session_id, cwd, path FROM (
  SELECT
    c.session_id, c.cwd, f.path,
    row_number() OVER (
      PARTITION BY c.session_id
      ORDER BY c.cwd IS NULL, c.is_sidechain, r.at, h.name, h.user, f.path, r.id & 1099511627775, r.id
    ) AS n
  FROM contexts AS c
  JOIN records AS r ON r.id = (
    SELECT x.id
    FROM records AS x JOIN files AS g ON g.id = x.id >> 40 JOIN hosts AS k ON k.id = g.host_id
    WHERE x.context_id = c.id
    ORDER BY x.at, k.name, k.user, g.path, x.id & 1099511627775, x.id
    LIMIT 1
  )
  JOIN files AS f ON f.id = r.id >> 40
  JOIN hosts AS h ON h.id = f.host_id
  WHERE c.session_id IN (SELECT id FROM temp.touched_sessions)
)
WHERE n = 1
"""


def touch_all(connection: sqlite3.Connection) -> None:
    """Marks everything: after a first load, whose rows are derived from once."""
    for touched, column, table in (
        ("sessions", "id", "sessions"),
        ("responses", "response_id", "record_usage"),
        ("calls", "call_id", "tool_uses"),
    ):
        connection.execute(f"INSERT OR IGNORE INTO temp.touched_{touched} SELECT {column} FROM {table}")


def touch(connection: sqlite3.Connection, records: str, parameters: Mapping[str, int] = _NOTHING) -> None:
    """Marks what the records that a query names are part of."""
    for touched, column, table in (
        ("responses", "response_id", "record_usage"),
        ("calls", "call_id", "tool_uses"),
        ("calls", "call_id", "tool_results"),
    ):
        connection.execute(
            f"INSERT OR IGNORE INTO temp.touched_{touched} SELECT {column} FROM {table} WHERE record_id IN ({records})",
            parameters,
        )
    connection.execute(
        "INSERT OR IGNORE INTO temp.touched_sessions SELECT c.session_id FROM records AS r"
        f" JOIN contexts AS c ON c.id = r.context_id WHERE r.id IN ({records})",
        parameters,
    )


def forget(connection: sqlite3.Connection, records: str, parameters: Mapping[str, int] = _NOTHING) -> None:
    """Deletes the rows of the records that a query names, and marks what they were part of."""
    touch(connection, records, parameters)
    if fulltext.kept(connection) is not None:
        fulltext.remove(connection, records, parameters)
    for table in BY_RECORD:
        connection.execute(f"DELETE FROM {table} WHERE record_id IN ({records})", parameters)
    connection.execute(f"DELETE FROM records WHERE id IN ({records})", parameters)


def derive(connection: sqlite3.Connection) -> int:
    """Derives what the records in the touched tables are part of, and empties these; returns new responses."""
    (added,) = connection.execute(_NEW_RESPONSES).fetchone()
    _derive_known(connection)
    price_days(connection, _TOUCHED_DAYS)
    rollups.derive(connection)
    _derive_sessions(connection)
    rollups.derive_projects(connection)
    for table in ("touched_responses", "touched_calls", "touched_sessions"):
        connection.execute(f"DELETE FROM temp.{table}")
    return int(added)


def derive_all(connection: sqlite3.Connection) -> None:
    """Derives everything, where nothing was derived before; not prices and rollups, which a shard has not."""
    connection.execute("INSERT INTO temp.touched_sessions SELECT id FROM sessions")
    _derive_calls(connection, _ALL)
    _derive_responses(connection, _ALL)
    _derive_sessions(connection)


def _derive_known(connection: sqlite3.Connection) -> None:
    """Derives the touched tool calls and responses, which may be gone, or have changed hands."""
    execute = connection.execute
    rollups.touch_calls(connection)
    if execute("SELECT 1 FROM temp.touched_calls LIMIT 1").fetchone():
        execute(_SEARCHED)
        execute(_SESSIONS_OF.format(table="tool_calls", touched="touched_calls"))
        execute(_GONE.format(table="tool_calls", touched="touched_calls", facts="tool_uses", id="call_id"))
        _derive_calls(connection, _TOUCHED.format("calls"))
        execute(_SEARCHED)
        execute(_SESSIONS_OF.format(table="tool_calls", touched="touched_calls"))
    execute(_ADVISED)
    rollups.touch_responses(connection)
    execute(_SESSIONS_OF.format(table="responses", touched="touched_responses"))
    execute(_GONE.format(table="responses", touched="touched_responses", facts="record_usage", id="response_id"))
    _derive_responses(connection, _TOUCHED.format("responses"))
    relations.touch(connection)


def _derive_calls(connection: sqlite3.Connection, touched: str) -> None:
    names = {"table": "tool_uses", "id": "call_id", "of_responses": "NULL AS model_id, NULL AS advised_id"}
    if _find_owners(connection, names, touched):
        connection.execute(_TOOL_CALLS)
        connection.execute(_CALLED_AGENTS.format(touched=touched))


def _derive_responses(connection: sqlite3.Connection, touched: str) -> None:
    names = {"table": "record_usage", "id": "response_id", "of_responses": "u.model_id, u.advised_id"}
    if _find_owners(connection, names, touched):
        connection.execute(_RESPONSES)


def _find_owners(connection: sqlite3.Connection, names: Mapping[str, str], touched: str) -> bool:
    """Fills `owners` with the record that owns each touched response or tool call; whether there are any."""
    execute = connection.execute
    execute("DELETE FROM temp.owners")
    execute(_OWNERS.format(**names, touched=touched))
    are_any, are_tied = execute(_FOUND.format(**names)).fetchone()
    if are_tied:
        execute(_TIED_OWNERS.format(**names))
    return bool(are_any)


def _derive_sessions(connection: sqlite3.Connection) -> None:
    """Derives the touched sessions, once their responses and tool calls are."""
    connection.execute("DELETE FROM temp.notable")
    connection.execute(_NOTABLE, _TYPES)
    connection.execute(_SESSIONS, _TYPES)
    _assign_projects(connection)
    session_facts.derive(connection)
    relations.derive(connection)


def price_days(connection: sqlite3.Connection, days: str = _KNOWN_DAYS) -> None:
    """Looks up the price of every model for each day it was used, or for those that a query names."""
    connection.execute(_DAILY_PRICES.format(days=days))


def project_of(cwd: str | None, transcript: str) -> tuple[str, str]:
    """Path and name of the project of a directory: worktrees belong to the project they are of.

    The name of the transcript's folder stands in where there is no directory; it is not decoded, because `-` there
    can be any character.
    """
    if not cwd:
        folder, slash, _ = transcript.rpartition("/projects/")[2].partition("/")
        folder = folder if slash else "projects"  # a host may name it so
        return folder, folder
    path = cwd
    for separator in ("/", "\\"):
        for place in _WORKTREES:
            path = path.partition(separator.join(("", *place, "")))[0]
    path = path.rstrip("/") or "/"
    return path, path.replace("\\", "/").rpartition("/")[2] or path


def _assign_projects(connection: sqlite3.Connection) -> None:
    projects, sessions = set(), []
    for session_id, cwd, transcript in connection.execute(_DIRECTORIES).fetchall():
        path, name = project_of(cwd, transcript)
        project_id = digest_text(path)
        projects.add((project_id, path, name))
        sessions.append((project_id, session_id, project_id))
    connection.executemany("INSERT OR IGNORE INTO projects VALUES (?, ?, ?)", sorted(projects))
    connection.executemany("UPDATE sessions SET project_id = ? WHERE id = ? AND project_id IS NOT ?", sessions)
