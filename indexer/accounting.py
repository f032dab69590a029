"""From what single records say to responses, tool calls and sessions, in SQL.

Each of them is derived anew from its records whenever one of these is added, read again or taken away, so the result
does not depend on the order in which files are found, or on how their bytes are cut into refreshes. What changed is
collected in temporary tables while rows are stored; the same transaction derives it.
"""

from __future__ import annotations

from .digest import digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_TYPES = {
    "prompt": digest_text("user", "prompt"),
    "ai_title": digest_text("ai-title", None),
    "custom_title": digest_text("custom-title", None),
}

TOUCHED = """
CREATE TEMP TABLE IF NOT EXISTS touched_responses (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS touched_calls (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS touched_sessions (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE IF NOT EXISTS owners (
  response_id INTEGER PRIMARY KEY, record_id INTEGER, model_id INTEGER, owner_rank INTEGER
);
"""

# A call belongs to the earliest original of the records that make it, as a response does.
_TOOL_CALLS = """
INSERT OR REPLACE INTO tool_calls
WITH uses AS (
  SELECT
    u.call_id, u.record_id, u.tool_use_id, u.name, u.subject, r.at, r.response_id, c.session_id,
    row_number() OVER (
      PARTITION BY u.call_id
      ORDER BY t.type <> 'assistant', c.is_sidechain, c.is_background, r.at, s.session_id, h.name, f.path, r.id
    ) AS n
  FROM tool_uses AS u
  JOIN records AS r ON r.id = u.record_id
  JOIN record_types AS t ON t.id = r.type_id
  JOIN contexts AS c ON c.id = r.context_id
  JOIN sessions AS s ON s.id = c.session_id
  JOIN files AS f ON f.id = r.id >> 40
  JOIN hosts AS h ON h.id = f.host_id
  WHERE u.call_id IN (SELECT id FROM temp.touched_calls)
), results AS (
  SELECT
    u.call_id, max(u.is_error) AS is_error, max(u.bytes) AS bytes, max(u.web_searches) AS web_searches,
    max(u.agent) AS agent, min(r.at) AS at
  FROM tool_results AS u
  JOIN records AS r ON r.id = u.record_id
  WHERE u.call_id IN (SELECT id FROM temp.touched_calls)
  GROUP BY u.call_id
)
SELECT
  u.call_id, u.tool_use_id, u.name,
  CASE WHEN u.name LIKE 'mcp\\_\\_%\\_\\_%' ESCAPE '\\'
    THEN substr(u.name, 6, instr(substr(u.name, 6), '__') - 1) END,
  CASE WHEN u.name IN ('Skill', 'SlashCommand') THEN u.subject END,
  CASE WHEN u.name IN ('Task', 'Agent') THEN u.subject END,
  r.agent, u.record_id, u.response_id, u.session_id,
  r.is_error, r.bytes, coalesce(r.web_searches, 0), u.at, r.at
FROM uses AS u
LEFT JOIN results AS r ON r.call_id = u.call_id
WHERE u.n = 1
"""

# Responses whose searches are told by the results of their tool calls.
_SEARCHED = """
INSERT OR IGNORE INTO temp.touched_responses
SELECT response_id FROM tool_calls
WHERE id IN (SELECT id FROM temp.touched_calls) AND web_searches > 0 AND response_id IS NOT NULL
"""

# The rates a response is priced at: its model's price at its time, with the factors that hold.
RATE = """(
    SELECT
      x.id * 16
      + 8 * coalesce({r}.input_tokens + {r}.cache_write_tokens + {r}.cache_read_tokens > x.long_context_above, 0)
      + 4 * ({r}.flags & 1) + 2 * ({r}.flags >> 1 & 1) + ({r}.flags >> 2 & 1)
    FROM models AS m
    JOIN prices AS x ON x.model = m.canonical
    WHERE m.id = {model} AND ({at}) >= x.valid_from AND ({at}) < x.valid_until
  )"""

# The sessions a response leaves and enters when its owner changes are both recounted.
_LEFT_SESSIONS = """
INSERT OR IGNORE INTO temp.touched_sessions
SELECT session_id FROM responses WHERE id IN (SELECT id FROM temp.touched_responses)
"""

# With min() the other columns are those of the row that has the minimum.
_OWNERS = """
INSERT OR REPLACE INTO temp.owners
SELECT response_id, record_id, model_id, min(owner_rank)
FROM record_usage
WHERE response_id IN (SELECT id FROM temp.touched_responses)
GROUP BY response_id
"""

# Copies agree in rank and time. The joins that decide between them would double the cost of a load, were they made for
# every response.
_TIED_OWNERS = """
INSERT OR REPLACE INTO temp.owners
SELECT response_id, record_id, model_id, owner_rank FROM (
  SELECT
    u.response_id, u.record_id, u.model_id, u.owner_rank,
    row_number() OVER (PARTITION BY u.response_id ORDER BY s.session_id, h.name, f.path, u.record_id) AS n
  FROM temp.owners AS o
  CROSS JOIN record_usage AS u ON u.response_id = o.response_id AND u.owner_rank = o.owner_rank
  JOIN records AS r ON r.id = u.record_id
  JOIN contexts AS c ON c.id = r.context_id
  JOIN sessions AS s ON s.id = c.session_id
  JOIN files AS f ON f.id = u.record_id >> 40
  JOIN hosts AS h ON h.id = f.host_id
  WHERE EXISTS (
    SELECT 1 FROM record_usage AS x
    WHERE x.response_id = o.response_id AND x.owner_rank = o.owner_rank AND x.record_id <> o.record_id
  )
)
WHERE n = 1
"""

_RESPONSES = f"""
INSERT OR REPLACE INTO responses
WITH parts AS (
  SELECT
    u.response_id, u.key, u.part, coalesce(u.advised_id, u.response_id) AS advised_id,
    max(u.input_tokens) AS input_tokens, max(u.output_tokens) AS output_tokens,
    max(u.cache_write_tokens) AS cache_write_tokens, max(u.cache_write_1h_tokens) AS cache_write_1h_tokens,
    max(u.cache_read_tokens) AS cache_read_tokens, max(u.web_searches) AS web_searches,
    max(u.flags & 1) | max(u.flags & 2) | max(u.flags & 4) | max(u.flags & 8) | max(u.flags & 16) AS flags,
    max(u.stop_reason) AS stop_reason, max(u.recorded_nano) AS recorded_nano, count(*) AS record_count
  FROM record_usage AS u
  WHERE u.response_id IN (SELECT id FROM temp.touched_responses)
  GROUP BY u.response_id
)
SELECT
  p.response_id, p.key, p.part, o.model_id, c.session_id, c.id, w.record_id,
  w.owner_rank & 17592186044415,
  w.owner_rank >> 46,
  p.input_tokens, p.output_tokens, p.cache_write_tokens, p.cache_write_1h_tokens, p.cache_read_tokens,
  max(
    p.web_searches,
    CASE p.part WHEN 0 THEN coalesce(
      (SELECT sum(t.web_searches) FROM tool_calls AS t WHERE t.response_id = p.response_id AND t.web_searches > 0), 0
    ) ELSE 0 END
  ),
  p.flags, p.stop_reason, p.part = 0 AND p.output_tokens <= 10 AND p.stop_reason IS NULL,
  p.recorded_nano, p.record_count,
  {RATE.format(r="p", at="w.owner_rank & 17592186044415", model="o.model_id")}
FROM parts AS p
JOIN temp.owners AS o ON o.response_id = p.response_id
JOIN temp.owners AS w ON w.response_id = p.advised_id
JOIN records AS r ON r.id = w.record_id
JOIN contexts AS c ON c.id = r.context_id
"""

# An advisor's calls follow the response they were made for.
_ADVISED = """
INSERT OR IGNORE INTO temp.touched_responses
SELECT response_id FROM record_usage
WHERE advised_id IS NOT NULL AND advised_id IN (SELECT id FROM temp.touched_responses)
"""

_CALLED_AGENTS = """
INSERT INTO agents (session_id, agent, type, description, source)
SELECT session_id, agent_id, agent, NULL, 2
FROM tool_calls
WHERE id IN (SELECT id FROM temp.touched_calls) AND agent_id IS NOT NULL AND agent IS NOT NULL
ON CONFLICT DO UPDATE SET type = excluded.type
WHERE (excluded.source, excluded.type) < (source, type)
"""

_SESSIONS = """
UPDATE sessions SET
  first_at = n.first_at, last_at = n.last_at, record_count = n.record_count, prompt_count = n.prompt_count,
  title = coalesce(
    (
      SELECT r.text FROM contexts AS c JOIN records AS r ON r.context_id = c.id
      WHERE c.session_id = sessions.id AND r.type_id IN (:ai_title, :custom_title) AND r.text IS NOT NULL
      ORDER BY r.at DESC, r.id DESC LIMIT 1
    ),
    (
      SELECT substr(r.text, 1, 200) FROM contexts AS c JOIN records AS r ON r.context_id = c.id
      WHERE c.session_id = sessions.id AND r.type_id = :prompt AND NOT c.is_sidechain AND r.text IS NOT NULL
      ORDER BY r.at, r.id LIMIT 1
    )
  )
FROM (
  SELECT
    c.session_id, min(r.at) AS first_at, max(r.at) AS last_at, count(*) AS record_count,
    sum(r.type_id = :prompt AND NOT c.is_sidechain) AS prompt_count
  FROM contexts AS c
  JOIN records AS r ON r.context_id = c.id
  WHERE c.session_id IN (SELECT id FROM temp.touched_sessions)
  GROUP BY c.session_id
) AS n
WHERE n.session_id = sessions.id
"""

# The first directory a session worked in; where it was never said, the transcript's own.
_DIRECTORIES = """
SELECT session_id, cwd, path FROM (
  SELECT
    c.session_id, c.cwd, f.path,
    row_number() OVER (
      PARTITION BY c.session_id ORDER BY c.cwd IS NULL, c.is_sidechain, r.at, c.cwd, f.path
    ) AS n
  FROM contexts AS c
  JOIN records AS r ON r.id = (SELECT x.id FROM records AS x WHERE x.context_id = c.id ORDER BY x.at, x.id LIMIT 1)
  JOIN files AS f ON f.id = r.id >> 40
  WHERE c.session_id IN (SELECT id FROM temp.touched_sessions)
)
WHERE n = 1
"""


def touch_all(connection: sqlite3.Connection) -> None:
    """Marks everything: after a first load, whose rows are derived from once."""
    connection.execute("INSERT OR IGNORE INTO temp.touched_responses SELECT DISTINCT response_id FROM record_usage")
    connection.execute("INSERT OR IGNORE INTO temp.touched_calls SELECT DISTINCT call_id FROM tool_uses")
    connection.execute("INSERT OR IGNORE INTO temp.touched_sessions SELECT id FROM sessions")


def derive(connection: sqlite3.Connection) -> int:
    """Derives what the records in the touched tables are part of, and empties these; returns new responses."""
    execute = connection.execute
    execute(_TOOL_CALLS)
    execute("DELETE FROM tool_calls WHERE id IN (SELECT id FROM temp.touched_calls EXCEPT SELECT call_id FROM tool_uses)")
    execute(_CALLED_AGENTS)
    execute(_SEARCHED)
    execute(_ADVISED)
    execute(_LEFT_SESSIONS)
    (added,) = execute(
        "SELECT count(*) FROM temp.touched_responses AS t WHERE NOT EXISTS (SELECT 1 FROM responses WHERE id = t.id)"
        " AND EXISTS (SELECT 1 FROM record_usage WHERE response_id = t.id AND part = 0)"
    ).fetchone()
    execute(_OWNERS)
    execute(_TIED_OWNERS)
    execute(_RESPONSES)
    execute(
        "DELETE FROM responses WHERE id IN (SELECT id FROM temp.touched_responses)"
        " AND NOT EXISTS (SELECT 1 FROM record_usage WHERE response_id = responses.id)"
    )
    execute(_SESSIONS, _TYPES)
    _assign_projects(connection)
    for table in ("touched_responses", "touched_calls", "touched_sessions", "owners"):
        execute(f"DELETE FROM temp.{table}")
    return int(added)


def reprice(connection: sqlite3.Connection, models: set[str]) -> None:
    """Prices the responses of the models, by their canonical ids, anew."""
    rate = RATE.format(r="responses", at="responses.at", model="responses.model_id")
    connection.executemany(
        f"UPDATE responses SET rate_id = {rate} WHERE model_id IN (SELECT id FROM models WHERE canonical = ?)"
        f" AND rate_id IS NOT {rate}",
        [(model,) for model in sorted(models)],
    )


def project_of(cwd: str | None, transcript: str) -> tuple[str, str]:
    """Path and name of the project of a directory: worktrees belong to the project they are of.

    The name of the transcript's folder stands in where there is no directory; it is not decoded, because `-` there
    can be any character.
    """
    if not cwd:
        folder = transcript.rpartition("/projects/")[2].split("/", 1)[0]
        return folder, folder
    path = cwd
    for separator in ("/", "\\"):
        path = path.partition(f"{separator}.claude{separator}worktrees{separator}")[0]
    path = path.rstrip("/") or path
    return path, path.replace("\\", "/").rpartition("/")[2] or path


def _assign_projects(connection: sqlite3.Connection) -> None:
    projects, sessions = set(), []
    for session_id, cwd, transcript in connection.execute(_DIRECTORIES).fetchall():
        path, name = project_of(cwd, transcript)
        project_id = digest_text(path)
        projects.add((project_id, path, name))
        sessions.append((project_id, session_id, project_id))
    connection.executemany("INSERT OR IGNORE INTO projects VALUES (?, ?, ?)", sorted(projects))
    connection.executemany(
        "UPDATE sessions SET project_id = ? WHERE id = ? AND project_id IS NOT ?", sessions
    )
