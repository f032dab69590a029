"""How a number came about: each response of a day or a session, with its records, its price and its cost."""

from __future__ import annotations

import re
import time
from collections import namedtuple

from . import hosts, prices, zones
from .digest import digest
from .errors import BadInput
from .store import fetch_dicts, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any, NamedTuple

    class Target(NamedTuple):
        """What is explained: `kind` is day, session or response; the condition is SQL on responses as r."""

        kind: str
        name: str
        condition: str
        parameters: tuple[Any, ...]

else:
    Target = namedtuple("Target", "kind name condition parameters")

TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_creation_1h_tokens", "cache_read_tokens")
COSTS = ("input", "output", "cache_write", "cache_read", "web_search")
DAY_MS = 86_400_000
# The largest offset from UTC there ever was is below 16 hours.
_MARGIN_MS = DAY_MS
_DAY = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")
_LISTED = 5

_RESPONSES = """
SELECT
  r.id, r.key AS response_key, r.part, s.session_id, p.path AS project,
  CASE WHEN r.is_sidechain THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown') END
    AS agent,
  m.name AS model, strftime('%Y-%m-%dT%H:%M:%fZ', r.at / 1000.0, 'unixepoch') AS at,
  h.name AS host, h.user AS user, f.path AS file, w.line, w.offset,
  r.input_tokens, r.output_tokens, r.cache_write_tokens AS cache_creation_tokens,
  r.cache_write_1h_tokens AS cache_creation_1h_tokens, r.cache_read_tokens, r.web_searches,
  r.input, r.output, r.cache_write, r.cache_read, r.web_search,
  r.flags, r.stop_reason, r.is_undercounted, r.recorded_nano / 1e9 AS recorded_cost_usd, r.rate_id
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN contexts AS x ON x.id = r.context_id
JOIN records AS w ON w.id = r.owner_id
JOIN files AS f ON f.id = w.id >> 40
JOIN hosts AS h ON h.id = f.host_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent
WHERE {condition}
ORDER BY r.at, r.key, r.part
"""

# The owner's file comes first; within a file, the order of lines.
_RECORDS = """
SELECT
  u.response_id, u.record_id, m.host, m.user, m.file, m.line, m.offset, m.type, m.uuid, m.duplicate_of,
  m.is_source_gone,
  u.record_id = r.owner_id AS is_owner,
  u.input_tokens, u.output_tokens, u.cache_write_tokens AS cache_creation_tokens,
  u.cache_write_1h_tokens AS cache_creation_1h_tokens, u.cache_read_tokens, u.web_searches
FROM responses AS r
JOIN record_usage AS u ON u.response_id = r.id
JOIN messages AS m ON m.id = u.record_id
WHERE {condition}
ORDER BY u.response_id, u.record_id >> 40 <> r.owner_id >> 40, m.host, m.user, m.file, m.offset
"""

_ORIGINALS = """
SELECT o.id, o.uuid, f.path AS file, o.line
FROM records AS o
JOIN files AS f ON f.id = o.id >> 40
WHERE o.id IN (SELECT value FROM json_each(?))
"""

_SEARCHES = """
SELECT t.response_id, f.path AS file, w.line, t.web_searches
FROM responses AS r
JOIN tool_calls AS t ON t.response_id = r.id AND t.web_searches > 0
JOIN records AS w ON w.id = t.record_id
JOIN files AS f ON f.id = w.id >> 40
WHERE r.part = 0 AND {condition}
ORDER BY f.path, w.line
"""

_RATES = """
SELECT x.*, t.*
FROM rates AS t
JOIN prices AS x ON x.id = t.price_id
WHERE t.id IN (SELECT value FROM json_each(?))
"""


def find(connection: sqlite3.Connection, target: str) -> Target:
    """What a day, the beginning of a session's id, or a response's key means. Raises BadInput."""
    day = _day(connection, target)
    if day is not None:
        start = day * DAY_MS
        span = (start - _MARGIN_MS, start + DAY_MS + _MARGIN_MS, start, start + DAY_MS)
        local = "SELECT u.id FROM local_usage AS u WHERE u.at >= ? AND u.at < ? AND u.local_at >= ? AND u.local_at < ?"
        return Target("day", iso_day(day), f"r.id IN ({local})", span)
    response_id = digest(target.encode("utf-8", "replace"))
    if connection.execute("SELECT 1 FROM responses WHERE id = ? AND key = ?", (response_id, target)).fetchone():
        advised = "SELECT u.response_id FROM record_usage AS u WHERE u.advised_id = ?"
        return Target("response", target, f"r.id IN (SELECT ? UNION {advised})", (response_id, response_id))
    sql = "SELECT id, session_id FROM sessions WHERE session_id >= ? AND substr(session_id, 1, length(?)) = ?"
    found = connection.execute(f"{sql} ORDER BY session_id", (target, target, target)).fetchall()
    exact = [row for row in found if row[1] == target]
    if len(exact or found) > 1:
        names = ", ".join(row[1] for row in found[:_LISTED])
        raise BadInput(f"{len(found)} sessions begin with {target}, such as {names}; give more of the id")
    if not found:
        raise BadInput(f"{target} is no day, session or response of the index; try a day such as 2026-10-31, or today")
    return Target("session", (exact or found)[0][1], "r.session_id = ?", ((exact or found)[0][0],))


def _day(connection: sqlite3.Connection, target: str) -> int | None:
    """Days from 1970 to a day given as a date or a word, None for anything else."""
    if target in ("today", "yesterday"):
        now = int(time.time() * 1000)
        return (now + zones.offset_at(connection, now)) // DAY_MS - (target == "yesterday")
    match = _DAY.fullmatch(target)
    if match is None:
        return None
    from datetime import date

    try:
        return date(*map(int, match.groups())).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None


def iso_day(day: int) -> str:
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def explain(connection: sqlite3.Connection, target: Target) -> dict[str, Any]:
    """The object that `cm explain --json` prints: the responses, their records and prices, and their sum."""
    condition, parameters = target.condition, target.parameters
    with snapshot(connection):
        found = fetch_dicts(connection, _RESPONSES.format(condition=condition), parameters)
        records = _records(connection, target)
        searches = fetch_dicts(connection, _SEARCHES.format(condition=condition), parameters)
        rates = _rates(connection, {row["rate_id"] for row in found})
        is_merged = bool(hosts.others(connection))
    for row in found:
        _describe(row, records.get(row["id"], []), rates.get(row["rate_id"]))
        calls = [call for call in searches if call["response_id"] == row["id"]]
        row["searches"] = [{key: call[key] for key in ("file", "line", "web_searches")} for call in calls]
    total = _sum(found)
    about = {"kind": target.kind, "name": target.name, "is_merged": is_merged}
    return {**about, "responses": _nest(found), "sum": total}


def _records(connection: sqlite3.Connection, target: Target) -> dict[int, list[dict[str, Any]]]:
    """Records by response: what each says, and whether it is a copy and of what."""
    found = fetch_dicts(connection, _RECORDS.format(condition=target.condition), target.parameters)
    copied = {row["duplicate_of"] for row in found} - {None}
    from .output import dumps

    originals = {row["id"]: row for row in fetch_dicts(connection, _ORIGINALS, (dumps(sorted(copied)),))}
    by_response: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        original = originals.get(row["duplicate_of"])
        row["role"] = _role(row, original)
        row["duplicate_of"] = original and {"file": original["file"], "line": original["line"]}
        by_response.setdefault(row["response_id"], []).append(row)
    return by_response


def _role(row: dict[str, Any], original: dict[str, Any] | None) -> str:
    if row["is_owner"]:
        return "owner"
    if original is not None:
        is_same = row["uuid"] is not None and row["uuid"] == original["uuid"]
        return f"duplicate: {'same uuid' if is_same else 'same message id and content block'}"
    if row["type"] == "progress":
        return "copy embedded in the parent's transcript"
    return "another part of the response"


def _rates(connection: sqlite3.Connection, ids: set[int | None]) -> dict[int, dict[str, Any]]:
    from .output import dumps

    rows = fetch_dicts(connection, _RATES, (dumps(sorted(ids - {None})),))
    return {row["id"]: row for row in rows}


def _describe(row: dict[str, Any], records: list[dict[str, Any]], rate: dict[str, Any] | None) -> None:
    """Turns a row into what is shown of it."""
    row["part"] = "advisor" if row["part"] else "response"
    row["cost_nano"] = {kind: row.pop(kind) for kind in COSTS}
    is_priced = rate is not None
    row["cost_usd"] = sum(row["cost_nano"].values()) / 1e9 if is_priced else None
    row["price"] = _price(rate) if rate is not None else None
    row["factors"] = _factors(row["flags"], row["rate_id"], rate) if rate is not None else {}
    flags = row.pop("flags")
    row["is_undercounted"] = bool(row["is_undercounted"])
    row["is_implausible"] = bool(flags & 8)
    row["has_fallback"] = bool(flags & 16)
    row["maxima"] = _maxima(records)
    row["records"] = [_record(record) for record in records]
    row.pop("rate_id")


def _price(rate: dict[str, Any]) -> dict[str, Any]:
    """The row of `prices`, and the rates that follow from it with all factors: USD per million tokens."""
    from decimal import Decimal

    def usd(kind: str, denominator: str) -> float:
        # A nanodollar per token is a thousandth of a dollar per million.
        return float(Decimal(rate[f"{kind}_num"]) / Decimal(rate[f"{denominator}_den"]) / 1000)

    return {
        "model": rate["model"],
        "from": iso_day(rate["valid_from"] // DAY_MS) if rate["valid_from"] else None,
        "until": iso_day(rate["valid_until"] // DAY_MS) if rate["valid_until"] < _FOREVER else None,
        "source": rate["source"],
        "input": usd("input", "input"),
        "output": usd("output", "output"),
        "cache_write_5m": usd("cache_write_5m", "cache_write"),
        "cache_write_1h": usd("cache_write_1h", "cache_write"),
        "cache_read": usd("cache_read", "cache_read"),
        "web_search": rate["web_search"] / 1e6,
    }


_FOREVER = 253_402_300_800_000


def _factors(flags: int, rate_id: int, rate: dict[str, Any]) -> dict[str, Any]:
    """What multiplies the price: fast mode at 1 is a response that says so when the model had none, or no longer."""
    found: dict[str, Any] = {}
    if rate_id & prices.LONG and rate["long_context_above"] is not None:
        found["long_context_above"] = rate["long_context_above"]
    for bit, name in ((1, "fast"), (2, "us"), (4, "batch")):
        if flags & bit:
            found[name] = rate[name]
    return found


def _maxima(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Where the records of a response differ: which gives the number that counts, and what the smallest says."""
    found = {}
    for kind in (*TOKENS, "web_searches"):
        values = [record[kind] for record in records]
        if len(set(values)) > 1:
            best = max(records, key=lambda record: int(record[kind]))
            found[kind] = {"file": best["file"], "line": best["line"], "smallest": min(values)}
    return found


def _record(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("host", "user", "file", "line", "offset", "role", "duplicate_of", *TOKENS)
    return {**{key: record[key] for key in kept}, "is_source_gone": bool(record["is_source_gone"])}


def _nest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts the calls of an advisor beneath the response they were made for."""
    responses: list[dict[str, Any]] = []
    for row in found:
        row.pop("id")
        if row["part"] == "advisor" and responses and responses[-1]["response_key"] == row["response_key"]:
            responses[-1]["advisor_calls"].append(row)
        else:
            responses.append({**row, "advisor_calls": []})
    return responses


def _sum(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The totals of the responses and advisors' calls, as the reports have them."""
    priced = [row for row in found if row["price"] is not None]
    costs = {kind: sum(row["cost_nano"][kind] for row in priced) for kind in COSTS}
    unpriced: dict[str, dict[str, Any]] = {}
    for row in found:
        if row["price"] is None:
            item = unpriced.setdefault(
                row["model"], {"model": row["model"], "responses": 0, **dict.fromkeys(TOKENS, 0)}
            )
            item["responses"] += row["part"] == "response"
            for kind in TOKENS:
                item[kind] += row[kind]
    return {
        "responses": sum(row["part"] == "response" for row in found),
        "advisor_calls": sum(row["part"] == "advisor" for row in found),
        **{kind: sum(row[kind] for row in found) for kind in (*TOKENS, "web_searches")},
        "cost_nano": costs,
        "cost_usd": sum(costs.values()) / 1e9 if priced else None,
        "unpriced": sorted(unpriced.values(), key=lambda item: str(item["model"])),
        "undercounted_responses": sum(row["is_undercounted"] for row in found),
    }
