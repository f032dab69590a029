"""Reads a transcript in bounded pieces that end where lines end."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 4 * 1024 * 1024


def open_regular(path: str) -> int:
    """A descriptor to read a file with. Raises OSError, also for what is no file.

    Without O_NONBLOCK a FIFO put in its place would hold the reader for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file any more")
    return descriptor


def chunks(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Pieces of whole lines from start to end, as (offset, bytes); the last may lack its newline.

    A line longer than a piece makes the piece longer. Reads nothing behind `end`, the size when the file was looked
    at: what is appended meanwhile belongs to the next refresh. Raises OSError, also when the file ends too early.
    """
    position, held = start, [b""]
    size = 0  # of what is held back: the beginning of a line whose end was not read yet
    while position + size < end:
        data = os.pread(descriptor, min(CHUNK, end - position - size), position + size)
        if not data:
            raise OSError("it was cut short while being read")
        cut = data.rfind(b"\n") + 1
        if cut:
            yield position, b"".join((*held, data[:cut])) if size or cut < len(data) else data
            position += size + cut
            held = [data[cut:]]
            size = len(data) - cut
        else:
            held.append(data)
            size += len(data)
    if size:
        yield position, b"".join(held)
