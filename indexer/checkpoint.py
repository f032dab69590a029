"""How far a transcript was read, and what has happened to it since."""

from __future__ import annotations

import os
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from .discovery import Found

    class Checkpoint(NamedTuple):
        """What the index remembers of a transcript: the columns of `files`, with times in nanoseconds."""

        id: int
        size: int
        mtime_ns: int
        inode: int
        checked_ns: int
        offset: int
        end: int
        head_hash: int | None
        tail_hash: int | None
        line_count: int
        session: str | None
        first_at: int | None
        last_at: int | None
        parser_version: int
        is_gone: int
        has_error: int

else:
    Checkpoint = namedtuple(
        "Checkpoint",
        "id size mtime_ns inode checked_ns offset end head_hash tail_hash line_count session first_at last_at "
        "parser_version is_gone has_error",
    )

# Raise it when the parser makes other rows of the same bytes: transcripts that are still there are then read again.
PARSER_VERSION = 2
SAMPLE = 4096
# File systems and editors give times as coarse as two seconds (FAT): a file that young may change unnoticed.
RACY_NS = 2_000_000_000
# The time of a file that is not read to its end, which is no file's: that of files out of an archive can be 0.
UNFINISHED = -1

# What a `stat` must tell of the transcripts that are there for all of them to be unchanged; one that has to be looked
# at in any case has no size. To read all columns took four times as long.
EXPECTED = f"""
SELECT
  path,
  CASE WHEN parser_version = {PARSER_VERSION} AND error IS NULL AND mtime_ns < checked_ns - {RACY_NS} THEN size END,
  mtime_ns, inode
FROM files
WHERE host_id = 1 AND replaced_at IS NULL AND gone_at IS NULL
"""

UNCHANGED = "unchanged"
GROWN = "grown"
REWRITTEN = "rewritten"
STALE = "stale"
SUSPECT = "suspect"


def classify(known: Checkpoint, found: Found) -> str:
    """What a `stat` tells of a known transcript: unchanged, grown, rewritten, stale or suspect.

    `grown` and `suspect` (changed too recently for its time to be trusted) hold only if `matches` confirms them.
    """
    if known.parser_version != PARSER_VERSION:
        return STALE
    if found.size > known.size:
        # Until a session and a time are found in it, its records borrow the file's name and time, which may change.
        needs_both = known.line_count and (known.session is None or known.first_at is None)
        return STALE if needs_both else GROWN
    if (found.size, found.mtime_ns, found.inode) != (known.size, known.mtime_ns, known.inode):
        return REWRITTEN
    return UNCHANGED if found.mtime_ns < known.checked_ns - RACY_NS else SUSPECT


def samples(descriptor: int, end: int) -> tuple[int, int]:
    """Digests of the first and the last 4 KiB before the end of what was used. Raises OSError."""
    from .digest import digest

    head = digest(os.pread(descriptor, min(SAMPLE, end), 0))
    return head, head if end <= SAMPLE else digest(os.pread(descriptor, SAMPLE, end - SAMPLE))


def matches(known: Checkpoint, path: str) -> bool:
    """Whether the bytes that were used, an open last line included, are still what they were. Raises OSError."""
    if known.end == 0:
        return True
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return samples(descriptor, known.end) == (known.head_hash, known.tail_hash)
    finally:
        os.close(descriptor)
