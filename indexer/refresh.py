"""Brings the index up to date: only new bytes of new or changed transcripts are read.

    discover(roots) → stat → classify against files → pool: read from the offset, parse whole lines
    → one writer: BEGIN IMMEDIATE; rows + new offset; COMMIT → derive responses, tool calls and sessions

The offset of a transcript moves only in the transaction that stores its rows, and what is derived from them is
derived in the same one. Killed anywhere, the next refresh goes on from there. In the first load of an empty index
deriving waits for the end, with the indexes it needs; until then `meta.is_loading` says so.
"""

from __future__ import annotations

import os
import time

from . import checkpoint, config, hosts, pricing, store, zones
from .checkpoint import GROWN, SUSPECT, UNCHANGED, Checkpoint
from .discovery import Discovery, Found
from .errors import CmError, PriceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .archive import Archive
    from .discovery import Stat
    from .transcripts import Job
    from .writer import Writer

    # Called with bytes read and bytes to read.
    Progress = Callable[[int, int], None]

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
_CHECKED = "UPDATE files SET checked_ns = ?, gone_at = NULL WHERE id = ?"
# What `refreshes` says of a run; how many it keeps; what `cm watch` does within a minute is one.
_RUN = (
    "seconds",
    "files_seen",
    "files_parsed",
    "files_failed",
    "files_gone",
    "bytes_read",
    "records_added",
    "responses_added",
    "lines_skipped",
)
_KEPT_RUNS, _RUN_MS = 10_000, 60_000


class Summary:
    """What a refresh did. `failures` maps paths to reasons; bytes_read counts what was given to the parser."""

    def __init__(self) -> None:
        self.files_seen = 0
        self.files_parsed = 0
        self.files_unchanged = 0
        self.files_failed = 0
        self.files_gone = 0
        self.bytes_read = 0
        self.records_added = 0
        self.responses_added = 0
        self.lines_skipped = 0
        self.seconds = 0.0
        self.phases: dict[str, float] = {"discover": 0.0, "parse": 0.0, "finalize": 0.0}
        self.failures: dict[str, str] = {}
        # Of these, what failed the last time too, and for the same reason: it was told then.
        self.told: set[str] = set()
        # What went wrong with anything but transcripts.
        self.warnings: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """The object that `cm refresh --json` prints."""
        return {key: value for key, value in vars(self).items() if key not in ("failures", "told", "warnings")} | (
            {"failures": self.failures} if self.failures else {}
        )


def refresh(
    roots: Sequence[str] = (),
    db: str | None = None,
    *,
    paths: Sequence[str] = (),
    full: bool = False,
    workers: int | None = None,
    wait: bool = False,
    command: str = "refresh",
    progress: Progress | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Summary:
    """Indexes what is new or changed below the roots, or only below `paths`.

    Args:
        roots: Claude config directories; by default those of the environment, else the usual two.
        db: the index; by default `CM_DB`, else in the XDG data directory.
        full: read every transcript again from its beginning.
        workers: threads that read and parse; by default as many as pay off.
        wait: wait for another refresh to finish, instead of raising Locked.
        is_stopped: asked while reading; True commits what was read so far and leaves the rest to the next refresh.

    Raises:
        Locked: another refresh is at work. IndexUnusable: the index cannot be opened or written.
    """
    path, workers = config.database(db), config.workers(workers)
    summary, clock = Summary(), _Clock()
    found_roots, _ = config.roots(roots)
    store.make_private(path, summary.warnings.append)
    with store.Lock(path, wait):
        connection = store.open_writer(path, summary.warnings.append)
        try:
            try:
                pricing.update(connection)
            except PriceError as error:
                summary.warnings.append(f"{error}; costs are by the prices as they were")
            zones.update(connection)
            summary.warnings += _settle_text(connection, path)
            hosts.update(connection)
            archive = _archive(path, connection)
            try:
                plan = _look(connection, found_roots, paths, full, summary, clock, archive)
                if plan is not None:
                    if is_load := plan.is_load(connection, workers):
                        connection.close()
                        connection = store.connect_to_load(path)
                    _index(connection, plan, full, workers, summary, clock, progress, is_stopped, archive)
                    if is_load:
                        store.end_load(connection)
            finally:
                if archive is not None:
                    archive.close()
            _log_run(connection, summary, clock, command, bool(paths))
        except store.errors() as error:
            raise store.explain(path, error) from error
        finally:
            connection.close()
    return summary


class _Clock:
    """Times the phases of a run."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self._start = self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed

    def total(self) -> float:
        return time.perf_counter() - self._start


def _look(
    connection: sqlite3.Connection,
    roots: Sequence[str],
    paths: Sequence[str],
    full: bool,
    summary: Summary,
    clock: _Clock,
    archive: Archive | None,
) -> Plan | None:
    """What is to be done; None if it is nothing."""
    found = _discover(connection, roots, paths, full, archive)
    summary.files_seen = found.count
    summary.failures.update(found.unreadable)
    _note_unreadable(connection, found, summary)
    missing = _gone(found, roots)
    known = _known(connection, found.files, missing)
    plan = _plan(found.files, known, full)
    plan.gone = {path: known[path] for path in missing}
    plan.moved = plan.gone | _gone_before(connection, plan.new)
    plan.found, plan.known = found, known
    _mark_checked(connection, plan.checked)
    summary.phases["discover"] = clock.lap()
    is_kept = archive is None or not archive.behind(found.files)
    if plan.is_empty() and is_kept and not _is_unfinished(connection):
        summary.files_unchanged = found.count
        summary.files_failed = len(summary.failures)
        return None
    return plan


def _index(
    connection: sqlite3.Connection,
    plan: Plan,
    full: bool,
    workers: int | None,
    summary: Summary,
    clock: _Clock,
    progress: Progress | None,
    is_stopped: Callable[[], bool] | None,
    archive: Archive | None,
) -> None:
    """Carries out the plan."""
    from .writer import Writer

    writer = Writer(connection, summary, archive)
    jobs = _prepared(writer.adopt_moved(plan), archive, plan)
    writer.mark_gone(plan.gone)
    writer.mark_failed(plan.failed)
    is_complete = _read(jobs, connection, writer, workers, progress, is_stopped)
    summary.phases["parse"] = clock.lap()
    if is_complete:
        writer.finish()
        if full:
            from . import rollups

            store.transaction(connection, lambda: rollups.sum_all(connection))
    else:
        writer.stop()
    if archive is not None and is_complete:
        archive.pack(clock.total())
    summary.files_unchanged = summary.files_seen - summary.files_parsed - len(writer.failed)
    summary.files_failed = len(summary.failures)
    summary.phases["finalize"] = clock.lap()


def _settle_text(connection: sqlite3.Connection, path: str) -> list[str]:
    is_off = connection.execute("SELECT 1 FROM meta WHERE key = 'text_is_off'").fetchone() is not None
    if is_off != config.keeps_text():
        return []
    from .erasure import settle_text

    return settle_text(connection, path)


def _archive(path: str, connection: sqlite3.Connection) -> Archive | None:
    """The archive, where the transcripts' bytes are to be kept."""
    if not config.keeps():
        return None
    from .archive import Archive

    return Archive(path, connection)


def _prepared(jobs: list[Job], archive: Archive | None, plan: Plan) -> list[Job]:
    """The jobs with what they must know of privacy and of the archive."""
    if archive is not None:
        jobs = archive.prepare(jobs, plan.found.files, plan.known)
    patterns, keeps_text = config.patterns(), config.keeps_text()
    for job in jobs:
        job.patterns, job.keeps_text = patterns, keeps_text
    return jobs


class Plan:
    """What is to be done: transcripts to read, by what happened to them, and rows of `files` to correct."""

    found: Discovery
    known: dict[str, Checkpoint]

    def __init__(self) -> None:
        self.new: list[Found] = []
        self.grown: list[tuple[Found, Checkpoint]] = []
        self.again: list[tuple[Found, Checkpoint]] = []
        self.checked: list[tuple[int, int]] = []
        self.gone: dict[str, Checkpoint] = {}
        # Also those that were gone before: what new ones may have been.
        self.moved: dict[str, Checkpoint] = {}
        self.failed: list[tuple[int, str, str]] = []

    def is_empty(self) -> bool:
        return not (self.new or self.grown or self.again or self.gone or self.failed)

    def is_load(self, connection: sqlite3.Connection, workers: int | None) -> bool:
        """Whether an index that never was complete is loaded with the shards of worker processes."""
        if connection.execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is None:
            return False
        from . import pool

        return pool.process_count(len(self.new), sum(found.size for found in self.new), workers) > 0


def _plan(files: Iterable[Found], known: dict[str, Checkpoint], full: bool) -> Plan:
    plan = Plan()
    now = time.time_ns()
    for file in files:
        before = known.get(store.display_path(file.path))
        if before is None:
            plan.new.append(file)
            continue
        change = checkpoint.classify(before, file)
        if change == UNCHANGED and not (full or before.is_gone or before.has_error):
            continue
        if full:
            plan.again.append((file, before))
            continue
        try:
            is_same = change not in (GROWN, SUSPECT, UNCHANGED) or checkpoint.matches(before, file.path)
        except OSError as error:
            plan.failed.append((before.id, file.path, error.strerror or str(error)))
            continue
        if not is_same or change not in (GROWN, SUSPECT, UNCHANGED):
            plan.again.append((file, before))
        elif change == GROWN or before.has_error:
            plan.grown.append((file, before))
        else:
            plan.checked.append((now, before.id))
    return plan


def _discover(
    connection: sqlite3.Connection, roots: Sequence[str], paths: Sequence[str], full: bool, archive: Archive | None
) -> Discovery:
    """All transcripts of the roots, or those at or below the paths; describes those that there is something to do for.

    Raises CmError: a path is below no root.
    """
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


def _mark_checked(connection: sqlite3.Connection, checked: Sequence[tuple[int, int]]) -> None:
    """Notes when transcripts were looked at that turned out to be unchanged."""
    if checked:
        store.transaction(connection, lambda: connection.executemany(_CHECKED, checked))


def _note_unreadable(connection: sqlite3.Connection, found: Discovery, summary: Summary) -> None:
    """Remembers where the walk could not look, so that it need not be told at every refresh."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'unreadable'").fetchone()
    if row is None and not found.unreadable:
        return
    import json

    before = json.loads(row[0]) if row else {}
    shown = {path: store.display_path(path) for path in found.unreadable}
    summary.told.update(path for path, reason in found.unreadable.items() if before.get(shown[path]) == reason)
    walked = tuple(f"{store.display_path(place)}{os.sep}" for place in found.places)
    after = {path: reason for path, reason in before.items() if not f"{path}{os.sep}".startswith(walked)}
    after |= {shown[path]: reason for path, reason in found.unreadable.items()}
    if after != before:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('unreadable', ?)", (json.dumps(after),))


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


def _is_unfinished(connection: sqlite3.Connection) -> bool:
    """Whether an earlier refresh was ended after it had read all, and before it had made all of it."""
    sql = "SELECT 1 FROM files WHERE replaces IS NOT NULL AND size >= 0 AND mtime_ns <> ?"
    is_loading = "SELECT 1 FROM meta WHERE key = 'is_loading'"
    return connection.execute(f"{is_loading} UNION ALL {sql} LIMIT 1", (checkpoint.UNFINISHED,)).fetchone() is not None


def _read(
    jobs: list[Job],
    connection: sqlite3.Connection,
    writer: Writer,
    workers: int | None,
    progress: Progress | None,
    is_stopped: Callable[[], bool] | None,
) -> bool:
    """Reads and stores; False if it was stopped before the end."""
    if not jobs:
        return True
    import gc

    from .pool import run
    from .shard import Shard

    total = sum(job.found.size - job.offset for job in jobs)
    done = 0
    # Rows are tuples without cycles: looking for some among millions takes a load 5 to 30 % longer.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for read in run(jobs, connection, workers):
            if isinstance(read, Shard):
                writer.take(read)
            else:
                writer.add(read)
            done += read.bytes_read
            if progress is not None:
                progress(done, total)
            if is_stopped is not None and is_stopped():
                return False
    finally:
        if was_enabled:
            gc.enable()
    return True


def _log_run(connection: sqlite3.Connection, summary: Summary, clock: _Clock, command: str, is_partial: bool) -> None:
    """Adds a run to the log; what `cm watch` does within a minute is one run, and nothing is none."""
    summary.seconds = clock.total()
    done = {column: getattr(summary, column) for column in _RUN}
    if is_partial:
        done["files_failed"] -= len(summary.told)
        if not (done["files_parsed"] or done["files_failed"] or done["files_gone"]):
            return
        sums = ", ".join(f"{column} = {column} + ?" for column in done)
        same = "id = (SELECT max(id) FROM refreshes) AND pid = ? AND command = ? AND started_at > ?"
        run = (os.getpid(), command, int(clock.started_at * 1000) - _RUN_MS)
        connection.execute(f"UPDATE refreshes SET {sums} WHERE {same}", (*done.values(), *run))
        if connection.execute("SELECT changes()").fetchone()[0]:
            return
    columns = f"started_at, pid, command, {', '.join(done)}"
    row = (int(clock.started_at * 1000), os.getpid(), command, *done.values())
    (number,) = connection.execute(f"{store.insert('refreshes', columns)} RETURNING id", row).fetchone()
    if number % 100 == 0:
        connection.execute("DELETE FROM refreshes WHERE id <= ?", (number - _KEPT_RUNS,))
