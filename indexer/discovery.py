"""Finds transcripts: every `*.jsonl` below `projects/` of each root, at any depth, linked directories once."""

from __future__ import annotations

import os
import stat
from collections import namedtuple

from .store import display_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Set
    from typing import NamedTuple

    # Path as it is shown, size, mtime_ns and inode; without a size it is no file's.
    Stat = tuple[str, int | None, int, int]

    class Found(NamedTuple):
        """A transcript as discovery saw it: the only `stat` a refresh makes of it before reading."""

        path: str
        root: str
        size: int
        mtime_ns: int
        inode: int
        device: int

else:
    # typing costs a no-change refresh 4 ms.
    Found = namedtuple("Found", "path root size mtime_ns inode device")


# The year 2262: file systems know later times than SQLite has integers for. Such a time is never trusted anyway.
_LATEST_NS = (1 << 63) - 1


def _found(path: str, root: str, status: os.stat_result) -> Found:
    return Found(path, root, status.st_size, min(status.st_mtime_ns, _LATEST_NS), inode(status), status.st_dev)


def inode(status: os.stat_result) -> int:
    """The inode number in 63 bits: file systems that make it up use all 64, which SQLite cannot store."""
    return status.st_ino & (1 << 63) - 1


class Discovery:
    """What a walk found, and where it could not look; transcripts that are as expected are not described again."""

    def __init__(self, expected: Set[Stat] = frozenset()) -> None:
        self.files: list[Found] = []
        self.unchanged: list[Stat] = []
        self.unreadable: dict[str, str] = {}
        self.places: list[str] = []
        self.directories: list[str] = []  # what was entered
        self.linked: list[str] = []  # of these, directories that only a link leads to
        self._expected = expected
        self._identities: set[tuple[int, int] | None] = set()
        self._identified = 0
        self._links: list[tuple[str, str]] = []
        self._linked: list[tuple[str, str, os.stat_result]] = []

    @property
    def count(self) -> int:
        """Transcripts that are there."""
        return len(self.files) + len(self.unchanged)

    def missing(self) -> set[str]:
        """Paths of transcripts that are expected and were not found, as they are shown."""
        if len(self.unchanged) == len(self._expected):
            return set()
        missing = {path for path, *_ in self._expected - set(self.unchanged)}
        return missing.difference(display_path(found.path) for found in self.files)

    def walk(self, root: str, place: str | None = None) -> None:
        """Adds the transcripts of a root, or only those at or below a place in it."""
        place = place or os.path.join(root, "projects")
        self.places.append(place)
        try:
            status = os.stat(place)
        except FileNotFoundError:
            return
        except OSError as error:
            self.unreadable[place] = error.strerror or str(error)
            return
        if stat.S_ISDIR(status.st_mode):
            if self._is_new(status):
                self._directory(place, root)
        elif stat.S_ISREG(status.st_mode) and place.endswith(".jsonl"):
            self._file(place, root, status)

    def finish(self) -> Discovery:
        """Adds what links lead to, unless it was found under its own name."""
        for path, root in self._links:  # grows while directories that links lead to hold further links
            self._follow(path, root)
        known = self._paths_by_inode() if self._linked else {}
        for path, root, status in self._linked:
            before = known.setdefault(inode(status), path)
            if before == path or not _is_same(before, path):
                self._file(path, root, status)
        return self

    def _paths_by_inode(self) -> dict[int, str]:
        paths = {inode: path for path, _, _, inode in self.unchanged}
        return paths | {found.inode: found.path for found in self.files}

    def _is_new(self, status: os.stat_result) -> bool:
        """Whether it is of a directory that was not entered yet."""
        for path in self.directories[self._identified :]:
            self._identities.add(_identity(path))
        self._identified = len(self.directories)
        return (status.st_dev, status.st_ino) not in self._identities

    def _directory(self, top: str, root: str) -> None:
        # The first walk meets every directory once. Only a link or a second root can lead to one again, and what a
        # `stat` of each costs is a tenth of a walk.
        is_first = not self.directories
        pending = [top]
        while pending:
            directory = pending.pop()
            self.directories.append(directory)
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        self._entry(entry, root, pending, is_first)
            except OSError as error:
                self.unreadable[directory] = error.strerror or str(error)

    def _entry(self, entry: os.DirEntry[str], root: str, pending: list[str], is_new: bool) -> None:
        """Takes an entry in; links are looked at when all real things are known."""
        try:
            # A FIFO or a device is neither a directory nor a file: opening one could block for ever.
            if entry.name.endswith(".jsonl") and entry.is_file(follow_symlinks=False):
                self._file(entry.path, root, entry.stat(follow_symlinks=False))
            elif entry.is_dir(follow_symlinks=False):
                if is_new or self._is_new(entry.stat(follow_symlinks=False)):
                    pending.append(entry.path)
            elif entry.is_symlink():
                self._links.append((entry.path, root))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.unreadable[entry.path] = error.strerror or str(error)

    def _file(self, path: str, root: str, status: os.stat_result) -> None:
        # Few paths are shown as anything but what they are. Those are described, and then found to be unchanged.
        seen = (path, status.st_size, min(status.st_mtime_ns, _LATEST_NS), inode(status))
        if seen in self._expected:
            self.unchanged.append(seen)
        else:
            self.files.append(_found(path, root, status))

    def _follow(self, path: str, root: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            return  # a dangling link, or a loop of links, leads to no transcript
        if stat.S_ISDIR(status.st_mode):
            if self._is_new(status):
                self.linked.append(path)
                self._directory(path, root)
        elif stat.S_ISREG(status.st_mode) and path.endswith(".jsonl"):
            self._linked.append((path, root, status))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:  # it is gone meanwhile
        return None
    return status.st_dev, status.st_ino


def _is_same(path: str, other: str) -> bool:
    identity = _identity(path)
    return identity is not None and identity == _identity(other)


def discover(roots: Iterable[str]) -> Discovery:
    """All transcripts of the roots, each once, also where roots or directories are links to each other."""
    found = Discovery()
    for root in roots:
        found.walk(root)
    return found.finish()
