"""How ccusage counts the same transcripts: which lines it reads, what it takes for copies, and what it charges.

The rules are those of ccusage 20, found by running it. They are only used to say why its numbers are not ours.
"""

from __future__ import annotations

import re
from collections import namedtuple
from datetime import datetime

import orjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NamedTuple

    from .prices import Price

    class Entry(NamedTuple):
        """A call that a line tells of; `part` is 0 for the response, n for the nth call of an advisor."""

        file: str
        line: int
        part: int
        message_id: str | None
        request_id: str | None
        session: str
        at: int
        is_sidechain: bool
        has_speed: bool
        is_fast: bool
        model: str | None
        counts: tuple[int, int, int, int, int]
        recorded_usd: float | None

else:
    Entry = namedtuple(
        "Entry",
        "file line part message_id request_id session at is_sidechain has_speed is_fast model counts recorded_usd",
    )

DAILY, SESSION = "daily", "session"
# Above so many tokens of one kind, those above cost more, in models that have long-context rates at all.
THRESHOLD = 200_000
SYNTHETIC = "<synthetic>"

_NULLS = re.compile(
    rb'"(id|cwd|model|speed|costUSD|version|sessionId|requestId|isApiErrorMessage|cache_read_input_tokens'
    rb'|cache_creation_input_tokens)":null'
)
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]")
_ANTHROPIC_ID = re.compile(r"msg_[A-Za-z0-9_]+")


class Unread(Exception):
    """Why ccusage does not count a line."""


def session_of(path: str) -> str:
    """The session a transcript belongs to: by its path, whatever its records say."""
    parts = path.split("/")
    below = parts[parts.index("projects") + 1 :] if "projects" in parts else parts
    if len(below) == 2:
        return below[1].removesuffix(".jsonl")
    if len(below) >= 4 and below[-2] == "subagents":
        return below[-3]
    return below[-2] if len(below) > 1 else "unknown"


def read(line: bytes, file: str, number: int, kind: str) -> list[Entry]:
    """What a line counts as, in the report `daily` or `session`. Raises Unread."""
    if b'"usage":{' not in line:
        raise Unread('it has a space where ccusage looks for "usage":{')
    try:
        record = orjson.loads(line.rstrip(b"\r\n"))
    except orjson.JSONDecodeError as error:
        raise Unread("the line is not one valid JSON object") from error
    _refuse_nulls(line, record)
    if not isinstance(record.get("message"), dict):
        record = _embedded(record, kind)
    return _entries(record, file, number)


def _refuse_nulls(line: bytes, record: Any) -> None:
    names = [name.decode() for name in _NULLS.findall(line)]
    if names.count("model"):
        # One that an iteration names no model by is let through.
        usage = _object(_object(_object(record).get("message")).get("usage"))
        iterations = usage.get("iterations")
        for item in iterations if isinstance(iterations, list) else ():
            if isinstance(item, dict) and "model" in item and item["model"] is None:
                names.remove("model")
    if names:
        raise Unread(f"a field named {names[0]} is null somewhere on the line")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _embedded(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """A subagent's record within its parent's, as if it stood alone."""
    inner = _object(_object(record.get("data")).get("message"))
    if not isinstance(inner.get("message"), dict):
        raise Unread("it has no message")
    if kind == SESSION:
        raise Unread("it stands embedded in its parent's transcript, where `ccusage session` does not look")
    return {**inner, "sessionId": record.get("sessionId"), "version": None}


def _entries(record: dict[str, Any], file: str, number: int) -> list[Entry]:
    message, session = record["message"], record.get("sessionId")
    version = record.get("version")
    if isinstance(version, str) and not _VERSION.match(version):
        raise Unread(f"its version is {version!r}")
    for name, value in (
        ("sessionId", session),
        ("requestId", record.get("requestId")),
        ("message.id", message.get("id")),
        ("message.model", message.get("model")),
    ):
        if value is not None and (not isinstance(value, str) or not value):
            raise Unread(f"its {name} is {value!r}")
    for name, kinds in (("isSidechain", (bool, type(None))), ("costUSD", (int, float, type(None)))):
        if not isinstance(record.get(name), kinds):
            raise Unread(f"its {name} is {record[name]!r}")
    usage = _object(message.get("usage"))
    own = Entry(
        file=file,
        line=number,
        part=0,
        message_id=message.get("id"),
        request_id=record.get("requestId"),
        session=session or session_of(file),
        at=_milliseconds(record.get("timestamp")),
        is_sidechain=record.get("isSidechain") is True,
        has_speed=usage.get("speed") is not None,
        is_fast=usage.get("speed") == "fast",
        model=message.get("model"),
        counts=_counts(usage),
        recorded_usd=record.get("costUSD"),
    )
    return [own, *_advisor_calls(own, usage)]


def _milliseconds(value: Any) -> int:
    try:
        at = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise Unread("its timestamp is missing or malformed")
    return round(at.timestamp() * 1000)


def _counts(usage: dict[str, Any]) -> tuple[int, int, int, int, int]:
    """Input, output, cache writes of five minutes and of an hour, cache reads: as one line says, nothing mended."""
    if usage.get("speed") not in (None, "standard", "fast"):
        raise Unread(f"its speed is {usage['speed']!r}")
    split = usage.get("cache_creation")
    if isinstance(split, dict):
        writes = _count(split, "ephemeral_5m_input_tokens", 0), _count(split, "ephemeral_1h_input_tokens", 0)
    else:
        writes = _count(usage, "cache_creation_input_tokens", 0), 0
    read = _count(usage, "cache_read_input_tokens", 0)
    return _count(usage, "input_tokens"), _count(usage, "output_tokens"), *writes, read


def _count(usage: dict[str, Any], name: str, default: int | None = None) -> int:
    value = usage.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise Unread(f"its {name} is {'missing' if name not in usage else repr(value)}")


def _advisor_calls(own: Entry, usage: dict[str, Any]) -> list[Entry]:
    iterations = usage.get("iterations")
    items = [item for item in iterations if isinstance(item, dict)] if isinstance(iterations, list) else []
    advised = enumerate((item for item in items if item.get("type") == "advisor_message"), 1)
    try:
        return [
            own._replace(
                part=number,
                message_id=own.message_id and f"{own.message_id}:advisor:{number}",
                model=item["model"],
                counts=_counts(item),
                recorded_usd=None,
                is_fast=item.get("speed") == "fast",
            )
            for number, item in advised
            if isinstance(item.get("model"), str) and item["model"]
        ]
    except Unread:
        return []


def deduplicate(entries: Iterable[Entry], kind: str, is_newer: bool) -> list[Entry]:
    """The entries that count, given by path and line: one of each id and requestId, with the most tokens.

    Without a requestId `daily` of ccusage 20.0 takes every other time for another call; newer versions do that only
    where the id is not Anthropic's. Such entries are copies only within a session.
    """
    kept: list[Entry] = []
    known: dict[tuple[Any, ...], int] = {}
    by_message: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        if entry.message_id is None:
            kept.append(entry)
            continue
        key = _key(entry, kind, is_newer)
        replays = by_message.setdefault((entry.message_id, entry.session), [])
        index = known.get(key)
        if index is None:
            index = next((at for at in replays if _is_replay(entry, kept[at], kind)), None)
        if index is None:
            index = len(kept)
            kept.append(entry)
        elif _is_better(entry, kept[index]):
            kept[index] = entry
        else:
            continue
        known[key] = index
        replays.append(index)
    return kept


def _key(entry: Entry, kind: str, is_newer: bool) -> tuple[Any, ...]:
    if entry.request_id is not None:
        return entry.message_id, entry.request_id
    is_timed = not _ANTHROPIC_ID.match(entry.message_id or "") if is_newer else kind == DAILY
    return entry.message_id, entry.session, entry.at if is_timed else None


def _is_replay(entry: Entry, other: Entry, kind: str) -> bool:
    return (entry.is_sidechain or other.is_sidechain) and (kind == DAILY or entry.at == other.at)


def _is_better(entry: Entry, other: Entry) -> bool:
    if entry.is_sidechain != other.is_sidechain:
        return other.is_sidechain
    if sum(entry.counts) != sum(other.counts):
        return sum(entry.counts) > sum(other.counts)
    return entry.has_speed and not other.has_speed


def cost(counts: tuple[int, int, int, int, int], price: Price, is_fast: bool) -> float:
    """USD: one price for all times, no factor but the fast one, and each kind above the threshold by itself."""
    kinds = ("input", "output", "cache_write_5m", "input", "cache_read")
    total = 0.0
    for tokens, kind, times in zip(counts, kinds, (1, 1, 1, 2, 1), strict=True):
        rate, above = float(getattr(price, kind)), getattr(price, f"long_{kind}")
        over = max(tokens - THRESHOLD, 0) if above is not None else 0
        total += times * ((tokens - over) * rate + over * float(above or 0))
    return total / 1e6 * (float(price.fast) if is_fast else 1.0)
