"""What must not be stored: patterns of secrets, and the masks of the same length that take their place.

A mask is put where a text of a record matches, between reading a transcript and parsing it. Offsets and lengths stay
true, JSON stays JSON, and what the accounting rests on (ids, types, models, counts, times) is never touched.
"""

from __future__ import annotations

import re
import string
from bisect import bisect_right
from functools import lru_cache
from heapq import merge
from itertools import accumulate, pairwise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, NamedTuple

    class Zone(NamedTuple):
        """Part of a record: which values are fixed, whether keys are fixed, and what is below."""

        fixed: frozenset[str] | None
        has_fixed_keys: bool
        below: dict[str, str]

else:
    from collections import namedtuple

    Zone = namedtuple("Zone", "fixed has_fixed_keys below")

MASK = "[redacted]"
_MASKED = re.compile(r"(?:\[redacted\])?\**")

# Not within a word: "task-0123…" is no key.
_START = r"(?<![A-Za-z0-9])"
# Each pattern stands behind the text that every match of it begins with: to look for that is ten times as fast.
_READY = {
    "api-keys": (
        ("sk-", _START + r"sk-(?:(?:ant|proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{32,})"),
        ("AIza", _START + r"AIza[A-Za-z0-9_-]{35}"),
        ("AKIA", _START + r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("ASIA", _START + r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
        ("aws_secret", r"aws_secret(?:_access)?_key[^A-Za-z0-9/+]{1,20}(?P<secret>[A-Za-z0-9/+]{40})"),
        ("AWS_SECRET", r"AWS_SECRET(?:_ACCESS)?_KEY[^A-Za-z0-9/+]{1,20}(?P<secret>[A-Za-z0-9/+]{40})"),
        ("rk_live_", _START + r"rk_live_[A-Za-z0-9]{16,}"),
        ("sk_live_", _START + r"sk_live_[A-Za-z0-9]{16,}"),
        ("gsk_", _START + r"gsk_[A-Za-z0-9]{40,}"),
        ("xai-", _START + r"xai-[A-Za-z0-9]{40,}"),
        ("hf_", _START + r"hf_[A-Za-z0-9]{30,}"),
        ("SG.", _START + r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{32,}"),
    ),
    "tokens": (
        ("ghp_", _START + r"ghp_[A-Za-z0-9]{36,}"),
        ("gho_", _START + r"gho_[A-Za-z0-9]{36,}"),
        ("ghs_", _START + r"ghs_[A-Za-z0-9]{36,}"),
        ("ghu_", _START + r"ghu_[A-Za-z0-9]{36,}"),
        ("ghr_", _START + r"ghr_[A-Za-z0-9]{36,}"),
        ("github_pat_", _START + r"github_pat_[A-Za-z0-9_]{50,}"),
        ("glpat-", _START + r"glpat-[A-Za-z0-9_-]{20,}"),
        ("xox", _START + r"xox[abceoprs]-[A-Za-z0-9-]{10,}"),
        ("xapp-", _START + r"xapp-[A-Za-z0-9-]{10,}"),
        ("hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/(?P<secret>[A-Za-z0-9_/+-]{20,})"),
        ("npm_", _START + r"npm_[A-Za-z0-9]{36}"),
        ("pypi-", _START + r"pypi-[A-Za-z0-9_-]{50,}"),
        ("eyJ", _START + r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
        ("Bearer ", r"Bearer (?P<secret>[A-Za-z0-9._~+/=-]{20,})"),
    ),
    "private-keys": (
        (
            "-----BEGIN ",
            # What stands between may be numbered lines, or a JSON text within the text; a key may also be cut off.
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
            r"(?:[\s\S]{0,20000}?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|(?:[A-Za-z0-9+/=]{16,}|\s|\\n)*)",
        ),
    ),
}
SETS = {name: tuple(pattern for _, pattern in rows) for name, rows in _READY.items()}
_LITERALS = {pattern: literal.encode() for rows in _READY.values() for literal, pattern in rows}

# The parts of a record. A value at a fixed key is what the numbers, or their place in the conversation, rest on; below
# None, everything is. Everywhere else texts are masked, and where keys are not the format's own, these too.
_ZONES = {
    "record": Zone(
        frozenset(
            "uuid parentUuid logicalParentUuid sessionId session_id timestamp type subtype operation requestId agentId "
            "version entrypoint sessionKind userType leafUuid messageId sourceToolAssistantUUID sourceToolUseID".split()
        ),
        True,
        {"message": "message", "toolUseResult": "named", "data": "data", "attachment": "attachment"},
    ),
    "message": Zone(
        frozenset("id type role model stop_reason stop_sequence".split()),
        True,
        {"content": "content", "usage": "fixed"},
    ),
    "content": Zone(frozenset(), True, {"": "block"}),
    "block": Zone(frozenset("type id name tool_use_id".split()), True, {"input": "named", "content": "content"}),
    "named": Zone(frozenset(("agentId",)), True, {}),
    "data": Zone(frozenset(("type", "agentId")), True, {"message": "record"}),
    "attachment": Zone(frozenset(("type",)), True, {}),
    "free": Zone(frozenset(), False, {}),
    "fixed": Zone(None, True, {}),
}

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
_IS_KEY = re.compile(rb"[ \t\r]*:")
_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)
# What the last that is there of a torn secret is made of.
_OF_SECRETS = f"{string.ascii_letters}{string.digits}._~+/=-".encode()
# What a mask leaves alone in a line that is no JSON: records may still be found behind it.
_STRUCTURE = re.compile(rb'\\.|["{}\\]', re.DOTALL)


def problem(pattern: str) -> str | None:
    """Why a regular expression cannot be used for masking."""
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    return "matches the empty text: say what it must have" if found.search("") else None


@lru_cache(maxsize=4)
def redactor(patterns: tuple[str, ...]) -> Redactor:
    """The redactor of these patterns; compiled once in a process."""
    return Redactor(patterns)


class Redactor:
    """Puts masks in the place of what matches. A group named `secret` says that only this part of a match is one."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [re.compile(pattern, re.MULTILINE) for pattern in patterns]
        self._own = [found for found in self._patterns if found.pattern not in _LITERALS]
        ready = [found.pattern for found in self._patterns if found.pattern in _LITERALS]
        # A line break before a match stands in the transcript as \n: no word begins there for the raw bytes.
        self._rough = {_LITERALS[pattern]: re.compile(pattern.replace(_START, "").encode()) for pattern in ready}
        self._places = _finder(tuple(self._rough))

    def mask(self, data: bytes) -> bytes:
        """Whole lines of a transcript, masked; the same object if nothing matches."""
        parts: list[bytes] = []
        position = 0
        for start, end in self._lines(data):
            parts += data[position:start], self._line(data[start:end])
            position = end
        return b"".join((*parts, data[position:])) if parts else data

    def mask_chunk(self, data: bytes) -> bytes:
        """Lines of a transcript, masked; of a torn last one also the end, which may be the beginning of a secret.

        Where one of the user's own patterns could begin, nobody knows: then all of the torn line is masked.
        """
        from .lines import usable

        masked = self.mask(data)
        torn = data.rfind(b"\n") + 1
        if usable(data[torn:]) == data[torn:]:
            return masked
        end = torn if self._own else len(masked.rstrip(_OF_SECRETS))
        return masked[:end] + _mask(len(masked) - end).encode()

    def mask_text(self, text: str) -> str:
        """A text, masked."""
        for start, end in reversed(self._matches(text)):
            text = f"{text[:start]}{_mask(len(text[start:end].encode('utf-8', 'replace')))}{text[end:]}"
        return text

    def finds(self, text: str | None) -> bool:
        """Whether anything in a text is to be masked."""
        return text is not None and bool(self._matches(text))

    def _lines(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where lines stand that may hold what is to be masked."""
        if self._own_match(data):  # which says nothing of where
            ends = accumulate((len(line) + 1 for line in data.split(b"\n")), initial=0)
            for start, end in pairwise(ends):
                line = data[start : end - 1]
                if self._own_match(line) or next(self._secrets(line), None) is not None:
                    yield start, end - 1
            return
        end = -1
        for place in self._secrets(data):
            if place > end:
                start, end = data.rfind(b"\n", 0, place) + 1, data.find(b"\n", place)
                end = len(data) if end < 0 else end
                yield start, end

    def _secrets(self, data: bytes) -> Iterator[int]:
        """Where ready patterns match, or nearly so."""
        return (place for place, literal in self._places(data) if self._rough[literal].match(data, place))

    def _own_match(self, data: bytes) -> bool:
        if not self._own:
            return False
        view = _unescaped(data)
        return any(pattern.search(view) for pattern in self._own)

    def _matches(self, text: str) -> list[tuple[int, int]]:
        """Where a text is to be masked, in order; what overlaps is one."""
        spans = sorted(
            match.span("secret" if "secret" in pattern.groupindex else 0)
            for pattern in self._patterns
            for match in pattern.finditer(text)
        )
        found: list[tuple[int, int]] = []
        for start, end in spans:
            if start == end or _MASKED.fullmatch(text, start, end):
                continue
            if found and start < found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((start, end))
        return found

    def _line(self, line: bytes) -> bytes:
        from . import lines

        masked = bytearray(line)
        for piece in lines.pieces(line):
            part = line[piece.start : piece.end]
            if piece.record is None:
                masked[piece.start : piece.end] = self._broken(part)
                continue
            for start, end in _texts(part):
                for first, last in self._spans(part[start:end]):
                    at = piece.start + start
                    masked[at + first : at + last] = _mask(last - first).encode()
        return bytes(masked)

    def _spans(self, raw: bytes) -> list[tuple[int, int]]:
        """Where a text is to be masked, in bytes as it stands in the transcript: whole characters, whole escapes."""
        text, place = _decoded(raw)
        return [(place(start), place(end)) for start, end in self._matches(text)]

    def _broken(self, line: bytes) -> bytes:
        """Part of a line that is no record: masked wherever it matches, save for what a record behind it needs."""
        masked = bytearray(line)
        for first, last in self._spans(line):
            mask = bytearray(_mask(last - first).encode())
            for kept in _STRUCTURE.finditer(line[first:last]):
                mask[kept.start() : kept.end()] = kept[0]
            masked[first:last] = mask
        return bytes(masked)


def _finder(literals: Sequence[bytes]) -> Callable[[bytes], Iterable[tuple[int, bytes]]]:
    """What finds all places of all literals in bytes, in order.

    RE2, where it is installed, looks for all of them at once, as fast as for one.
    """
    try:
        import re2
    except ImportError:
        return lambda data: merge(*(_find(literal, data) for literal in literals))
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are
    pattern = re2.compile(b"|".join(map(re.escape, literals)), options)
    return lambda data: _search(pattern, data) if literals else ()


def _find(literal: bytes, data: bytes) -> Iterator[tuple[int, bytes]]:
    place = data.find(literal)
    while place >= 0:
        yield place, literal
        place = data.find(literal, place + 1)


def _search(pattern: Any, data: bytes) -> Iterator[tuple[int, bytes]]:
    found = pattern.search(data)
    while found is not None:
        yield found.start(), found.group()
        found = pattern.search(data, found.start() + 1)


def _mask(length: int) -> str:
    return MASK.ljust(length, "*") if length >= len(MASK) else "*" * length


def _unescaped(data: bytes) -> str:
    """Lines as the texts in them read; a quote that begins or ends one is a line break, so that ^ and $ hold there."""
    plain = data.replace(b"\\\\", b"\0").replace(b'\\"', b"\1").replace(b'"', b"\n").replace(b"\1", b'"')
    plain = plain.replace(b"\\n", b"\n").replace(b"\\t", b"\t").replace(b"\0", b"\\")
    if b"\\u" in plain:
        plain = re.sub(rb"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)).encode("utf-8", "replace"), plain)
    return plain.decode("utf-8", "replace")


def _texts(record: bytes) -> Iterator[tuple[int, int]]:
    """Where texts stand in the JSON of a record that may be masked, without their quotes."""
    zones: list[str] = []
    key = ""
    for token in _TOKEN.finditer(record):
        first = record[token.start()]
        if first in b"{[":
            zones.append(_below(zones[-1], key) if zones else "record")
            key = ""
        elif first in b"}]":
            zones.pop()
            key = ""
        else:
            zone = _ZONES[zones[-1]]
            if _IS_KEY.match(record, token.end()):
                key = token[0][1:-1].decode("utf-8", "replace")
                is_text = not zone.has_fixed_keys
            else:
                is_text = zone.fixed is not None and key not in zone.fixed
            if is_text:
                yield token.start() + 1, token.end() - 1


def _below(zone: str, key: str) -> str:
    return "fixed" if zone == "fixed" else _ZONES[zone].below.get(key, "free")


def _decoded(raw: bytes) -> tuple[str, Callable[[int], int]]:
    """A text between its quotes as it reads, and where in the bytes each of its characters begins."""
    parts: list[str] = []
    starts: list[int] = []  # of each part, in characters
    places: list[int] = []  # of each part, in bytes
    count = position = 0

    def add(text: str, place: int) -> None:
        nonlocal count
        parts.append(text)
        starts.append(count)
        places.append(place)
        count += len(text)

    for escape in _ESCAPE.finditer(raw):
        if escape.start() > position:
            add(raw[position : escape.start()].decode("utf-8", "surrogateescape"), position)
        add(_character(escape[0]), escape.start())
        position = escape.end()
    add(raw[position:].decode("utf-8", "surrogateescape"), position)

    def place(index: int) -> int:
        part = bisect_right(starts, index) - 1
        rest = parts[part][: index - starts[part]]
        if not rest:
            return places[part]
        return places[part] + len(rest.encode("utf-8", "surrogateescape"))

    return "".join(parts), place


_CHARACTERS = {b"\\n": "\n", b"\\t": "\t", b"\\r": "\r", b"\\b": "\b", b"\\f": "\f"}


def _character(escape: bytes) -> str:
    if escape[1:2] == b"u" and len(escape) == 6:
        return chr(int(escape[2:], 16))
    return _CHARACTERS.get(escape) or escape[1:].decode("utf-8", "replace")
