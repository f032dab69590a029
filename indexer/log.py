"""The log, shared by all processes that write the index; its library is imported when the first line is written."""

from __future__ import annotations

import os
import sys

from . import config, private
from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from .summary import Summary

MAX_BYTES = 5 * 1024 * 1024
KEPT_FILES = 5
# A refresh that takes longer is worth a line; one that found nothing new is not.
SLOW_SECONDS = 1.0

_NAME = "cm"
_DEFAULT_LEVEL = "INFO"
_is_verbose = False
_last_patterns: tuple[str, ...] = ()


def show_on_stderr() -> None:
    """Shows everything that can be logged on stderr, too, from the first line on."""
    global _is_verbose
    _is_verbose = True


def is_shown_on_stderr() -> bool:
    """Whether that was asked for."""
    return _is_verbose


def logger() -> logging.Logger:
    """The `cm` logger; a log that cannot be written is said once on stderr and otherwise done without."""
    import logging

    found = logging.getLogger(_NAME)
    # A program that this is part of may have added handlers of its own.
    if not any(handler.name == _NAME for handler in found.handlers):
        ours = [_file(), _stderr()] if _is_verbose else [_file()]
        for handler in ours:
            handler.name = _NAME
            handler.addFilter(_masked)
            found.addHandler(handler)
        found.propagate = False
        found.setLevel(min(handler.level for handler in ours))
    return found


def _masked(record: logging.LogRecord) -> bool:
    """What is not to be stored is not logged, either: a path or an error may hold it."""
    if patterns := _patterns():
        from .redaction import redactor

        record.msg, record.args = redactor(patterns).mask_text(record.getMessage()), ()
    return True


def _patterns() -> tuple[str, ...]:
    """What is masked; also while the configuration has a mistake, which is itself told here."""
    from contextlib import suppress

    global _last_patterns
    with suppress(CmError):
        _last_patterns = config.patterns()
    return _last_patterns


def _file() -> logging.Handler:
    import logging

    from concurrent_log_handler import ConcurrentRotatingFileHandler

    path = config.log_file()
    logging.raiseExceptions = False  # else a full disk prints a traceback for every line
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        # The handler opens it at the first line, and does not say when it cannot.
        os.close(private.open_file(path, os.O_WRONLY | os.O_APPEND)[0])
    except OSError as error:
        print(f"cm: {path}: {error.strerror}; nothing is logged: name another file with CM_LOG", file=sys.stderr)
        return logging.NullHandler()
    handler: logging.Handler = ConcurrentRotatingFileHandler(
        path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, use_gzip=True, chmod=0o600, umask=0o077, encoding="utf-8"
    )
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    handler.setLevel(_level())
    return handler


def _stderr() -> logging.Handler:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("cm: %(message)s"))
    handler.setLevel(logging.DEBUG)
    return handler


def _level() -> str:
    import logging

    level = os.environ.get("CM_LOG_LEVEL", "").upper() or _DEFAULT_LEVEL
    if level not in logging.getLevelNamesMapping():
        print(f"cm: CM_LOG_LEVEL={level} is no level: use DEBUG, INFO, WARNING or ERROR", file=sys.stderr)
        return _DEFAULT_LEVEL
    return level


def _is_debugging() -> bool:
    return _is_verbose or os.environ.get("CM_LOG_LEVEL", "").upper() == "DEBUG"


def log_refresh(summary: Summary, db: str) -> None:
    """Phases and throughput of a refresh that took its time, and what failed in it and did not fail before.

    At DEBUG every refresh is worth a line.
    """
    failed = {path: reason for path, reason in summary.failures.items() if path not in summary.told}
    is_worth_a_line = summary.seconds > SLOW_SECONDS or failed
    if not is_worth_a_line:
        if _is_debugging():
            logger().debug(_sentence(summary))
        return
    from .output import printable
    from .store import display_path

    log = logger()
    log.info("%s; %s in all", _sentence(summary), _cost(db))
    for path, reason in failed.items():
        log.warning("%s: %s", printable(display_path(path)), printable(reason))
    if failed and summary.files_failed * 10 > summary.files_seen:
        log.warning("%d of %d files could not be read", summary.files_failed, summary.files_seen)


def _sentence(summary: Summary) -> str:
    phases, parse = summary.phases, summary.phases["parse"] or 1e-9
    return (
        f"found {summary.files_seen} files in {phases['discover']:.2f} s; parsed {summary.files_parsed} files, "
        f"{summary.bytes_read / 1e6:.1f} MB in {phases['parse']:.2f} s ({summary.files_parsed / parse:.0f} files/s); "
        f"{summary.records_added} records, {summary.responses_added} responses added, "
        f"{summary.lines_skipped} lines skipped; finalized in {phases['finalize']:.2f} s; {summary.seconds:.2f} s"
    )


def _cost(db: str) -> str:
    from .metrics import total_cost
    from .store import open_reader

    connection = open_reader(db)
    try:
        cost = total_cost(connection)
    finally:
        connection.close()
    return "nothing priced" if cost is None else f"${cost:,.2f}"
