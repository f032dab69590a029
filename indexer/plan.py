"""What a refresh is to do: the transcripts that were found, held against what the index knows of them."""

from __future__ import annotations

import os
import time

from . import checkpoint, store
from .checkpoint import GROWN, SUSPECT, UNCHANGED, Checkpoint
from .discovery import Discovery, Found
from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from .archive import Archive
    from .discovery import Stat

# A path and all below it (`0` follows `/`); what else that finds does no harm.
_EXPECTED_BELOW = f"{checkpoint.EXPECTED} AND path >= :path AND path < :path || '0'"
_KNOWN = """
SELECT
  f.path, f.id, f.size, f.mtime_ns, f.inode, f.checked_ns, f.offset,
  CASE WHEN f.tail IN ('indexed', 'skipped') THEN f.size ELSE f.offset END,
  f.head_hash, f.tail_hash, f.line_count,
  s.session_id, f.first_at, f.last_at, f.parser_version, f.gone_at IS NOT NULL, f.error IS NOT NULL
FROM files AS f
LEFT JOIN sessions AS s ON s.id = f.session_id
WHERE f.host_id = 1 AND f.replaced_at IS NULL
"""
_NAMES = "SELECT path FROM files WHERE host_id = 1 AND replaced_at IS NULL AND inode = ? AND path <> ?"


class Plan:
    """What is to be done: transcripts to read, by what happened to them, and rows of `files` to correct."""

    def __init__(self, found: Discovery, known: dict[str, Checkpoint]) -> None:
        self.found = found
        self.known = known
        self.new: list[Found] = []
        self.grown: list[tuple[Found, Checkpoint]] = []
        self.again: list[tuple[Found, Checkpoint]] = []
        self.checked: list[tuple[int, int]] = []
        self.gone: dict[str, Checkpoint] = {}
        # Also those that were gone before: what new ones may have been.
        self.moved: dict[str, Checkpoint] = {}
        self.failed: list[tuple[int, str, str]] = []

    def classify(self, file: Found, full: bool) -> None:
        """Finds out what happened to a transcript; with `full` it is read again in any case."""
        before = self.known.get(store.display_path(file.path))
        if before is None:
            self.new.append(file)
            return
        change = checkpoint.classify(before, file)
        if change == UNCHANGED and not (full or before.is_gone or before.has_error):
            return
        if full:
            self.again.append((file, before))
            return
        try:
            is_same = change not in (GROWN, SUSPECT, UNCHANGED) or checkpoint.matches(before, file.path)
        except OSError as error:
            self.failed.append((before.id, file.path, error.strerror or str(error)))
            return
        if not is_same or change not in (GROWN, SUSPECT, UNCHANGED):
            self.again.append((file, before))
        elif change == GROWN or before.has_error:
            self.grown.append((file, before))
        else:
            self.checked.append((time.time_ns(), before.id))

    def is_empty(self) -> bool:
        """Whether no transcript is to be read, and none gone."""
        return not (self.new or self.grown or self.again or self.gone or self.failed)

    def is_load(self, connection: sqlite3.Connection, workers: int | None) -> bool:
        """Whether an index that never was complete is loaded with the shards of worker processes."""
        if connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is None:
            return False
        from . import pool

        return pool.process_count(len(self.new), sum(found.size for found in self.new), workers) > 0


def make_plan(
    connection: sqlite3.Connection, roots: Sequence[str], paths: Sequence[str], full: bool, archive: Archive | None
) -> Plan:
    """Looks at all transcripts of the roots, or at those at or below the paths.

    Raises CmError: a path is below no root.
    """
    found = _discover(connection, roots, paths, full, archive)
    missing = _gone(found, roots)
    plan = Plan(found, _known(connection, found.files, missing))
    for file in found.files:
        plan.classify(file, full)
    if paths:
        plan.new = [file for file in plan.new if not _has_another_name(connection, file)]
    plan.gone = {path: plan.known[path] for path in missing}
    plan.moved = plan.gone | _gone_before(connection, plan.new)
    return plan


def _discover(
    connection: sqlite3.Connection, roots: Sequence[str], paths: Sequence[str], full: bool, archive: Archive | None
) -> Discovery:
    """All transcripts of the places; describes those that there is something to do for."""
    places = _places(roots, paths)
    expected = _expected(connection, [place for _, place in places] if paths else None)
    if full:
        expected = {(path, None, mtime_ns, inode) for path, _, mtime_ns, inode in expected}
    if archive is not None:
        expected = archive.kept(expected)
    found = Discovery(expected)
    for root, place in places:
        found.walk(root, place)
    return found.finish()


def _has_another_name(connection: sqlite3.Connection, file: Found) -> bool:
    """Whether a link leads to what the index knows by a name that was not looked at: a walk of all tells them apart."""
    if os.path.realpath(file.path) == file.path:
        return False
    rows = connection.execute(_NAMES, (file.inode, store.display_path(file.path))).fetchall()
    names = [store.real_path(path) for (path,) in rows]
    return any(os.path.exists(name) and os.path.samefile(name, file.path) for name in names)


def _expected(connection: sqlite3.Connection, places: Sequence[str] | None) -> set[Stat]:
    """What discovery finds if nothing changed: of all transcripts, or of those at or below some places."""
    if places is None:
        return set(connection.execute(checkpoint.EXPECTED))
    paths = (store.display_path(place) for place in places)
    return {row for path in paths for row in connection.execute(_EXPECTED_BELOW, {"path": path})}


def _known(connection: sqlite3.Connection, files: Iterable[Found], missing: Iterable[str]) -> dict[str, Checkpoint]:
    """What the index knows of transcripts, by path as it is shown."""
    paths = [*(store.display_path(file.path) for file in files), *missing]
    rows = [row for path in paths for row in connection.execute(f"{_KNOWN} AND f.path = ?", (path,))]
    return {row[0]: Checkpoint._make(row[1:]) for row in rows}


def _places(roots: Sequence[str], paths: Sequence[str]) -> list[tuple[str, str]]:
    """Where to walk, each with its root: the roots' `projects/`, or the paths, without those that lie within others."""
    if not paths:
        return [(root, os.path.join(root, "projects")) for root in roots]
    found: list[tuple[str, str]] = []
    # In this order what is below a place follows it at once.
    for place in sorted({f"{os.path.abspath(os.path.expanduser(path))}{os.sep}" for path in paths}):
        if found and place.startswith(f"{found[-1][1]}{os.sep}"):
            continue
        root = next((root for root in roots if place.startswith(f"{root}{os.sep}projects{os.sep}")), None)
        if root is None:
            places = ", ".join(roots) or "any root"
            raise CmError(f"{place[:-1]} is not below projects/ of {places}; name its root with --root")
        found.append((root, place[:-1]))
    return found


def _gone(found: Discovery, roots: Sequence[str]) -> set[str]:
    """Transcripts of the places walked that are not there any more; what could not be looked at is not gone."""
    missing = found.missing()
    if not missing:
        return missing
    # A root that was unmounted during the walk is not a root whose transcripts are gone.
    unmounted = [root for root in roots if not os.path.isdir(os.path.join(root, "projects"))]
    blind = tuple(f"{store.display_path(path)}{os.sep}" for path in [*found.unreadable, *unmounted])
    places = tuple(f"{store.display_path(place)}{os.sep}" for place in found.places)
    exact = {store.display_path(place) for place in found.places}
    return {
        path
        for path in missing
        if (path.startswith(places) or path in exact) and not path.startswith(blind) and path not in found.unreadable
    }


def _gone_before(connection: sqlite3.Connection, new: Sequence[Found]) -> dict[str, Checkpoint]:
    """Transcripts that an earlier refresh missed at their old place, and that now may be at a new one: by its inode."""
    if not new:
        return {}
    inodes = f"[{','.join(str(found.inode) for found in new)}]"
    sql = f"{_KNOWN} AND f.gone_at IS NOT NULL AND f.inode IN (SELECT value FROM json_each(?))"
    rows = connection.execute(sql, (inodes,)).fetchall()
    return {row[0]: Checkpoint._make(row[1:]) for row in rows if not os.path.lexists(store.real_path(row[0]))}
