"""The stat sweep: what is new, changed or gone below the roots since the last look, without opening the index."""

from __future__ import annotations

import os
import time

from .checkpoint import RACY_NS
from .discovery import Discovery, discover, inode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # Size, mtime_ns and inode; None where the file was too young for its time to be trusted.
    Seen = tuple[int, int, int] | None


class Picture:
    """Transcripts and directories as they were when they were last looked at."""

    def __init__(self) -> None:
        self.directories: dict[str, int] = {}
        self.linked: list[str] = []
        self.unreadable: dict[str, str] = {}
        self._roots: list[str] = []
        self._files: dict[str, Seen] = {}

    def look(self, roots: Sequence[str], must_walk: bool = False) -> set[str]:
        """Paths that are new, changed or gone since the last look, or were too young then to tell.

        A directory whose mtime is what it was has the entries it had: then a `stat` of each thing known is enough,
        a third of what listing all directories costs. Over a network mtimes may be late, so there one `must_walk`.
        """
        if must_walk or list(roots) != self._roots or not self._has_same_directories():
            return self._walk(roots)
        try:
            return self._changed()
        except OSError:
            return self._walk(roots)

    def _has_same_directories(self) -> bool:
        try:
            return all(os.stat(path).st_mtime_ns == mtime_ns for path, mtime_ns in self.directories.items())
        except OSError:
            return False

    def _changed(self) -> set[str]:
        oldest_racy = time.time_ns() - RACY_NS
        changed = set()
        for path, before in self._files.items():
            status = os.stat(path)
            seen = (status.st_size, status.st_mtime_ns, inode(status))
            if before != seen:
                changed.add(path)
                # Replacing the values of a dictionary does not disturb the iteration.
                self._files[path] = _seen(*seen, oldest_racy)
        return changed

    def _walk(self, roots: Sequence[str]) -> set[str]:
        oldest_racy = time.time_ns() - RACY_NS
        found = discover(roots)
        files = {file.path: _seen(file.size, file.mtime_ns, file.inode, oldest_racy) for file in found.files}
        before = self._files
        changed = {file.path for file in found.files if before.get(file.path) != file[2:5]}
        missing = before.keys() - files.keys()
        blind = _below(found.unreadable)
        files |= {path: before[path] for path in missing if path.startswith(blind)}
        self._files, self._roots = files, list(roots)
        self._keep(found, oldest_racy)
        return changed | {path for path in missing if path.startswith(_below(found.places)) and path not in files}

    def _keep(self, found: Discovery, oldest_racy: int) -> None:
        # Looked at after the walk: one that changed during it is too young to be trusted.
        times = {path: _mtime_ns(path) for path in found.directories}
        self.directories = {path: time_ns if time_ns < oldest_racy else 0 for path, time_ns in times.items()}
        self.linked, self.unreadable = found.linked, found.unreadable


def _mtime_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _seen(size: int, mtime_ns: int, inode: int, oldest_racy: int) -> Seen:
    return (size, mtime_ns, inode) if mtime_ns < oldest_racy else None


def _below(places: Sequence[str] | dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{place}{os.sep}" for place in places)
