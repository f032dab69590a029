"""Brings the index up to date: only new bytes of new or changed transcripts are read.

    discover(roots) → stat → classify against files → pool: read from the offset, parse whole lines
    → one writer: BEGIN IMMEDIATE; rows + new offset; COMMIT → derive responses, tool calls and sessions

The offset of a transcript moves only in the transaction that stores its rows, and what is derived from them is
derived in the same one. Killed anywhere, the next refresh goes on from there. In the first load of an empty index
deriving waits for the end, with the indexes it needs; until then `meta.is_loading` says so.
"""

from __future__ import annotations

import os

from . import checkpoint, config, hosts, pricing, store, zones
from .errors import PriceError
from .plan import make_plan
from .summary import Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from .archive import Archive
    from .discovery import Discovery
    from .plan import Plan
    from .transcripts import Job
    from .writer import Writer

    # Called with bytes read and bytes to read.
    Progress = Callable[[int, int], None]

_PRESENT = "SELECT 1 FROM files WHERE host_id = 1 AND replaced_at IS NULL AND gone_at IS NULL LIMIT 1"
_CHECKED = "UPDATE files SET checked_ns = ?, gone_at = NULL WHERE id = ?"


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
    summary = Summary()
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
            summary.kept = None if archive is None else archive.added
            try:
                plan = make_plan(connection, found_roots, paths, full, archive)
                _note(connection, plan, summary)
                if not paths:
                    _note_missing(connection, roots, summary)
                if not _is_done(connection, plan, archive):
                    if is_load := plan.is_load(connection, workers):
                        connection.close()
                        connection = store.connect_to_load(path)
                    _index(connection, plan, full, workers, summary, progress, is_stopped, archive)
                    if is_load:
                        store.end_load(connection)
            finally:
                if archive is not None:
                    archive.close()
            summary.log(connection, command, bool(paths))
        except store.errors() as error:
            raise store.explain(path, error) from error
        finally:
            connection.close()
    return summary


def _index(
    connection: sqlite3.Connection,
    plan: Plan,
    full: bool,
    workers: int | None,
    summary: Summary,
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
    summary.end_phase("parse")
    if is_complete:
        writer.finish()
        if full:
            from . import rollups

            store.transaction(connection, lambda: rollups.sum_all(connection))
    else:
        writer.stop()
    if archive is not None and is_complete:
        archive.pack(summary.elapsed())
    summary.files_unchanged = summary.files_seen - summary.files_parsed - len(writer.failed)
    summary.files_failed = len(summary.failures)
    summary.end_phase("finalize")


def _note(connection: sqlite3.Connection, plan: Plan, summary: Summary) -> None:
    """Tells what was found, and notes when transcripts were looked at that turned out to be unchanged."""
    summary.files_seen = summary.files_unchanged = plan.found.count
    summary.failures.update(plan.found.unreadable)
    summary.files_failed = len(summary.failures)
    _note_unreadable(connection, plan.found, summary)
    if plan.checked:
        store.transaction(connection, lambda: connection.executemany(_CHECKED, plan.checked))
    summary.end_phase("discover")


def _note_missing(connection: sqlite3.Connection, roots: Sequence[str], summary: Summary) -> None:
    """Tells of history that can no longer be found: nothing new comes in, and Claude Code deletes what is not indexed.

    Where nothing was ever indexed, the command says so.
    """
    told = config.missing_roots(roots)
    if told is not None and (summary.files_seen or connection.execute(_PRESENT).fetchone()):
        summary.is_root_missing = True
        summary.warnings.append(f"{told}; what was indexed before stays")


def _is_done(connection: sqlite3.Connection, plan: Plan, archive: Archive | None) -> bool:
    """Whether there is nothing to read, nor anything that an earlier refresh left unfinished."""
    is_kept = archive is None or not archive.behind(plan.found.files)
    return plan.is_empty() and is_kept and not _is_unfinished(connection)


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
