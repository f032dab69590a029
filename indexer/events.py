"""File system events below the roots: hints of what to refresh; and the reasons to do without them."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import time

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Any

    from watchdog.events import FileSystemEvent

# Left to listen to all, the Observer hears itself open directories: above 5,000 it never gets done with that.
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
# What other machines, or the host of a virtual one, do on these is never told.
_REMOTE = re.compile(
    r"9p|afs|ceph|cifs|coda|drvfs|fuse(\..*)?|gpfs|lustre|ncpfs|nfs4?|orangefs|prl_fs|smb3|smbfs|vboxsf|virtiofs|vmhgfs"
)
_MOUNTS = "/proc/self/mountinfo"
_LIMIT = "/proc/sys/fs/inotify/max_user_watches"


class Hints:
    """Paths that are said to have changed: added by the observer's thread, taken by the one that refreshes."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        # When the first of them came, by time.monotonic().
        self.since: float | None = None

    def add(self, paths: Iterable[str], delay: float = 0.0) -> None:
        with self._lock:
            self._paths.update(paths)
            is_first = self.since is None
            if is_first:
                self.since = time.monotonic() + delay
        if is_first:
            self._wake()

    def take(self) -> set[str]:
        with self._lock:
            taken, self._paths, self.since = self._paths, set(), None
        return taken


class _Handler(FileSystemEventHandler):
    """Turns events below a directory into paths below the name that the index knows it by."""

    def __init__(self, top: str, place: str, hints: Hints) -> None:
        self._top, self._place, self._hints = top, place, hints

    def dispatch(self, event: FileSystemEvent) -> None:
        paths = [os.fsdecode(path) for path in (event.src_path, event.dest_path) if path]
        found = [path for path in paths if event.is_directory or path.endswith(".jsonl")]
        if found:
            self._hints.add(self._place + path.removeprefix(self._top) for path in found)


class Events:
    """Watches directories, as long as the system lets it; `say` is told when it does not."""

    def __init__(self, hints: Hints, say: Callable[[str], None]) -> None:
        self._hints = hints
        self._say = say
        self._observer: Any = None
        self._descriptors: set[str] = set()
        self._watched: dict[str, tuple[Any, tuple[int, int], str]] = {}
        self._remote: set[str] = set()
        self._counted = 0
        self._has_given_up = False

    @property
    def is_polling(self) -> bool:
        """Whether some directories have to be looked at because nothing is told about them."""
        return self._has_given_up or self.has_remote

    @property
    def has_remote(self) -> bool:
        """Whether some directories are on a file system that other machines write to."""
        return bool(self._remote)

    def follow(self, places: Sequence[str], directories: Collection[str]) -> bool:
        """Watches these places, and those that were watched no more; True if any of them is new.

        Args:
            places: what to watch with all below it; where two are the same directory, the first gives its name.
            directories: all that there are in them, to notice when the system watches only some.
        """
        if self._has_given_up:
            return False
        tops = {os.path.realpath(place): place for place in reversed(places)}
        for top, (watch, identity, place) in list(self._watched.items()):
            if tops.get(top) != place or _identity(top) != identity:
                self._observer.unschedule(watch)
                del self._watched[top]
        self._remote &= tops.keys()
        new = [top for top in tops if top not in self._watched and top not in self._remote]
        try:
            self._check_limit(len(directories))
            has_new = [self._watch(top, tops[top]) for top in new]
            if len(directories) != self._counted or any(has_new):
                self._check_count(directories)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return False
        return any(has_new)

    def stop(self) -> None:
        """Ends all threads."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        self._watched.clear()

    def _watch(self, top: str, place: str) -> bool:
        """Watches a directory; False if it cannot be, now or ever. Raises OSError: no more can be watched."""
        kind = remote_file_system(top)
        if kind is not None:
            self._remote.add(top)
            self._say(f"{place} is on a file system of type {kind}, which tells no events: it is looked at instead")
            return False
        if self._observer is None:
            self._start()
        try:
            identity = _identity(top)
            watch = self._observer.schedule(
                _Handler(top, place, self._hints), top, recursive=True, event_filter=_EVENTS
            )
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EMFILE):
                raise
            return False  # it has just gone, or cannot be read: the next sweep tries again
        self._watched[top] = (watch, identity, place)
        return True

    def _start(self) -> None:
        before = _inotify_descriptors()
        self._observer = Observer()
        self._observer.start()
        self._descriptors = _inotify_descriptors() - before

    def _check_limit(self, count: int) -> None:
        if count > _limit():
            raise OSError(errno.ENOSPC, f"{count:,} directories are more than fs.inotify.max_user_watches allows")

    def _check_count(self, directories: Collection[str]) -> None:
        """The Observer passes over directories when the system's table is full: count what the kernel watches."""
        self._counted = len(directories)
        places = tuple(f"{place}/" for _, _, place in self._watched.values())
        expected = [path for path in directories if f"{path}/".startswith(places)]
        if not self._descriptors or self._watch_count() >= len(expected):
            return
        time.sleep(0.2)  # what was just made is not watched yet, and what was just removed is not there
        count, there = self._watch_count(), sum(os.access(path, os.R_OK) for path in expected)
        if count < there:
            raise OSError(errno.ENOSPC, f"only {count:,} of {there:,} directories can be watched")

    def _watch_count(self) -> int:
        count = 0
        for descriptor in self._descriptors:
            with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
                count += sum(line.startswith("inotify") for line in file)
        return count

    def _give_up(self, reason: str) -> None:
        self._has_given_up = True
        # A table that is full is full for every program of the user: it gets its entries back.
        self.stop()
        self._say(
            f"no file system events: {reason}; directories are looked at instead"
            " (raise fs.inotify.max_user_watches or max_user_instances, then send SIGHUP)"
        )


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _limit() -> float:
    try:
        with open(_LIMIT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return float("inf")


def _inotify_descriptors() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}") == "anon_inode:inotify":
                found.add(descriptor)
        except OSError:
            continue
    return found


def remote_file_system(path: str, mounts: str = _MOUNTS) -> str | None:
    """The type of the file system a path is on, if that is one which tells no events; None where nobody knows.

    Args:
        path: absolute and without links.
        mounts: the table of mounts, see proc(5).
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            table = [line.split(" ") for line in file]
    except OSError:
        return None
    kind, longest = "", -1
    for fields in table:
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]).rstrip("/")
        # The last of several mounts at one point is the one to be seen.
        if (path == point or path.startswith(f"{point}/")) and len(point) >= longest:
            kind, longest = fields[fields.index("-") + 1], len(point)
    return kind if _REMOTE.fullmatch(kind) else None
