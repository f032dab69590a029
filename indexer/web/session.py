"""One session as the session page shows it: its conversation, a page of turns at a time, and what happened when."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime

from .. import archive, conversation, sessions, settings, zones
from ..markdown import to_html
from ..output import dumps, printable
from ..store import fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from typing import Any

    from ..sources import Archive as Archived

    Row = dict[str, Any]

TURNS_PER_PAGE = 25
# A text beyond this is cut, and says so: a tool may have given back megabytes.
_LONGEST = 20_000
_MOST_EVENTS = 5000
# What Claude wrote. A prompt is shown as it was typed.
_MARKDOWN = ("answer", "thinking", "note")

_EVENTS = f"""
SELECT e.*, a.type AS agent_type
FROM (
  SELECT
    r.at, NULL AS until, 'prompt' AS kind, x.is_sidechain, x.agent, substr(r.text, 1, 100) AS about,
    NULL AS total_tokens, NULL AS cost_usd
  FROM contexts AS x
  CROSS JOIN records AS r ON r.context_id = x.id
  JOIN record_types AS t ON t.id = r.type_id
  WHERE x.session_id = ?1 AND t.type = 'user' AND t.subtype = 'prompt'
  GROUP BY coalesce(r.uuid, r.id)
  UNION ALL
  SELECT
    u.at, NULL, 'answer', u.is_sidechain, x.agent, m.name, u.total_tokens, u.cost_nano / 1e9
  FROM local_usage AS u
  JOIN contexts AS x ON x.id = u.context_id
  JOIN models AS m ON m.id = u.model_id
  WHERE u.session_id = ?1
  UNION ALL
  SELECT
    c.started_at, c.ended_at, CASE c.is_error WHEN 1 THEN 'error' ELSE 'tool' END, x.is_sidechain, x.agent, c.name,
    NULL, NULL
  FROM tool_calls AS c
  JOIN records AS r ON r.id = c.record_id
  JOIN contexts AS x ON x.id = r.context_id
  WHERE c.session_id = ?1
) AS e
LEFT JOIN agents AS a ON a.session_id = ?1 AND a.agent = e.agent
ORDER BY e.at
LIMIT {_MOST_EVENTS}
"""
_SUMMARY = """
SELECT
  (SELECT json_group_array(DISTINCT m.name)
   FROM responses AS r JOIN models AS m ON m.id = r.model_id WHERE r.session_id = s.id) AS models,
  (SELECT count(*) FROM tool_calls AS c WHERE c.session_id = s.id) AS calls,
  (SELECT coalesce(sum(c.is_error), 0) FROM tool_calls AS c WHERE c.session_id = s.id) AS errors,
  s.prompt_count AS prompts, p.name AS name
FROM sessions AS s
LEFT JOIN projects AS p ON p.id = s.project_id
WHERE s.id = ?
"""


def read(connection: sqlite3.Connection, wanted: str, page: int = 1) -> Row:
    """A session by its id, or a message's turn by the message's: what `conversation.read` gives, ready to be shown.

    Texts have their control characters escaped, and those that Claude wrote are also there as `html`; times are local,
    and inputs of tools are texts. Besides: `label`, `models`, `calls`, `errors`, `prompts`, `page`, `pages`, `is_part`,
    and `events`, with local milliseconds.

    Raises BadInput: there is no such session.
    """
    target = sessions.find(connection, wanted)
    places = range((page - 1) * TURNS_PER_PAGE, page * TURNS_PER_PAGE)
    zones.apply(connection)
    with snapshot(connection), _archived(connection) as kept:
        found = conversation.read(connection, target, kept, places)
        offset = zones.offset_at(connection, _milliseconds(found["first_at"])) if found["first_at"] else 0
        (summary,) = fetch_dicts(connection, _SUMMARY, (target.id,))
        events = [_event(row, offset) for row in fetch_dicts(connection, _EVENTS, (target.id,))]
    _show(found, offset)
    return {
        **found,
        **summary,
        "label": settings.project_label(found["project"] or "", summary["name"] or "no project"),
        "models": json.loads(summary["models"]),
        "page": page,
        "pages": max(1, -(-found["turn_count"] // TURNS_PER_PAGE)),
        "is_part": target.record_id is not None,
        "message": target.record_id,
        "events": events,
    }


@contextmanager
def _archived(connection: sqlite3.Connection) -> Iterator[Archived | None]:
    """What gives the bytes of transcripts that are gone, where there is an archive."""
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    reader = archive.open_reader(path, connection)
    try:
        yield None if reader is None else reader.read
    finally:
        if reader is not None:
            reader.close()


def _event(row: Row, offset: int) -> Row:
    name = " ".join(filter(None, (row.pop("agent_type"), row.pop("agent")))) or "subagent"
    row["lane"] = printable(name) if row.pop("is_sidechain") else "main"
    row["about"] = printable(row["about"] or "")
    row["at"] += offset
    row["until"] = None if row["until"] is None else row["until"] + offset
    return row


def _show(found: Row, offset: int) -> None:
    """Makes a conversation, or a part of one, fit to be shown."""
    for name in ("at", "first_at", "last_at", "ended_at"):
        if found.get(name):
            found[f"{name}_local"] = _local(found[name], offset)
    if found.get("kind") == "tool":
        found["input"] = _cut(_input(found["input"]))
        found["milliseconds"] = (
            _milliseconds(found["ended_at"]) - _milliseconds(found["at"]) if found["ended_at"] else None
        )
    for name in ("title", "subject", "description"):
        if found.get(name):
            found[name] = printable(found[name])
    if found.get("text"):
        found["text"] = _cut(found["text"].strip("\n"))
        if found.get("kind") in _MARKDOWN:
            found["html"] = to_html(found["text"], "h5")
    related = (*found.get("parents", ()), *found.get("children", ()))
    parts = [found.get("prompt"), *found.get("turns", ()), *found.get("steps", ()), *found.get("agents", ()), *related]
    for part in parts:
        if part is not None:
            _show(part, offset)


def _input(given: Any) -> str:
    """What a tool was given: its lines as lines, where JSON would write them as \\n."""
    if not isinstance(given, dict):
        return "" if given is None else given if isinstance(given, str) else dumps(given, indent=True)
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else dumps(value, indent=True)}" for name, value in given.items()
    )


def _cut(text: str) -> str:
    shown = printable(text[:_LONGEST], one_line=False)
    return f"{shown}\n… {len(text) - _LONGEST:,} more characters" if len(text) > _LONGEST else shown


def _milliseconds(at: str) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000)


def _local(at: str, offset: int) -> str:
    shown = datetime.fromtimestamp((_milliseconds(at) + offset) / 1000, UTC)
    return shown.isoformat(sep=" ", timespec="seconds")[:19]
