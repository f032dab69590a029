"""The log, shared by all processes that write the index; its library is imported when the first line is written."""

from __future__ import annotations

import os

from . import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from .refresh import Summary

_MAX_BYTES = 5 * 1024 * 1024
_KEPT_FILES = 5
# A refresh that takes longer is worth a line; one that found nothing new is not.
SLOW_SECONDS = 1.0


def logger() -> logging.Logger:
    """The `cm` logger; a log that cannot be written is said once on stderr and otherwise done without."""
    import logging

    found = logging.getLogger("cm")
    if not found.handlers:
        found.setLevel(os.environ.get("CM_LOG_LEVEL", "INFO").upper())
        found.propagate = False
        found.addHandler(_handler())
    return found


def _handler() -> logging.Handler:
    import logging

    from concurrent_log_handler import ConcurrentRotatingFileHandler

    path = config.log_file()
    logging.raiseExceptions = False  # else a full disk prints a traceback for every line
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handler: logging.Handler = ConcurrentRotatingFileHandler(
            path, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, use_gzip=True, umask=0o077, encoding="utf-8"
        )
    except OSError as error:
        import sys

        print(f"cm: {path}: {error.strerror}; nothing is logged", file=sys.stderr)
        return logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s"))
    return handler


def log_refresh(summary: Summary, total_cost: float | None) -> None:
    """Phases and throughput of a refresh that took its time, and what failed in it."""
    if summary.seconds <= SLOW_SECONDS and not summary.failures:
        return
    phases, parse = summary.phases, summary.phases["parse"] or 1e-9
    cost = "nothing priced" if total_cost is None else f"${total_cost:,.2f}"
    log = logger()
    log.info(
        "found %d files in %.2f s; parsed %d files, %.1f MB in %.2f s (%.0f files/s); %d records, %d responses added,"
        " %d lines skipped; %s in all; finalized in %.2f s; %.2f s",
        summary.files_seen,
        phases["discover"],
        summary.files_parsed,
        summary.bytes_read / 1e6,
        parse,
        summary.files_parsed / parse,
        summary.records_added,
        summary.responses_added,
        summary.lines_skipped,
        cost,
        phases["finalize"],
        summary.seconds,
    )
    for path, reason in summary.failures.items():
        log.warning("%s: %s", path.encode("utf-8", "backslashreplace").decode(), reason)
    if summary.files_failed * 10 > summary.files_seen:
        log.warning("%d of %d files could not be read", summary.files_failed, summary.files_seen)
