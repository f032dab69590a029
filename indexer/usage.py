"""The numbers of one record: what `message.usage` says, and which API response it belongs to."""

from __future__ import annotations

import re
from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Numbers(NamedTuple):
        """Token counts of one call; `cache_write` holds both lifetimes, `cache_write_1h` the longer one."""

        input: int
        output: int
        cache_write: int
        cache_write_1h: int
        cache_read: int
        web_searches: int
        flags: int

else:
    from collections import namedtuple

    Numbers = namedtuple("Numbers", "input output cache_write cache_write_1h cache_read web_searches flags")

FAST, US, BATCH, IMPLAUSIBLE, FALLBACK = 1, 2, 4, 8, 16
# No call has a context of a billion tokens; a count above it is a broken writer's.
PLAUSIBLE = 10**9
SYNTHETIC = "<synthetic>"
_API_ID = re.compile(r"msg_[A-Za-z0-9_]{20,}")


def _count(value: Any) -> int:
    """A token count of whatever was written: a number or a numeric string, else 0; never negative."""
    if isinstance(value, bool) or value is None:
        return 0
    try:
        number = int(value) if isinstance(value, (int, float)) else int(float(value)) if isinstance(value, str) else 0
    except (ValueError, OverflowError):
        return 0
    return max(number, 0)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _cache_write(usage: dict[str, Any]) -> tuple[int, int]:
    """Cache writes in all and with a lifetime of an hour, of one usage object."""
    split = _object(usage.get("cache_creation"))
    hour = _count(split.get("ephemeral_1h_input_tokens"))
    total = max(
        _count(usage.get("cache_creation_input_tokens")), _count(split.get("ephemeral_5m_input_tokens")) + hour
    )
    return total, hour


def _plausible(counts: tuple[int, ...], flags: int) -> Numbers:
    if max(counts) > PLAUSIBLE:
        counts = tuple(0 if count > PLAUSIBLE else count for count in counts)
        flags |= IMPLAUSIBLE
    return Numbers(counts[0], counts[1], counts[2], min(counts[3], counts[2]), counts[4], counts[5], flags)


def numbers(usage: dict[str, Any]) -> Numbers:
    """What a usage object says of its own call: per field the larger of the top level and its `message` iterations."""
    tokens_in, out = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    read = _count(usage.get("cache_read_input_tokens"))
    write, hour = _cache_write(usage)
    flags = (
        (FAST if usage.get("speed") == "fast" else 0)
        | (US if usage.get("inference_geo") == "us" else 0)
        | (BATCH if usage.get("service_tier") == "batch" else 0)
    )
    iterations = _iterations(usage)
    own = [item for item in iterations if item.get("type") == "message"]
    if own:
        tokens_in = max(tokens_in, sum(_count(item.get("input_tokens")) for item in own))
        out = max(out, sum(_count(item.get("output_tokens")) for item in own))
        read = max(read, sum(_count(item.get("cache_read_input_tokens")) for item in own))
        writes = [_cache_write(item) for item in own]
        write = max(write, sum(total for total, _ in writes))
        hour = max(hour, sum(part for _, part in writes))
    if any(item.get("type") == "fallback_message" for item in iterations):
        flags |= FALLBACK
    searches = _object(usage.get("server_tool_use")).get("web_search_requests")
    return _plausible((tokens_in, out, write, hour, read, _count(searches)), flags)


def _iterations(usage: dict[str, Any]) -> list[dict[str, Any]]:
    iterations = usage.get("iterations")
    return [item for item in iterations if isinstance(item, dict)] if isinstance(iterations, list) else []


def advisor_calls(usage: dict[str, Any], flags: int) -> list[tuple[str, Numbers]]:
    """Model and numbers of the advisor's calls, in order: billed, and not in the top level."""
    calls = []
    for item in _iterations(usage):
        if item.get("type") == "advisor_message":
            write, hour = _cache_write(item)
            counts = (
                _count(item.get("input_tokens")),
                _count(item.get("output_tokens")),
                write,
                hour,
                _count(item.get("cache_read_input_tokens")),
                0,
            )
            model = item.get("model")
            calls.append((model if isinstance(model, str) else "", _plausible(counts, flags & (FAST | US | BATCH))))
    return calls


def response_key(
    message_id: str | None, request_id: str | None, session: str, uuid: str | None, counts: Numbers, line: bytes
) -> str:
    """What makes records the same response, whichever file they stand in.

    Gateways answer every request with the same id, so an id that the API did not make counts only within its request
    or, without one, within its session and for the same input: the input side is constant within a response.
    """
    if message_id and _API_ID.fullmatch(message_id):
        return message_id
    if message_id and request_id:
        return f"request:{request_id}:{message_id}"
    if message_id:
        return f"session:{session}:{message_id}:{counts.input}:{counts.cache_write}:{counts.cache_read}"
    if uuid:
        return f"uuid:{uuid}"
    return f"sha256:{sha256(line).hexdigest()}"


def searches(result: dict[str, Any]) -> int:
    """Web searches a tool result reports: the API's own count is 0 in Claude Code's files."""
    return min(_count(result.get("searchCount")), PLAUSIBLE)
