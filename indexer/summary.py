"""What a refresh did: for who asked for it, and for the table of the last runs."""

from __future__ import annotations

import os
import time

from . import store

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

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
_UNPRINTED = ("failures", "told", "warnings", "is_root_missing", "kept")


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
        # Of the places where transcripts should be, one is not there.
        self.is_root_missing = False
        # What went into the archive: transcripts, their bytes, and what these take there; None where nothing is kept.
        self.kept: dict[str, int] | None = None
        # What went wrong with anything but transcripts.
        self.warnings: list[str] = []
        self._started_at = time.time()
        self._start = self._phase_start = time.perf_counter()

    def end_phase(self, name: str) -> None:
        """Notes how long a phase took: all since the one before it ended."""
        now = time.perf_counter()
        self.phases[name], self._phase_start = now - self._phase_start, now

    def elapsed(self) -> float:
        """Seconds since the refresh began."""
        return time.perf_counter() - self._start

    def to_dict(self) -> dict[str, Any]:
        """The object that `cm refresh --json` prints."""
        found = {key: value for key, value in vars(self).items() if not key.startswith("_") and key not in _UNPRINTED}
        found |= {} if self.kept is None else {"kept": self.kept}
        return found | ({"failures": self.failures} if self.failures else {})

    def log(self, connection: sqlite3.Connection, command: str, is_partial: bool) -> None:
        """Adds the run to `refreshes`; what `cm watch` does within a minute is one run, and nothing is none."""
        self.seconds = self.elapsed()
        done = {column: getattr(self, column) for column in _RUN}
        started_at = int(self._started_at * 1000)
        if is_partial:
            done["files_failed"] -= len(self.told)
            if not (done["files_parsed"] or done["files_failed"] or done["files_gone"]):
                return
            sums = ", ".join(f"{column} = {column} + ?" for column in done)
            same = "id = (SELECT max(id) FROM refreshes) AND pid = ? AND command = ? AND started_at > ?"
            run = (os.getpid(), command, started_at - _RUN_MS)
            connection.execute(f"UPDATE refreshes SET {sums} WHERE {same}", (*done.values(), *run))
            if connection.execute("SELECT changes()").fetchone()[0]:
                return
        columns = f"started_at, pid, command, {', '.join(done)}"
        row = (started_at, os.getpid(), command, *done.values())
        (number,) = connection.execute(f"{store.insert('refreshes', columns)} RETURNING id", row).fetchone()
        if number % 100 == 0:
            connection.execute("DELETE FROM refreshes WHERE id <= ?", (number - _KEPT_RUNS,))
