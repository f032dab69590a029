"""Chunks: ranges of a transcript as the archive keeps them, made by whoever reads it."""

from __future__ import annotations

import os
from collections import namedtuple
from functools import partial

from .errors import IndexUnusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable
    from typing import Any, NamedTuple

    class Chunk(NamedTuple):
        """A range of a transcript: whole lines, or its open last line; `digest` is of the bytes that are kept."""

        start: int
        end: int
        digest: int
        data: bytes
        is_whole: bool

    class Archived(NamedTuple):
        """What the archive has of a transcript: whole lines up to `offset`, and what to hold against the transcript.

        `forgotten` are sessions whose records are left out.
        """

        is_known: bool
        offset: int
        chunks: list[tuple[int, int, int]]
        forgotten: tuple[str, ...]

else:
    Chunk = namedtuple("Chunk", "start end digest data is_whole")
    Archived = namedtuple("Archived", "is_known offset chunks forgotten")

# What differs of a transcript: bits of `files.is_masked`. The open last line is written again when it is whole.
LINES_MASKED, TAIL_MASKED = 1, 2

# zstd of real transcripts: level 3 gives 14.8 % at 280 MB/s, 9 gives 13.5 % at 66, 19 with a long window 13.1 % at 3.
_LEVEL, PACKED_LEVEL = 3, 9
_LONG_WINDOW = 26


def compress(data: bytes, level: int = _LEVEL) -> bytes:
    """A zstd frame with a checksum."""
    zstd = _zstd()
    key = zstd.CompressionParameter
    options = {key.compression_level: level, key.checksum_flag: 1}
    if level == PACKED_LEVEL and len(data) > 1 << 22:
        options |= {key.enable_long_distance_matching: 1, key.window_log: _LONG_WINDOW}
    packed: bytes = zstd.compress(data, options=options)
    return packed


def decompress(data: bytes) -> bytes:
    """The bytes of a frame. Raises IndexUnusable: it is damaged."""
    zstd = _zstd()
    try:
        found: bytes = zstd.decompress(data)
    except zstd.ZstdError as error:
        raise IndexUnusable(f"a chunk of the archive is damaged ({error}); take cm-archive.db from a backup") from error
    return found


def _zstd() -> Any:
    import sys
    from importlib import import_module

    # The same library: in the standard library since 3.14.
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


class Keeper:
    """Makes the chunks of one transcript that the archive lacks.

    `is_same`: what it has is still the transcript's; `start`: where it goes on; `masked`: what of it is not as it
    stands there.
    """

    def __init__(self, archived: Archived, patterns: tuple[str, ...], descriptor: int) -> None:
        self._patterns = patterns
        self._forgotten = archived.forgotten
        self.is_same = archived.is_known and all(self._has(descriptor, *chunk) for chunk in archived.chunks)
        self.start = archived.offset if self.is_same else 0
        self.masked = 0

    def _has(self, descriptor: int, start: int, end: int, kept_digest: int) -> bool:
        from .digest import digest

        data = os.pread(descriptor, end - start, start)
        return len(data) == end - start and digest(self._stored(data, None)) == kept_digest

    def _stored(self, raw: bytes, masked: bytes | None) -> bytes:
        """What of bytes is kept; their lines may have been masked already, and not the last if that is open."""
        if self._patterns and (masked is None or not raw.endswith(b"\n")):
            from .redaction import redactor

            masked = redactor(self._patterns).mask_chunk(raw)
        return blank(raw if masked is None else masked, self._forgotten)

    def chunks(self, raw: bytes, masked: bytes, offset: int) -> list[Chunk]:
        """What is not kept of a piece of the transcript, of which `masked` may be stored."""
        from .digest import digest

        raw, masked, offset = raw[self.start - offset :], masked[self.start - offset :], self.start
        if not raw:
            return []
        is_whole = raw.endswith(b"\n")
        stored = self._stored(raw, masked)
        if stored != raw:
            self.masked |= LINES_MASKED if is_whole else TAIL_MASKED
        self.start = offset + len(raw)
        return [Chunk(offset, self.start, digest(stored), compress(stored), is_whole)]


def blank(data: bytes, sessions: Iterable[str]) -> bytes:
    """Whole lines with those of the sessions as spaces: offsets stay true, and Claude Code skips blank lines."""
    import re

    for session in sessions:
        if session.encode() in data:
            names = rb'^.*"session(?:Id|_id)"\s*:\s*"' + re.escape(session.encode()) + rb'".*$'
            data = re.sub(names, partial(_blank_line, session), data, flags=re.MULTILINE)
    return data


def _blank_line(session: str, found: re.Match[bytes]) -> bytes:
    from .lines import pieces

    line = found[0]
    # A fork's records name the session that they were copied from.
    is_another_s = all(
        piece.record is not None and session not in (piece.record.get("sessionId"), piece.record.get("session_id"))
        for piece in pieces(line)
    )
    return line if is_another_s else b" " * len(line)
