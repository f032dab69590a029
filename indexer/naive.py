"""Reads transcripts from their beginning, one after the other, and adds them up in memory, without an index.

The rules are the same as the index's and nothing else is: it is what `cm verify` holds the index against.
"""

from __future__ import annotations

import os

from . import config, prices
from .accounting import project_of
from .batch import OFFSET_BITS, RANK_SHIFT, Batch
from .discovery import discover
from .metrics import ClaudeMetrics, assemble
from .store import display_path
from .transcripts import Job, read
from .usage import BATCH, FAST, US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .discovery import Found
    from .privacy import Tombstones

_OFFSET = (1 << OFFSET_BITS) - 1
_AT = (1 << RANK_SHIFT) - 1


class History:
    """What is in a set of transcripts: records by (path, offset), and the responses they make."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], tuple[Any, ...]] = {}
        self.usage: dict[int, list[tuple[Any, ...]]] = {}
        self.failures: dict[str, str] = {}
        self.paths: dict[int, str] = {}
        self.sessions: dict[int, str] = {}
        self.models: dict[int, str] = {}
        self.contexts: dict[int, tuple[Any, ...]] = {}
        self.searches: dict[int, int] = {}
        self.calls: dict[int, list[tuple[Any, ...]]] = {}
        self.answers: dict[int, int] = {}  # response of each record that carries usage
        self.last: dict[int, tuple[Any, ...]] = {}  # records of the transcript added last, by offset
        self.skipped: list[tuple[str, int, str]] = []
        self._cwds: dict[int, tuple[Any, ...]] = {}
        self.tombstones: Tombstones | None = None  # what the index was told to forget
        self.called_elsewhere: set[int] = set()  # calls whose owner is not among what is read

    def add(self, found: Found) -> None:
        """Reads one transcript to the size it had when it was found."""
        job = Job(found, len(self.paths) + 1, True)
        job.patterns, job.keeps_text = config.patterns(), config.keeps_text()
        self.paths[job.file_id] = display_path(found.path)
        self.last = {}
        for part in read(job):
            if part.error is not None:
                self.failures[self.paths[job.file_id]] = part.error
            if self.tombstones is not None:
                self.tombstones.apply(part)
            self._take(part.batch)

    def _take(self, batch: Batch) -> None:
        self.sessions.update(batch.sessions)
        self.models.update(batch.models)
        self.contexts.update(batch.contexts)
        for record in batch.records:
            path, offset = self.place(record[0])
            self.last[offset] = record
            # Only the last transcript's text is held, so that a whole history fits into memory.
            self.records[path, offset] = record[:-1]
            self._cwd(record)
        for identity, _, _, reason, _ in batch.skipped:
            self.skipped.append((*self.place(identity), reason))
        for row in batch.usage:
            self.usage.setdefault(row[0], []).append(row)
            if row[3] == 0:
                self.answers[row[1]] = row[0]
        for call_id, record_id, *_, owner_rank in batch.tool_uses:
            self.calls.setdefault(call_id, []).append((owner_rank, record_id))
        for call_id, _, _, _, searches, _ in batch.tool_results:
            self.searches[call_id] = max(searches, self.searches.get(call_id, 0))

    def place(self, record_id: int) -> tuple[str, int]:
        """Path and offset of a record."""
        return self.paths[record_id >> OFFSET_BITS], record_id & _OFFSET

    def _cwd(self, record: tuple[Any, ...]) -> None:
        context = self.contexts[record[4]]
        rank = (context[2] is None, context[-2], record[5], *self.place(record[0]), context[2] or "")
        if context[1] not in self._cwds or rank < self._cwds[context[1]]:
            self._cwds[context[1]] = rank

    def project(self, session_id: int) -> tuple[str, str]:
        """Path and name of the project of a session."""
        *_, path, _, cwd = self._cwds[session_id]
        return project_of(cwd or None, path)

    def owner(self, rows: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
        """The record that owns a response: the earliest original among those that carry its usage."""
        return min(rows, key=lambda row: self._rank(row[6], row[1]))

    def _rank(self, owner_rank: int, record_id: int) -> tuple[Any, ...]:
        path, offset = self.place(record_id)
        return owner_rank, self.sessions[self._session(path, offset)], path, offset

    def _session(self, path: str, offset: int) -> int:
        return int(self.contexts[self.records[path, offset][4]][1])

    def responses(self) -> dict[int, dict[str, Any]]:
        """Every response and advisor's call by its id: the maximum of each field over its records, and its owner."""
        searched: dict[int, int] = {}
        for call_id in self.searches:
            calls = None if call_id in self.called_elsewhere else self.calls.get(call_id)
            # Of copies that are responses of their own, the owner's is charged.
            response_id = calls and self.answers.get(min(calls, key=lambda call: self._rank(*call))[1])
            if response_id:
                searched[response_id] = searched.get(response_id, 0) + self.searches[call_id]
        return {response_id: self._response(rows, searched) for response_id, rows in self.usage.items()}

    def advised(self, response_id: int) -> int | None:
        """The response that an advisor's call was made for."""
        found: int | None = self.usage[response_id][0][4]
        return found

    def _response(self, rows: list[tuple[Any, ...]], searched: dict[int, int]) -> dict[str, Any]:
        own = self.owner(rows)
        # An advisor's call belongs to the owner of the response it was made for.
        advised = self.usage[own[4]] if own[4] is not None else []
        owner = self.owner(advised or rows)
        path, offset = self.place(owner[1])
        counts = [max(row[column] for row in rows) for column in range(7, 13)]
        flags = 0
        for row in rows:
            flags |= row[13]
        for row in advised:
            flags |= row[13] & (FAST | US | BATCH)
        stops = [row[14] for row in rows if row[14] is not None]
        searches = max(counts[5], searched.get(own[0], 0) if own[3] == 0 else 0)
        return {
            "key": own[2],
            "part": own[3],
            "model": self.models[own[5]],
            "session_id": self._session(path, offset),
            "owner": (path, offset),
            "at": owner[6] & _AT,
            "input_tokens": counts[0],
            "output_tokens": counts[1],
            "cache_write_tokens": counts[2],
            "cache_write_1h_tokens": counts[3],
            "cache_read_tokens": counts[4],
            "web_searches": searches,
            "flags": flags,
            "stop_reason": max(stops, default=None),
            "record_count": len(rows),
        }


def read_all(roots: Sequence[str]) -> History:
    """Everything below the roots, in the order of paths."""
    history = History()
    found = discover(roots)
    history.failures.update(found.unreadable)
    for file in sorted(found.files, key=lambda file: os.fsencode(file.path)):
        history.add(file)
    return history


def cost(listed: Sequence[prices.Price], rates: dict[int, prices.Rate], response: dict[str, Any]) -> prices.Cost | None:
    """Nanodollars by kind of a response; None where its model has no price at its time."""
    price = prices.price_at(listed, response["model"], response["at"])
    if price is None:
        return None
    tokens_in, write, read = (response[f"{kind}_tokens"] for kind in ("input", "cache_write", "cache_read"))
    hour, flags = response["cache_write_1h_tokens"], response["flags"]
    rate_id = prices.rate_id(price, tokens_in + write + read, bool(flags & 1), bool(flags & 2), bool(flags & 4))
    out = response["output_tokens"]
    return prices.cost(rates[rate_id], tokens_in, out, write - hour, hour, read, response["web_searches"])


def tariff() -> Callable[[dict[str, Any]], prices.Cost | None]:
    """What a response costs by the prices as they are now. Raises PriceError."""
    listed = prices.load(config.prices_file())
    rates = {rate.id: rate for rate in prices.rates(listed)}
    return lambda response: cost(listed, rates, response)


def metrics(history: History) -> ClaudeMetrics:
    """The ClaudeMetrics object of what was read."""
    charge = tariff()
    totals: dict[tuple[str, str, str], list[int]] = {}
    conversations: dict[str, set[int]] = {}
    newest: int | None = None
    for response in history.responses().values():
        path, name = history.project(response["session_id"])
        conversations.setdefault(path, set()).add(response["session_id"])
        newest = max(response["at"], newest or 0)
        counts = [response[f"{kind}_tokens"] for kind in ("input", "output", "cache_write", "cache_read")]
        charged = charge(response)
        row = [*counts, *(charged or (0,) * 5), int(response["part"] == 0), 0 if charged else sum(counts)]
        before = totals.get((path, name, response["model"]), [0] * len(row))
        totals[path, name, response["model"]] = [a + b for a, b in zip(before, row, strict=True)]
    rows = [(*key, *row) for key, row in sorted(totals.items())]
    counted = {path: len(sessions) for path, sessions in conversations.items()}
    return assemble(rows, counted, None if newest is None else iso(newest))


def iso(at: int) -> str:
    """Milliseconds since 1970 as the views show them."""
    from datetime import UTC, datetime, timedelta

    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
