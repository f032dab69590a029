"""Files for this user alone: made so, and mended where others could read them."""

from __future__ import annotations

import errno
import os
import stat

_OTHERS = 0o077


def open_file(path: str, flags: int) -> tuple[int, bool]:
    """A descriptor of a file, made if it is not there, and whether others could read it until now.

    Raises OSError, also for what would block whoever reads or writes it.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    status = os.fstat(descriptor)
    if stat.S_ISFIFO(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is a FIFO", path)
    if not is_open_to_others(status):
        return descriptor, False
    try:
        os.fchmod(descriptor, 0o600)
    except OSError:  # another's file, or a file system without modes; `cm check` tells
        return descriptor, False
    return descriptor, not is_open_to_others(os.fstat(descriptor))


def is_open_to_others(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & _OTHERS)
