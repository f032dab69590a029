"""Times as transcripts write them, to milliseconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# A rank has no room for what is later: the year 2527.
LATEST = 1 << 44
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# Milliseconds of the parts of a time as Claude Code writes it, "2026-01-02T03:04:05.678Z": to look them up takes two
# thirds of the time that parsing takes.
_minutes: dict[str, int] = {}
_MINUTES_KEPT = 10_000
_SECONDS = {f"{second:02}.": second * 1000 for second in range(60)}
_MILLISECONDS = {f"{millisecond:03}Z": millisecond for millisecond in range(1000)}


def milliseconds(value: str | None) -> int | None:
    """Milliseconds since 1970 UTC of an ISO 8601 time, None for anything else; without a zone it is taken as UTC."""
    if value is None:
        return None
    try:
        return _minutes[value[:17]] + _SECONDS[value[17:20]] + _MILLISECONDS[value[20:]]
    except KeyError:
        found = _milliseconds(value)
    if found is not None and value[17:20] in _SECONDS and value[20:] in _MILLISECONDS and found < LATEST - 60_000:
        if len(_minutes) == _MINUTES_KEPT:
            _minutes.clear()
        _minutes[value[:17]] = found - found % 60_000
    return found


def _milliseconds(value: str) -> int | None:
    try:
        at = datetime.fromisoformat(value)
        found = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None
    # "2026" and "20260101" are ISO dates too, but no time that anything was said at.
    return found if 0 <= found < LATEST and "T" in value else None
