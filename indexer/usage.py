"""The numbers of one record: what `message.usage` says, and which API response it belongs to."""

from __future__ import annotations

import re
from hashlib import sha256

from msgspec import to_builtins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .record import Iteration, Usage

# Token counts of one call, as the columns of `record_usage` stand: input, output, cache writes of both lifetimes, of
# these the longer one, cache reads, web searches, flags. A named tuple takes three times as long to make.
Numbers = tuple[int, int, int, int, int, int, int]
FAST, US, BATCH, IMPLAUSIBLE, FALLBACK = 1, 2, 4, 8, 16
# No call has a context of a billion tokens; a count above it is a broken writer's.
PLAUSIBLE = 10**9
SYNTHETIC = "<synthetic>"
_API_ID = re.compile(r"msg_[A-Za-z0-9_]{20,}")


class _Counts:
    """Reads counts, and flags that one was implausible: that one counts 0, and takes no other with it."""

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def one(self, value: Any) -> int:
        """A count of whatever was written: a number or a numeric string, else 0; never negative."""
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return 0
        try:
            number = float(value) if isinstance(value, str) else value
        except ValueError:
            return 0
        if number > PLAUSIBLE:
            self.flags |= IMPLAUSIBLE
            return 0
        return int(number) if number > 0 else 0  # nan is not

    def cache_write(self, usage: dict[str, Any]) -> tuple[int, int]:
        """Cache writes in all and with a lifetime of an hour, of one usage object."""
        split = _object(usage.get("cache_creation"))
        hour = self.one(split.get("ephemeral_1h_input_tokens"))
        minutes = self.one(split.get("ephemeral_5m_input_tokens"))
        return max(self.one(usage.get("cache_creation_input_tokens")), minutes + hour), hour


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plausible(counts: tuple[int, ...], flags: int) -> Numbers:
    if max(counts) > PLAUSIBLE:
        counts = tuple(0 if count > PLAUSIBLE else count for count in counts)
        flags |= IMPLAUSIBLE
    return counts[0], counts[1], counts[2], min(counts[3], counts[2]), counts[4], counts[5], flags


def calls(usage: Usage | dict[str, Any]) -> tuple[Numbers, Sequence[tuple[str, Numbers]]]:
    """What a usage object says of its own call and, in order, model and numbers of each call of the advisor.

    Its own call has per field the larger of the top level and its `message` iterations; the advisor's are billed, and
    not in the top level.
    """
    if isinstance(usage, dict):
        said = usage
    else:
        # Nearly every record is as it should be; the careful reading of the others takes five times as long.
        found = _quick(usage)
        if found is not None:
            return found, ()
        said = to_builtins(usage)
    numbers = _careful(said)
    return numbers, _advisor_calls(said, numbers[-1])


def _quick(usage: Any) -> Numbers | None:
    tokens_in, out, read = usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens
    write, split, tools = usage.cache_creation_input_tokens, usage.cache_creation, usage.server_tool_use
    hour = minutes = searches = 0
    if split is not None:
        hour, minutes = split.ephemeral_1h_input_tokens, split.ephemeral_5m_input_tokens
    if tools is not None:
        searches = tools.web_search_requests
    try:
        # Bits of all: negative if one is, and else no smaller than the largest.
        bits = tokens_in | out | read | write | hour | minutes | searches
    except TypeError:
        return None  # one of them is absent
    if 0 <= bits <= PLAUSIBLE and hour + minutes <= write and (not usage.iterations or _repeats(usage)):
        flags = _flags(usage.speed, usage.inference_geo, usage.service_tier)
        return tokens_in, out, write, hour, read, searches, flags
    return None


def _flags(speed: Any, geo: Any, tier: Any) -> int:
    return (FAST if speed == "fast" else 0) | (US if geo == "us" else 0) | (BATCH if tier == "batch" else 0)


def _repeats(usage: Any) -> bool:
    """Whether the iterations only say once more what the top level says."""
    only: Iteration = usage.iterations[0]
    return (
        len(usage.iterations) == 1
        and only.type == "message"
        and only.input_tokens == usage.input_tokens
        and only.output_tokens == usage.output_tokens
        and only.cache_creation_input_tokens == usage.cache_creation_input_tokens
        and only.cache_read_input_tokens == usage.cache_read_input_tokens
        and only.cache_creation == usage.cache_creation
    )


def _careful(usage: dict[str, Any]) -> Numbers:
    count = _Counts(_flags(usage.get("speed"), usage.get("inference_geo"), usage.get("service_tier")))
    tokens_in, out = count.one(usage.get("input_tokens")), count.one(usage.get("output_tokens"))
    read = count.one(usage.get("cache_read_input_tokens"))
    write, hour = count.cache_write(usage)
    iterations = _iterations(usage)
    own = [item for item in iterations if item.get("type") == "message"]
    if own:
        tokens_in = max(tokens_in, sum(count.one(item.get("input_tokens")) for item in own))
        out = max(out, sum(count.one(item.get("output_tokens")) for item in own))
        read = max(read, sum(count.one(item.get("cache_read_input_tokens")) for item in own))
        writes = [count.cache_write(item) for item in own]
        write = max(write, sum(total for total, _ in writes))
        hour = max(hour, sum(part for _, part in writes))
    searches = count.one(_object(usage.get("server_tool_use")).get("web_search_requests"))
    if any(item.get("type") == "fallback_message" for item in iterations):
        count.flags |= FALLBACK
    return _plausible((tokens_in, out, write, hour, read, searches), count.flags)


def _iterations(usage: dict[str, Any]) -> list[dict[str, Any]]:
    iterations = usage.get("iterations")
    return [item for item in iterations if isinstance(item, dict)] if isinstance(iterations, list) else []


def _advisor_calls(usage: dict[str, Any], flags: int) -> list[tuple[str, Numbers]]:
    calls = []
    for item in _iterations(usage):
        if item.get("type") == "advisor_message":
            count = _Counts(flags & (FAST | US | BATCH))
            write, hour = count.cache_write(item)
            counts = (
                count.one(item.get("input_tokens")),
                count.one(item.get("output_tokens")),
                write,
                hour,
                count.one(item.get("cache_read_input_tokens")),
                0,
            )
            model = item.get("model")
            calls.append((model if isinstance(model, str) else "", _plausible(counts, count.flags)))
    return calls


def response_key(
    message_id: str | None,
    request_id: str | None,
    session: str,
    uuid: str | None,
    numbers: Numbers,
    line: bytes,
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
        tokens_in, _, cache_write, _, cache_read, *_ = numbers
        return f"session:{session}:{message_id}:{tokens_in}:{cache_write}:{cache_read}"
    if uuid:
        return f"uuid:{uuid}"
    # A stale copy may end before the carriage return of its last line.
    return f"sha256:{sha256(line.strip()).hexdigest()}"


def searches(said: Any) -> int:
    """Web searches that a tool result reports: the API's own count is 0 in Claude Code's files."""
    return 0 if said is None else _Counts(0).one(said)
