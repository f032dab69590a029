"""One line for Claude Code's status bar: from what it tells on stdin, and from the index as it is.

Claude Code runs it after every message, and kills it when the next one comes first. So nothing is refreshed here, every
number is found by an index, and no library is imported that takes longer than all of them.
"""

from __future__ import annotations

import os
import time
from datetime import datetime

from . import config, store
from .blocks import HOUR, HOURS
from .errors import BadInput, IndexUnusable
from .output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

BLOCK = HOURS * HOUR
# An older index says so: other sessions may have spent since.
OLD = HOUR
# A reader waits only in the moments when SQLite itself takes the file; a line that comes late is not shown at all.
BUSY_SECONDS = 0.05

FIELDS = {
    "model": "the model",
    "project": "the project, as the config file names it",
    "session_cost": "what the session cost so far",
    "today_cost": "what today cost, all sessions",
    "block_cost": "what the active 5-hour block cost",
    "block_left": "the time left in it",
    "burn_rate": "what it costs per hour, from its first response to its last",
    "context": "the share of the context window in use",
    "context_tokens": "the tokens in it",
    "note": "why the costs may lack something",
}
# What is shown without a format: each part only if its first field is known.
PARTS = (
    "{model}",
    "{session_cost} session",
    "{today_cost} today",
    "{block_cost} block, {block_left} left",
    "{context} context",
    "{note}",
)

_COST = """
SELECT
  sum(r.input + r.output + r.cache_write + r.cache_read + r.web_search),
  count(*),
  count(*) - count(r.rate_id),
  max(r.at) - min(r.at)
FROM response_costs AS r
"""
COST_OF_SESSION = f"{_COST} WHERE r.session_id = ?"
COST_SINCE = f"{_COST} WHERE r.at >= ?"

# A block starts with the hour of its first response, and the next with the first response more than five hours after
# that. A pause of five hours ends a block as well, but what follows it is always that late. One look into the index
# for each block there ever was: a year of them takes 2 ms.
BLOCK_START = f"""
WITH RECURSIVE blocks (start) AS (
  SELECT min(at) / {HOUR} * {HOUR} FROM responses
  UNION ALL
  SELECT (SELECT min(r.at) FROM responses AS r WHERE r.at > b.start + {BLOCK}) / {HOUR} * {HOUR}
  FROM blocks AS b
  WHERE b.start IS NOT NULL
)
SELECT max(start) FROM blocks
"""

CONTEXT = """
SELECT input_tokens + cache_write_tokens + cache_read_tokens
FROM responses
WHERE session_id = ? AND part = 0 AND NOT is_sidechain
ORDER BY at DESC
LIMIT 1
"""

LAST_REFRESH = "SELECT started_at FROM refreshes WHERE id = (SELECT max(id) FROM refreshes)"


def line(told: Any, db: str | None = None, form: str | None = None) -> str:
    """The line for what Claude Code tells; `form` is a text with {fields} of FIELDS.

    Raises CmError: the config file cannot be used, or there is no such field.
    """
    fields = {name: printable(text) for name, text in _fields(told, config.database(db)).items()}
    if form is not None:
        return _filled(form, fields)
    known = [part for part in PARTS if fields[part[1 : part.index("}")]]]
    return " · ".join(part.format_map(fields) for part in known) or "cm"


def _filled(form: str, fields: dict[str, str]) -> str:
    # Not str.format: it would also read attributes, and fail on any other brace.
    import re

    unknown = [name for name in re.findall(r"\{(\w+)\}", form) if name not in fields]
    if unknown:
        raise BadInput(f"--format: no field {{{unknown[0]}}}; there are {', '.join(FIELDS)}")
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], form)


def _fields(told: Any, db: str) -> dict[str, str]:
    from sqlite3 import Error

    fields = dict.fromkeys(FIELDS, "") | _told(told)
    if not os.path.exists(db):
        return fields | {"note": "no index yet: cm refresh"}
    try:
        connection = store.open_reader(db, BUSY_SECONDS)
        try:
            with store.snapshot(connection):
                return fields | _indexed(connection, told, int(time.time() * 1000))
        finally:
            connection.close()
    except (IndexUnusable, Error):
        return fields | {"note": "index not usable: cm status"}


# What Claude Code tells


def _told(told: Any) -> dict[str, str]:
    """Fields that need no index. Older versions of Claude Code tell less; a new session knows no usage yet."""
    fields = {"model": _text(told, "model", "display_name") or _text(told, "model", "id")}
    cost = _number(told, "cost", "total_cost_usd")
    if cost is not None:
        fields["session_cost"] = _usd(cost)
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    tokens = sum(_number(told, "context_window", "current_usage", kind) or 0 for kind in kinds)
    if tokens:
        fields["context_tokens"] = _thousands(tokens)
    share = _number(told, "context_window", "used_percentage")
    size = _number(told, "context_window", "context_window_size")
    if share is None and tokens and size:
        share = 100 * tokens / size
    if share is not None:
        fields["context"] = f"{share:.0f}%"
    return fields | {"project": _project(told)}


def _project(told: Any) -> str:
    from .settings import project_label

    path = _text(told, "workspace", "project_dir") or _text(told, "cwd")
    return project_label(path, path.rstrip("/").rpartition("/")[2] or path)


def _get(told: Any, *keys: str) -> Any:
    for key in keys:
        told = told.get(key) if isinstance(told, dict) else None
    return told


def _text(told: Any, *keys: str) -> str:
    value = _get(told, *keys)
    return value if isinstance(value, str) else ""


def _number(told: Any, *keys: str) -> float | None:
    value = _get(told, *keys)
    # JSON as Python reads it has NaN and Infinity, and numbers that no float holds.
    return value if type(value) in (int, float) and 0 <= value < 1e15 else None


# What the index tells


def _indexed(connection: sqlite3.Connection, told: Any, now: int) -> dict[str, str]:
    fields = {"note": _age(connection, now)} | _session(connection, told)
    fields["today_cost"] = _money(*connection.execute(COST_SINCE, (_midnight(now),)).fetchone()[:3])
    (start,) = connection.execute(BLOCK_START).fetchone()
    if start is not None and now < start + BLOCK:
        nano, count, unpriced, span = connection.execute(COST_SINCE, (start,)).fetchone()
        fields["block_cost"] = _money(nano, count, unpriced)
        fields["block_left"] = _duration(start + BLOCK - now)
        if nano and span:
            fields["burn_rate"] = f"{_usd(nano / 1e9 * HOUR / span)}/h"
    return fields


def _age(connection: sqlite3.Connection, now: int) -> str:
    if connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone():
        return "first refresh at work"
    last = connection.execute(LAST_REFRESH).fetchone()
    return f"index {_duration(now - last[0])} old" if last and now - last[0] > OLD else ""


def _session(connection: sqlite3.Connection, told: Any) -> dict[str, str]:
    from .digest import digest_text

    fields = {}
    session = digest_text(_text(told, "session_id"))
    nano, count, unpriced, _ = connection.execute(COST_OF_SESSION, (session,)).fetchone()
    # Claude Code counts since it was started, the index up to its last refresh: the larger lacks less.
    if count and (nano or 0) / 1e9 >= (_number(told, "cost", "total_cost_usd") or 0):
        fields["session_cost"] = _money(nano, count, unpriced)
    if _get(told, "context_window") is None:
        last = connection.execute(CONTEXT, (session,)).fetchone()
        if last is not None:
            fields["context_tokens"] = _thousands(last[0])
            fields["context"] = f"{fields['context_tokens']} tokens"
    return fields


def _midnight(now: int) -> int:
    """The moment today began, in the configured zone, else the system's."""
    zone = None
    if name := config.timezone():
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(name)
    here = datetime.fromtimestamp(now / 1000, zone)
    return int(here.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp() * 1000)


# How it is written


def _money(nano: int | None, count: int, unpriced: int) -> str:
    """USD of the priced part; `+` says that there is more."""
    if count and count == unpriced:
        return "unpriced"
    return _usd((nano or 0) / 1e9) + ("+" if unpriced else "")


def _usd(amount: float) -> str:
    return f"${amount:,.2f}"


def _thousands(tokens: float) -> str:
    return f"{tokens / 1000:,.0f}k"


def _duration(milliseconds: int) -> str:
    minutes = milliseconds // 60_000
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m"
