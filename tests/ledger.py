"""What an index says, for tests: refresh it, hold it against the transcripts, read it back."""

from __future__ import annotations

import functools
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from builders import Home

from indexer import config, metrics, naive, rollups, status, store, verify
from indexer.refresh import refresh as run_refresh
from indexer.summary import Summary

Row: TypeAlias = dict[str, Any]

TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")


def rows(sql: str, *parameters: Any) -> list[Row]:
    """Rows of a query on the index."""
    connection = store.open_reader(config.database())
    try:
        return store.fetch_dicts(connection, sql, parameters)
    finally:
        connection.close()


def refresh(**options: Any) -> Summary:
    """Refreshes, and holds the index against a reading of the transcripts without it, and its sums against itself."""
    if not os.path.exists(config.database()):
        forget()
    summary = run_refresh(**options)
    connection = store.open_reader(config.database())
    try:
        assert verify.verify(connection).differences == []
        assert rollups.wrong(connection) == {}
    finally:
        connection.close()
    return summary


def usage() -> list[Row]:
    """The view `usage`, by key; a response before its advisor's calls."""
    return rows("SELECT * FROM usage ORDER BY response_key, part DESC, message_id, model")


def indexed(**options: Any) -> list[Row]:
    """The view `usage` after a refresh."""
    refresh(**options)
    return usage()


def only(found: list[Row]) -> Row:
    """The one row there must be."""
    (row,) = found
    return row


def tokens(found: list[Row]) -> tuple[int, ...]:
    """Input, output, cache-write and cache-read tokens of rows together."""
    return tuple(sum(row[name] for row in found) for name in TOKENS)


def stats() -> metrics.ClaudeMetrics:
    """What `cm stats` says; the same as a reading of the transcripts without an index says."""
    connection = store.open_reader(config.database())
    try:
        found = metrics.from_index(connection)
    finally:
        connection.close()
    assert found == naive.metrics(naive.read_all(config.roots()[0]))
    return found


def health() -> dict[str, Any]:
    """What `cm status --json` says."""
    connection = store.open_reader(config.database())
    try:
        return status.status(connection, config.database(), config.roots()[0])
    finally:
        connection.close()


@functools.cache
def empty_index() -> tuple[bytes, str]:
    """The file of an index without transcripts, and the user's prices it knows of: to make one takes long."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAUDE_CONFIG_DIR", folder)
        for name in ("CM_HOST", "CM_USER"):  # of the test that happens to be first
            patch.delenv(name, raising=False)
        run_refresh(db=f"{folder}/cm.db")
        return Path(folder, "cm.db").read_bytes(), config.prices_file()


@contextmanager
def another_home() -> Iterator[Home]:
    """A Claude config directory and an index for one example of a property."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Home(Path(folder))
        for name, value in {"CLAUDE_CONFIG_DIR": home.root, "CM_DB": f"{folder}/cm.db"}.items():
            patch.setenv(name, str(value))
        forget()
        yield home


def forget() -> None:
    """An index that has seen nothing, in place of the one there is."""
    path = config.database()
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data, prices_file = empty_index()
    Path(path).write_bytes(data)
    with sqlite3.connect(path) as connection:
        sql = "UPDATE meta SET value = replace(value, ?, ?) WHERE key = 'prices'"
        connection.execute(sql, (prices_file, config.prices_file()))
    connection.close()
