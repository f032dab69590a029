"""Keeps the index current: events are hints, refreshed in batches; a stat sweep every while is the truth."""

from __future__ import annotations

import os
import time

from . import config, store
from .errors import CmError, Locked
from .refresh import refresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

    from .follow import Change, Follower

INTERVAL = 30.0
# Writers append several lines at a time: waiting a little for the rest saves refreshes of 10 ms each.
BATCH_SECONDS = 0.15
# After a refresh of another process was in the way, and after anything else.
RETRY_LOCKED, RETRY_FAILED = 0.1, 5.0
# Where nothing tells of changes, looking may take this share of the time, at most once a second.
POLLING_SHARE, POLLING_SECONDS = 0.01, 1.0
# Now and then all is refreshed as by `cm refresh`, which notices new prices, and shows that the index is current.
FULL_SECONDS = 3600.0


def watch(
    callback: Callable[[Change], object],
    roots: Sequence[str] = (),
    db: str | None = None,
    interval: float = INTERVAL,
) -> None:
    """Keeps the index current and calls back with every transcript that changes from now on.

    What is already there is indexed first, without a call. A transcript that is rewritten counts as new.

    Args:
        callback: gets a Change; the watch ends when it returns False.
        roots: Claude config directories; by default those of the environment, else the usual two.
        db: the index; by default `CM_DB`, else in the XDG data directory.
        interval: seconds between two looks at everything, for what no event tells.

    Raises:
        Locked: another watch is at work. IndexUnusable: the index cannot be opened or written.
    """
    Watch(roots, db, interval, callback=callback).run()


class Watch:
    """One watch of an index. `stop` and `reload` may be called from signal handlers and from other threads."""

    def __init__(
        self,
        roots: Sequence[str] = (),
        db: str | None = None,
        interval: float = INTERVAL,
        callback: Callable[[Change], object] | None = None,
        say: Callable[[str], None] = lambda _: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        from queue import SimpleQueue

        self._option, self._db, self._interval = roots, db, interval
        self._callback, self._say, self._ready = callback, say, ready
        # Unlike an Event's `set`, its `put` can be called by a signal handler at any moment.
        self._inbox: SimpleQueue[None] = SimpleQueue()
        self._is_stopped = self._must_reload = False
        # What was told and need not be told again.
        self._complaint = ""
        self._warnings: list[str] = []

    def stop(self) -> None:
        """Ends the watch when the transaction in hand is committed."""
        self._is_stopped = True
        self._inbox.put(None)

    def reload(self) -> None:
        """Begins anew with the configuration as it is then."""
        self._must_reload = True
        self._inbox.put(None)

    def run(self) -> None:
        """Watches until it is stopped. Raises CmError; what goes wrong later is told, and tried again."""
        while not self._is_stopped:
            self._must_reload = False
            path = config.database(self._db)
            store.make_private(path, self._tell)
            with store.Lock(path, of="watch"):
                self._run(path)

    def _run(self, path: str) -> None:
        from contextlib import closing

        from .events import Events, Hints
        from .sweep import Picture

        self._path = path
        self._hints = Hints(lambda: self._inbox.put(None))
        self._events = Events(self._hints, self._tell)
        self._picture = Picture()
        self._follower: Follower | None = None
        # Paths to refresh; those that failed, to be tried again at each sweep; when to do what.
        self._pending: set[str] = set()
        self._failed: set[str] = set()
        self._sweep_at = self._full_at = self._not_before = 0.0
        try:
            # Before the first refresh, so that what changes during it is noticed.
            self._look()
            if not self._refresh_first():
                return
            # Kept open: a refresh that is the last to close the index would have to empty its WAL.
            with closing(store.open_reader(path)) as connection:
                self._begin(connection)
                while not self._is_over():
                    self._turn()
        finally:
            self._events.stop()

    def _begin(self, connection: sqlite3.Connection) -> None:
        if self._callback is not None:
            from .follow import Follower

            self._follower = Follower(connection)
        self._tell(f"watching {', '.join(config.roots(self._option)[0]) or 'for transcripts to appear'}")
        self._ready()

    def _is_over(self) -> bool:
        if self._must_reload and not self._is_stopped:
            # A mistake in the config file must not end what runs well without it.
            self._must_reload = self._try(lambda: (config.database(self._db), config.roots(self._option)))
        return self._is_stopped or self._must_reload

    def _turn(self) -> None:
        """Waits for the next thing to do, and does it; what cannot be done stays to be done."""
        self._wait(max(self._not_before, min(self._batch_at(), self._sweep_at, self._full_at)) - time.monotonic())
        now = time.monotonic()
        if now < self._not_before:
            return
        if self._full_at <= now:
            self._try(self._refresh_all)
        elif self._sweep_at <= now:
            self._try(self._sweep)
        elif self._batch_at() <= now:
            self._try(self._refresh_pending)

    def _batch_at(self) -> float:
        if self._pending:
            return 0.0
        return self._sweep_at if self._hints.since is None else self._hints.since + BATCH_SECONDS

    def _wait(self, seconds: float) -> None:
        from contextlib import suppress
        from queue import Empty

        with suppress(Empty):
            self._inbox.get(timeout=max(0.0, seconds))

    def _try(self, work: Callable[[], object]) -> bool:
        """Whether the work could be done. If not, why is told once, and it is not tried again at once."""
        try:
            work()
        except Locked:  # cron refreshes beside this
            self._not_before = time.monotonic() + RETRY_LOCKED
            return False
        except (CmError, OSError) as error:
            self._not_before = time.monotonic() + RETRY_FAILED
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._tell(f"{error}; it is tried again")
            return False
        self._complaint = ""
        return True

    # What there is to do

    def _look(self) -> set[str]:
        """What changed by itself since the last look; sees to it that all directories are watched."""
        started = time.monotonic()
        roots, _ = config.roots(self._option)
        changed = self._picture.look(roots, self._events.has_remote)
        cost = time.monotonic() - started
        places = [os.path.join(root, "projects") for root in roots] + self._picture.linked
        is_new = self._events.follow(places, self._picture.directories.keys() - self._picture.unreadable.keys())
        now = time.monotonic()
        pause = self._interval
        if self._events.is_polling:
            pause = min(pause, max(POLLING_SECONDS, cost / POLLING_SHARE))
        # What was looked at before it was watched may have changed in between.
        self._sweep_at = now if is_new else now + pause
        return changed

    def _sweep(self) -> None:
        self._pending |= self._look() | self._failed
        self._refresh_pending()

    def _refresh_pending(self) -> None:
        hinted = self._hints.take()
        links = {path for path in hinted if os.path.islink(path)}
        if links:
            self._sweep_at = 0.0  # only among all transcripts can be seen whether it leads to a new one
        self._pending |= hinted - links
        roots, _ = config.roots(self._option)
        # Where a root is gone, nothing is known of its transcripts.
        below = tuple(f"{root}{os.sep}projects{os.sep}" for root in roots)
        paths = {path for path in self._pending if f"{path}{os.sep}".startswith(below)}
        if paths:
            self._refresh(roots, paths)
            self._call_back(paths)
        self._pending.clear()

    def _refresh_first(self) -> bool:
        """The first refresh, of everything; False if the watch was stopped. Raises CmError."""
        is_told = False
        while not self._is_over():
            try:
                self._refresh_all()
                return not self._is_over()
            except Locked as error:
                if not is_told:
                    self._tell(f"{error}; waiting for it to end")
                is_told = True
                self._wait(RETRY_LOCKED)
        return False

    def _refresh_all(self) -> None:
        self._failed.clear()
        self._refresh(self._option)
        self._full_at = time.monotonic() + FULL_SECONDS
        self._call_back(None)

    def _refresh(self, roots: Sequence[str], paths: Collection[str] = ()) -> None:
        from .log import log_refresh

        summary = refresh(roots, self._path, paths=list(paths), command="watch", is_stopped=lambda: self._is_stopped)
        log_refresh(summary, self._path)
        for path in summary.failures.keys() - summary.told:
            self._say(f"{store.display_path(path)}: {summary.failures[path]}; it is tried again")
        if summary.warnings != self._warnings:
            self._warnings = summary.warnings
            for warning in summary.warnings:
                self._tell(warning)
        self._failed = self._failed.difference(paths).union(summary.failures)

    # Who is told

    def _call_back(self, paths: Collection[str] | None) -> None:
        if self._follower is None or self._callback is None:
            return
        for change in self._follower.changes(paths):
            if self._callback(change) is False:
                self.stop()
                return

    def _tell(self, message: str) -> None:
        from .log import is_shown_on_stderr, logger
        from .output import printable

        logger().info(printable(message))
        if not is_shown_on_stderr():
            self._say(message)
