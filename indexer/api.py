"""What a Python program calls."""

from __future__ import annotations

from . import config, naive, store
from .refresh import refresh

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .metrics import ClaudeMetrics


def connect(db: str | None = None) -> sqlite3.Connection:
    """The index as it is, read-only. Raises IndexUnusable: there is none, or another version of cm made it."""
    return store.open_reader(config.database(db))


def query(sql: str, parameters: Mapping[str, Any] | Sequence[Any] = (), db: str | None = None) -> list[dict[str, Any]]:
    """Rows of a SELECT, or of a named query, as dictionaries.

    Raises:
        BadInput: the SQL is wrong, or would write. IndexUnusable: the index cannot be read.
    """
    from .queries import run

    connection = connect(db)
    try:
        columns, rows = run(connection, sql, parameters)
        return [dict(zip(columns, row, strict=True)) for row in rows]
    finally:
        connection.close()


def load_claude_metrics_from_home_dir(roots: Sequence[str] = ()) -> ClaudeMetrics:
    """The metrics of every transcript below the roots, read one after the other; stores nothing.

    Raises:
        CmError: a root does not exist, or the user's prices cannot be used.
    """
    found, _ = config.roots(roots)
    return naive.metrics(naive.read_all(found))


def load_claude_metrics_from_home_dir_parallel(
    roots: Sequence[str] = (), db: str | None = None, workers: int | None = None
) -> ClaudeMetrics:
    """The metrics of the index, brought up to date first by a pool of workers; what is gone is still in it.

    Raises:
        Locked: another refresh is at work. IndexUnusable: the index cannot be opened or written.
    """
    from . import metrics

    refresh(roots, db, workers=workers, command="python")
    connection = connect(db)
    try:
        return metrics.from_index(connection)
    finally:
        connection.close()
