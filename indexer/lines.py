"""One line of a transcript to the records on it, whatever has happened to the line.

Most lines are read without it, so what it needs is imported when it is needed: 13 ms of a refresh that reads one line.
"""

from __future__ import annotations

import re
from itertools import takewhile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Piece(NamedTuple):
        """Part of a line: a record, or None with the reason why nothing can be made of it."""

        start: int
        end: int
        record: dict[str, Any] | None
        reason: str
        is_recovered: bool

else:
    from collections import namedtuple

    Piece = namedtuple("Piece", "start end record reason is_recovered")

BLANK = "blank"
NUL_BYTES = "NUL bytes"
BROKEN = "broken JSON"
NOT_AN_OBJECT = "not an object"
NO_TYPE = "no type"
TOO_DEEP = "nested too deeply"
TOO_LONG = "too long"
# What is said of JSON that is not torn.
_WHOLE = ("", NOT_AN_OBJECT, NO_TYPE)

# What a record found behind a broken part must be: content blocks and tool results are objects with a type as well.
RECORD_TYPES = frozenset(
    "assistant user system summary progress attachment queue-operation file-history-snapshot file-history-delta "
    "last-prompt ai-title custom-title agent-name agent-color agent-setting mode permission-mode pr-link "
    "bridge-session frame-link relocated worktree-state atis-latch".split()
)
# The keys that begin a record: the order of keys is not fixed, teleported sessions are written alphabetically.
_BEGINNING = re.compile(
    r'\{\s*"(?:parentUuid|type|uuid|sessionId|isSidechain|agentId|cwd|entrypoint|gitBranch|leafUuid|summary'
    r'|messageId|message|timestamp|aiTitle|customTitle|attachment|apiError|advisorModel|effort|attribution\w+)"'
)
_SPACE = re.compile(r"[ \t\r\n]*")
# A line of a hundred thousand half-open objects would otherwise be scanned to its end from each of them.
_ATTEMPTS = 64
_TORN = object()


def pieces(line: bytes) -> list[Piece]:
    """All records of a line and all that is not one, in order, with byte positions within the line."""
    import orjson

    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = _TORN  # the error holds a copy of the line, so it must not live while that is scanned
    return _scan(line) if value is _TORN else [_whole(value, _first(line), len(line))]


def _first(line: bytes) -> int:
    return len(line) - len(line.lstrip(b" \t\r"))


def _whole(value: Any, start: int, end: int, is_recovered: bool = False) -> Piece:
    if not isinstance(value, dict):
        return Piece(start, end, None, NOT_AN_OBJECT, is_recovered)
    if not isinstance(value.get("type"), str):
        return Piece(start, end, None, NO_TYPE, is_recovered)
    return Piece(start, end, value, "", is_recovered)


def _scan(line: bytes) -> list[Piece]:
    from json import JSONDecoder

    decode = JSONDecoder().raw_decode
    # Spaces in place of a BOM and of NUL bytes leave every position where it was.
    padded = line.replace(b"\0", b" ")
    if padded.startswith(b"\xef\xbb\xbf"):
        padded = b"   " + padded[3:]
    if not padded.strip():
        return [Piece(0, len(line), None, NUL_BYTES if b"\0" in line else BLANK, False)]
    # surrogateescape keeps bytes that are not UTF-8 one character each, so that positions can be mapped back.
    text = padded.decode("utf-8", "surrogateescape")
    found: list[Piece] = []
    position, bytes_before, is_recovered, attempts = 0, 0, False, 0
    while (begin := _SPACE.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        bytes_before += _width(text, position, begin)
        try:
            value, end = decode(text, begin)
            piece = _whole(_clean(value), 0, 0, is_recovered)
            reason = "" if _is_plausible(piece) else BROKEN
        except (ValueError, RecursionError) as error:
            reason = TOO_DEEP if isinstance(error, RecursionError) else BROKEN
            attempts += 1
            following = _BEGINNING.search(text, begin + 1) if attempts < _ATTEMPTS and reason == BROKEN else None
            end = following.start() if following else len(text)
            is_recovered = True
        after = bytes_before + _width(text, begin, end)
        if reason:
            _extend_broken(found, bytes_before, after, reason)
        else:
            found.append(Piece(bytes_before, after, piece.record, piece.reason, is_recovered))
        position, bytes_before = end, after
    return found


def _is_plausible(piece: Piece) -> bool:
    return not piece.is_recovered or (piece.record is not None and piece.record["type"] in RECORD_TYPES)


def _width(text: str, start: int, end: int) -> int:
    if text.isascii():
        return end - start
    return len(text[start:end].encode("utf-8", "surrogateescape"))


def _extend_broken(found: list[Piece], start: int, end: int, reason: str) -> None:
    """Adds a broken part, or makes the one before it longer."""
    if found and found[-1].reason == reason and found[-1].record is None:
        start = found.pop().start
    found.append(Piece(start, end, None, reason, False))


def _clean(value: Any) -> Any:
    """The same value with lone surrogates, which SQLite cannot store, as replacement characters."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


def usable(line: bytes) -> bytes:
    """What may be used of a final line before its newline comes: all of it, or the records it begins with.

    What stands behind a record may be torn: the record was used before the rest was written. Nothing of the rest is
    used, because it may turn out to be part of a record that encloses it.
    """
    if _is_json(line):
        return line
    found = _scan(line)
    whole = list(takewhile(lambda piece: not piece.is_recovered and piece.reason in _WHOLE, found))
    if len(whole) == len(found):
        return line
    return line[: whole[-1].end] if whole and whole[0].record is not None else b""


def _is_json(line: bytes) -> bool:
    import orjson

    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
