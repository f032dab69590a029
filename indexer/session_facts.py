"""What happened in a session, counted: turns, tools, files, pull requests, interruptions, errors, changes of model."""

from __future__ import annotations

from .batch import EDITS
from .digest import digest_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

TYPES = {
    "prompt": digest_text("user", "prompt"),
    "command": digest_text("user", "command"),
    "interruption": digest_text("user", "interruption"),
    "compaction": digest_text("system", "compact_boundary"),
    "api_error": digest_text("assistant", "api_error"),
    "pull_request": digest_text("pr-link", None),
}
_COLUMNS = (
    "session_id", "turn_count", "tool_count", "tool_error_count", "file_count", "pull_request_count",
    "compaction_count", "interruption_count", "api_error_count", "model_change_count",
)  # fmt: skip
# Where a record's text is not kept, `told` of it stands in `block`.
_COMMAND = "<command-name>"
_EDITS = ", ".join(f"'{name}'" for name in EDITS)

# A record that stands in several transcripts, or in an earlier generation of one, happened once.
_ONCE = "coalesce(r.uuid, r.id)"
_RECORDS = f"""
SELECT
  n.session_id,
  count(DISTINCT CASE
    WHEN n.is_sidechain THEN NULL
    WHEN n.type_id = :prompt THEN {_ONCE}
    WHEN n.type_id = :command AND (r.text LIKE '%{_COMMAND}%' OR r.block = {digest_text(_COMMAND)}) THEN {_ONCE}
  END) AS turn_count,
  count(DISTINCT CASE WHEN n.type_id = :pull_request THEN coalesce(r.text, r.block) END) AS pull_request_count,
  count(DISTINCT CASE WHEN n.type_id = :compaction AND NOT n.is_sidechain THEN {_ONCE} END) AS compaction_count,
  count(DISTINCT CASE WHEN n.type_id = :interruption THEN {_ONCE} END) AS interruption_count,
  count(DISTINCT CASE WHEN n.type_id = :api_error THEN {_ONCE} END) AS api_error_count
FROM temp.notable AS n
JOIN records AS r ON r.id = n.id
GROUP BY n.session_id
"""
_TOOLS = f"""
SELECT
  t.session_id, count(*) AS tool_count, coalesce(sum(t.is_error), 0) AS tool_error_count,
  count(DISTINCT CASE WHEN t.name IN ({_EDITS}) THEN
    (SELECT u.subject FROM tool_uses AS u WHERE u.call_id = t.id AND u.record_id = t.record_id)
  END) AS file_count
FROM tool_calls AS t
WHERE t.session_id IN (SELECT id FROM temp.touched_sessions)
GROUP BY t.session_id
"""
# Of a conversation with one model nothing has to be put in order.
_MODELS = """
SELECT session_id, sum(is_change) AS model_change_count
FROM (
  SELECT session_id, model_id <> lag(model_id) OVER (PARTITION BY session_id ORDER BY at, id) AS is_change
  FROM responses
  WHERE part = 0 AND NOT is_sidechain AND session_id IN (
    SELECT session_id
    FROM (
      SELECT DISTINCT session_id, model_id
      FROM responses
      WHERE part = 0 AND NOT is_sidechain AND session_id IN (SELECT id FROM temp.touched_sessions)
    )
    GROUP BY session_id
    HAVING count(*) > 1
  )
)
GROUP BY session_id
"""
_FACTS = f"""
INSERT OR REPLACE INTO session_facts ({", ".join(_COLUMNS)})
SELECT
  s.id, coalesce(r.turn_count, 0), coalesce(t.tool_count, 0), coalesce(t.tool_error_count, 0),
  coalesce(t.file_count, 0), coalesce(r.pull_request_count, 0), coalesce(r.compaction_count, 0),
  coalesce(r.interruption_count, 0), coalesce(r.api_error_count, 0), coalesce(m.model_change_count, 0)
FROM sessions AS s
LEFT JOIN ({_RECORDS}) AS r ON r.session_id = s.id
LEFT JOIN ({_TOOLS}) AS t ON t.session_id = s.id
LEFT JOIN ({_MODELS}) AS m ON m.session_id = s.id
WHERE s.id IN (SELECT id FROM temp.touched_sessions)
"""


def told(type_id: int, text: str) -> int | None:
    """What is counted of a text: a digest that says that a human typed a command, or which pull request it names."""
    if type_id == TYPES["command"] and _COMMAND in text:
        return digest_text(_COMMAND)
    return digest_text(text) if type_id == TYPES["pull_request"] else None


def derive(connection: sqlite3.Connection) -> None:
    """Counts the touched sessions anew, from their records in `notable`, responses and tool calls."""
    connection.execute(_FACTS, TYPES)
    connection.execute(
        "DELETE FROM session_facts WHERE session_id IN (SELECT id FROM temp.touched_sessions)"
        " AND NOT EXISTS (SELECT 1 FROM sessions WHERE id = session_facts.session_id)"
    )
