"""The index that a Datasette serves, and answers from it that are kept until it changes."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import threading
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from weakref import WeakKeyDictionary

from .. import store
from ..errors import IndexUnusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import NamedTuple

    from datasette.app import Datasette
    from datasette.database import Database

    class Answer(NamedTuple):
        """A response's body, and a tag that two answers share only if their bodies are equal."""

        body: bytes
        etag: str

else:
    from collections import namedtuple

    Answer = namedtuple("Answer", "body etag")

# A range and its filters make an answer of their own; more than these nobody goes back to.
KEPT = 64
_OURS = {"meta", "records", "responses", "refreshes"}


_found: WeakKeyDictionary[Datasette, Database] = WeakKeyDictionary()


def find(datasette: Datasette) -> Database | None:
    """The first of its databases that is an index of cm; None: it serves none, and the plugin keeps quiet."""
    if datasette not in _found:
        for database in datasette.databases.values():
            if database.path and _is_index(str(database.path)):
                _found[datasette] = database
                break
    return _found.get(datasette)


def _is_index(path: str) -> bool:
    try:
        with closing(store.connect(path)) as connection:
            return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema")} >= _OURS
    except sqlite3.Error:
        return False


class Answers:
    """Answers from one index, each computed once for every state that it has."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._watched: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._version: int | None = None
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()

    async def get(self, key: Hashable, build: Callable[[sqlite3.Connection], bytes]) -> Answer:
        """The answer of that name, built on a read-only connection where the index has changed since.

        Raises IndexUnusable: it is missing, or made by another version of cm.
        """
        return await asyncio.to_thread(self._get, key, build)

    def _get(self, key: Hashable, build: Callable[[sqlite3.Connection], bytes]) -> Answer:
        try:
            return self._kept_or_built(key, build)
        except sqlite3.Error as error:
            raise store.explain(self.path, error) from error

    def _kept_or_built(self, key: Hashable, build: Callable[[sqlite3.Connection], bytes]) -> Answer:
        version = self._changed()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept
        with closing(store.open_reader(self.path)) as connection:
            body = build(connection)
        answer = Answer(body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
        with self._lock:
            # What was built on a state that is already past would never be thrown away.
            if version == self._version:
                self._keep(key, answer)
        return answer

    def _keep(self, key: Hashable, answer: Answer) -> None:
        self._kept[key] = answer
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _changed(self) -> int:
        """A number that is another one after every commit to the index; what was kept before is dropped."""
        with self._lock:
            if self._watched is None:
                # One connection for good: only on it do two of these numbers compare.
                self._watched = sqlite3.connect(
                    f"{Path(self.path).absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
                )
            (version,) = self._watched.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._kept.clear()
                self._version = version
            return int(version)


_answers: WeakKeyDictionary[Datasette, Answers] = WeakKeyDictionary()


def answers(datasette: Datasette) -> Answers:
    """The answers kept for the index that a Datasette serves. Raises IndexUnusable: it serves none any more."""
    if datasette not in _answers:
        index = find(datasette)
        if index is None:
            raise IndexUnusable("there is no index here any more; run `cm refresh` and start again")
        _answers[datasette] = Answers(str(index.path))
    return _answers[datasette]
