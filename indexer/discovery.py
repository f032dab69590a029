"""Finds transcripts: every `*.jsonl` below `projects/` of each root, at any depth, linked directories once."""

from __future__ import annotations

import os
import stat
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

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


def _found(path: str, root: str, status: os.stat_result) -> Found:
    return Found(path, root, status.st_size, status.st_mtime_ns, inode(status), status.st_dev)


def inode(status: os.stat_result) -> int:
    """The inode number in 63 bits: file systems that make it up use all 64, which SQLite cannot store."""
    return status.st_ino & (1 << 63) - 1


class Discovery:
    """What a walk found, and where it could not look."""

    def __init__(self) -> None:
        self.files: list[Found] = []
        self.unreadable: dict[str, str] = {}
        self.places: list[str] = []
        self.directories: dict[str, int] = {}  # what was entered, with its mtime_ns
        self.linked: list[str] = []  # of these, directories that only a link leads to
        self._entered: set[tuple[int, int]] = set()
        self._links: list[tuple[str, str]] = []
        self._linked: list[Found] = []

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
            if self._enter(place, status):
                self._directory(place, root)
        elif stat.S_ISREG(status.st_mode) and place.endswith(".jsonl"):
            self.files.append(_found(place, root, status))

    def finish(self) -> Discovery:
        """Adds what links lead to, unless it was found under its own name."""
        for path, root in self._links:  # grows while directories that links lead to hold further links
            self._follow(path, root)
        known = {(found.device, found.inode) for found in self.files} if self._linked else set()
        for found in self._linked:
            identity = (found.device, found.inode)
            if identity not in known:
                known.add(identity)
                self.files.append(found)
        return self

    def _enter(self, path: str, status: os.stat_result) -> bool:
        identity = (status.st_dev, status.st_ino)
        if identity in self._entered:
            return False
        self._entered.add(identity)
        self.directories[path] = status.st_mtime_ns
        return True

    def _directory(self, top: str, root: str) -> None:
        pending = [top]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        self._entry(entry, root, pending)
            except OSError as error:
                self.unreadable[directory] = error.strerror or str(error)

    def _entry(self, entry: os.DirEntry[str], root: str, pending: list[str]) -> None:
        """Takes an entry in; links are looked at when all real things are known."""
        try:
            # A FIFO or a device is neither a directory nor a file: opening one could block for ever.
            if entry.name.endswith(".jsonl") and entry.is_file(follow_symlinks=False):
                self.files.append(_found(entry.path, root, entry.stat(follow_symlinks=False)))
            elif entry.is_dir(follow_symlinks=False):
                if self._enter(entry.path, entry.stat(follow_symlinks=False)):
                    pending.append(entry.path)
            elif entry.is_symlink():
                self._links.append((entry.path, root))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.unreadable[entry.path] = error.strerror or str(error)

    def _follow(self, path: str, root: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            return  # a dangling link, or a loop of links, leads to no transcript
        if stat.S_ISDIR(status.st_mode):
            if self._enter(path, status):
                self.linked.append(path)
                self._directory(path, root)
        elif stat.S_ISREG(status.st_mode) and path.endswith(".jsonl"):
            self._linked.append(_found(path, root, status))


def discover(roots: Iterable[str]) -> Discovery:
    """All transcripts of the roots, each once, also where roots or directories are links to each other."""
    found = Discovery()
    for root in roots:
        found.walk(root)
    return found.finish()
