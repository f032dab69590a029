"""Reads a transcript in bounded pieces that end where lines end."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 4 * 1024 * 1024
# To read a line takes two to four times its length of memory: longer ones are passed over, and counted.
MAX_LINE = 65 * 1024 * 1024


def open_regular(path: str) -> int:
    """A descriptor to read a file with. Raises OSError, also for what is no file.

    Without O_NONBLOCK a FIFO put in its place would hold the reader for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file any more")
    return descriptor


def chunks(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Pieces of whole lines from start to end, as (where it begins, where it ends, bytes).

    The last may lack its newline. A line longer than a piece makes the piece longer; of one that is too long there are
    no bytes, or while it lacks its newline the first ones. Reads nothing behind `end`, the size when the file was
    looked at: what is appended meanwhile belongs to the next refresh.

    Raises OSError, also when the file ends too early.
    """
    position, held = start, [b""]
    size = 0  # of what is held back: the beginning of a line whose end was not read yet
    while position + size < end:
        data = os.pread(descriptor, min(CHUNK, end - position - size), position + size)
        if not data:
            raise OSError("it was cut short while being read")
        cut = data.rfind(b"\n") + 1
        if not cut:
            size += len(data)
            held.append(data)
            if size > MAX_LINE:
                del held[2:]
        elif (line := size + data.find(b"\n") + 1) > MAX_LINE:
            yield position, position + line, b""
            position, held, size = position + line, [b""], 0
        else:
            piece = b"".join((*held, data[:cut])) if size or cut < len(data) else data
            held = [data[cut:]]
            yield position, position + size + cut, piece
            del piece  # megabytes, while the next is read
            position, size = position + size + cut, len(data) - cut
    if size:
        yield position, position + size, b"".join(held)
