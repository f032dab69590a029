"""Holds the index against the transcripts: reads them again without it and compares record by record."""

from __future__ import annotations

import json
import os

from . import metrics, naive
from .batch import OFFSET_BITS
from .discovery import Found
from .privacy import Tombstones
from .store import real_path, snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

_PRESENT = "replaced_at IS NULL AND gone_at IS NULL AND host_id = 1"
# A file that failed has nothing of it in the index; it is told by refresh.
_FILES = f"SELECT path, root, size, mtime_ns, inode, device, id FROM files WHERE {_PRESENT} AND size >= 0 ORDER BY path"
_RECORD_COLUMNS = (
    "line, length, type_id, context_id, at, flags, uuid, parent_uuid, digest, block, model_id, response_id,"
    " message_id, request_id, stop_reason, text"
)
_RESPONSES = """
SELECT
  r.id, r.key, r.part, m.name AS model, r.session_id, f.path AS owner_path, w.offset AS owner_offset, r.at,
  r.input_tokens, r.output_tokens, r.cache_write_tokens, r.cache_write_1h_tokens, r.cache_read_tokens,
  r.web_searches, r.flags, r.stop_reason, r.record_count,
  r.input AS input_cost, r.output AS output_cost, r.cache_write AS cache_write_cost, r.cache_read AS cache_read_cost,
  r.web_search AS web_search_cost
FROM response_costs AS r
JOIN models AS m ON m.id = r.model_id
JOIN records AS w ON w.id = r.owner_id
JOIN files AS f ON f.id = w.id >> 40
"""
# How many of a response's records stand in sources that are not there to be read again.
_ABSENT = f"""
SELECT u.response_id, count(*)
FROM record_usage AS u
WHERE u.record_id >> {OFFSET_BITS} NOT IN (SELECT value FROM json_each(:present))
GROUP BY u.response_id
"""
# Calls that belong to a record that is not there: their searches are charged to its response.
_CALLED_ELSEWHERE = f"""
SELECT id FROM tool_calls WHERE record_id >> {OFFSET_BITS} NOT IN (SELECT value FROM json_each(:present))
"""
_KEPT = """
SELECT
  (SELECT count(*) FROM files WHERE size >= 0 AND id NOT IN (SELECT value FROM json_each(:present))) AS sources,
  (SELECT count(*) FROM records WHERE file_id NOT IN (SELECT value FROM json_each(:present))) AS records
"""
_SEARCHED = ("web_searches", "web_search_cost")
_COSTS = ("input_cost", "output_cost", "cache_write_cost", "cache_read_cost", "web_search_cost")
# More than these are counted, not listed.
_LISTED = 100


class Report:
    """What was compared, every difference in words, and what the index keeps of sources that are not there."""

    def __init__(self) -> None:
        self.files = 0
        self.records = 0
        self.responses = 0
        self.difference_count = 0
        self.differences: list[str] = []
        self.kept: dict[str, Any] = {}

    def differs(self, text: str) -> None:
        self.difference_count += 1
        if len(self.differences) < _LISTED:
            self.differences.append(text)

    def to_dict(self) -> dict[str, Any]:
        """The object that `cm verify --json` prints."""
        return dict(vars(self))


def verify(connection: sqlite3.Connection) -> Report:
    """Compares the index with a reading of every present transcript up to where the index stands."""
    report, history = Report(), naive.History()
    with snapshot(connection):
        history.tombstones = Tombstones(connection)
        # A root that was not looked at may have vanished with all that is below it.
        files = [row for row in connection.execute(_FILES).fetchall() if os.path.exists(real_path(row[0]))]
        present = {"present": json.dumps([row[-1] for row in files])}
        for path, root, size, mtime_ns, inode, device, file_id in files:
            history.add(Found(real_path(path), root, size, mtime_ns, inode, device))
            _compare_records(connection, report, history, path, file_id)
            report.files += 1
        for path, reason in history.failures.items():
            report.differs(f"{path}: cannot be read again: {reason}")
        absent = dict(connection.execute(_ABSENT, present).fetchall())
        history.called_elsewhere = {row[0] for row in connection.execute(_CALLED_ELSEWHERE, present)}
        report.kept = dict(zip(("sources", "records"), connection.execute(_KEPT, present).fetchone(), strict=True))
        kept = _compare_responses(connection, report, history, absent)
        report.kept |= _sums(kept)
        (report.kept["forgotten_sessions"],) = connection.execute("SELECT count(*) FROM forgotten").fetchone()
        if not report.kept["records"]:
            _compare_totals(connection, report, history)
    return report


def _compare_records(
    connection: sqlite3.Connection, report: Report, history: naive.History, path: str, file_id: int
) -> None:
    sql = f"SELECT offset, {_RECORD_COLUMNS} FROM records WHERE id >= ? AND id < ?"
    span = (file_id << OFFSET_BITS, (file_id + 1) << OFFSET_BITS)
    indexed = {row[0]: row[1:] for row in connection.execute(sql, span)}
    read = {offset: row[1:] for offset, row in history.last.items()}
    report.records += len(read)
    names = _RECORD_COLUMNS.split(", ")
    for offset in sorted(indexed.keys() | read.keys()):
        ours, theirs = indexed.get(offset), read.get(offset)
        if ours == theirs:
            continue
        if ours is None or theirs is None:
            report.differs(f"{path} at byte {offset}: {'not indexed' if ours is None else 'indexed, but not there'}")
        else:
            wrong = [name for name, a, b in zip(names, ours, theirs, strict=True) if a != b]
            report.differs(f"{path} at byte {offset}: {', '.join(wrong)} differ")
    sql = "SELECT offset, reason FROM skipped_lines WHERE id >= ? AND id < ?"
    if set(connection.execute(sql, span)) != {row[1:] for row in history.skipped if row[0] == path}:
        report.differs(f"{path}: the skipped lines differ")


def _compare_responses(
    connection: sqlite3.Connection, report: Report, history: naive.History, absent: dict[int, int]
) -> list[dict[str, Any]]:
    """Compares the responses; returns those that only the index has, because their sources are not there."""
    cursor = connection.execute(_RESPONSES)
    names = [column[0] for column in cursor.description]
    indexed = {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in cursor}
    read, charge = history.responses(), naive.tariff()
    # Not the calls of other models within them: a report does not count these either.
    report.responses = sum(response["part"] == 0 for response in read.values())
    for response_id, theirs in read.items():
        ours = indexed.pop(response_id, None)
        theirs["owner_path"], theirs["owner_offset"] = theirs.pop("owner")
        theirs.update(zip(_COSTS, charge(theirs) or (None,) * len(_COSTS), strict=True))
        if ours is None:
            report.differs(f"response {theirs['key']}: not indexed")
            continue
        if response_id in absent or history.advised(response_id) in absent:
            # The maximum over more records can only be larger, and the owner may be one that is gone.
            wrong = [name for name in theirs if name.endswith("_tokens") and ours[name] < theirs[name]]
        else:
            # What it searched for may be told by a result that is gone.
            more = _SEARCHED if report.kept["records"] and ours["web_searches"] > theirs["web_searches"] else ()
            wrong = [name for name in theirs if ours[name] != theirs[name] and name not in more]
        for name in wrong:
            report.differs(f"response {theirs['key']}: {name} is {ours[name]!r}, the transcripts say {theirs[name]!r}")
    kept = [response_id for response_id in indexed if response_id in absent]
    for response_id in indexed.keys() - set(kept):
        report.differs(f"response {indexed[response_id]['key']}: indexed, but no transcript has it")
    return [indexed[response_id] for response_id in kept]


def _sums(responses: list[dict[str, Any]]) -> dict[str, int]:
    """Responses that only the index still knows: of transcripts that are gone, rewritten or merged from elsewhere."""
    tokens = sum(value for response in responses for name, value in response.items() if name.endswith("_tokens"))
    tokens -= sum(response["cache_write_1h_tokens"] for response in responses)  # part of cache_write_tokens
    return {"responses": sum(response["part"] == 0 for response in responses), "tokens": tokens}


def _compare_totals(connection: sqlite3.Connection, report: Report, history: naive.History) -> None:
    """Only where nothing is gone: the totals hold that too, and the responses were compared one by one."""
    ours, theirs = metrics.from_index(connection).to_dict(), naive.metrics(history).to_dict()
    for name, value in theirs.items():
        if ours[name] != value:
            report.differs(f"{name} is {ours[name]!r}, the transcripts say {value!r}")
