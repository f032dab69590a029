"""What a `stat` and a look at the bytes around the offset tell of a transcript that is known."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from indexer.checkpoint import (
    EXPECTED,
    GROWN,
    PARSER_VERSION,
    RACY_NS,
    REWRITTEN,
    SAMPLE,
    STALE,
    SUSPECT,
    UNCHANGED,
    Checkpoint,
    classify,
    matches,
    samples,
)
from indexer.discovery import Found
from indexer.store import open_writer

PATH = "/r/projects/p/s.jsonl"
SECOND = 10**9
LOOKED_AT = 1_800_000_000 * SECOND
KNOWN = {
    **{"id": 1, "size": 1000, "mtime_ns": LOOKED_AT - 3600 * SECOND, "inode": 7, "checked_ns": LOOKED_AT},
    **{
        "offset": 1000,
        "end": 1000,
        "head_hash": 1,
        "tail_hash": 2,
        "line_count": 3,
        "session": "s",
        "first_at": 5,
        "last_at": 9,
    },
    **{"parser_version": PARSER_VERSION, "is_gone": 0, "has_error": 0},
}


def known(**changes: Any) -> Checkpoint:
    return Checkpoint(**(KNOWN | changes))


def found(**changes: Any) -> Found:
    seen = {"path": PATH, "root": "/r", "device": 1}
    seen |= {name: KNOWN[name] for name in ("size", "mtime_ns", "inode")}
    return Found(**(seen | changes))


OLD, NEW = KNOWN["mtime_ns"], LOOKED_AT + 5 * SECOND


CASES = pytest.mark.parametrize(
    ("story", "before", "now", "expected"),
    [
        ("nothing happened", {}, {}, UNCHANGED),
        ("larger", {}, {"size": 1001, "mtime_ns": NEW}, GROWN),
        ("larger, with the time it had", {}, {"size": 1001}, GROWN),
        ("larger, with a time set back", {}, {"size": 1001, "mtime_ns": OLD - SECOND}, GROWN),
        ("larger, and another inode: a copy put in its place", {}, {"size": 1001, "inode": 8}, GROWN),
        ("shorter", {}, {"size": 999, "mtime_ns": NEW}, REWRITTEN),
        ("shorter, with the time it had", {}, {"size": 999}, REWRITTEN),
        ("empty", {}, {"size": 0, "mtime_ns": NEW}, REWRITTEN),
        ("the same size and another time", {}, {"mtime_ns": NEW}, REWRITTEN),
        ("the same size and an earlier time", {}, {"mtime_ns": OLD - SECOND}, REWRITTEN),
        ("one nanosecond later", {}, {"mtime_ns": OLD + 1}, REWRITTEN),
        ("another inode only", {}, {"inode": 8}, REWRITTEN),
        ("read by an older parser", {"parser_version": PARSER_VERSION - 1}, {}, STALE),
        ("read by a newer parser", {"parser_version": PARSER_VERSION + 1}, {}, STALE),
        ("read by an older parser, and larger", {"parser_version": PARSER_VERSION - 1}, {"size": 2000}, STALE),
        ("larger, and no session was known yet", {"session": None}, {"size": 1001}, STALE),
        ("larger, and no time was known yet", {"first_at": None}, {"size": 1001}, STALE),
        ("larger, and its first time was 1970", {"first_at": 0}, {"size": 1001}, GROWN),
        ("larger, and no whole line was read yet", {"session": None, "line_count": 0}, {"size": 1001}, GROWN),
        ("the same, and no session is known", {"session": None}, {}, UNCHANGED),
        ("it could not be read", {"size": -1, "mtime_ns": 0, "line_count": 0, "session": None}, {}, GROWN),
        ("changed just before it was looked at", {"checked_ns": OLD + SECOND}, {}, SUSPECT),
        ("changed two seconds before", {"checked_ns": OLD + RACY_NS}, {}, SUSPECT),
        ("changed a little longer before", {"checked_ns": OLD + RACY_NS + 1}, {}, UNCHANGED),
        ("changed in the future", {"mtime_ns": NEW}, {"mtime_ns": NEW}, SUSPECT),
    ],
)


@CASES
def test_what_happened_to_a_transcript(story, before, now, expected):
    assert classify(known(**before), found(**now)) == expected


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    path = tmp_path_factory.mktemp("index") / "cm.db"
    path.touch()
    with closing(open_writer(str(path))) as connection:
        yield connection


@CASES
@pytest.mark.parametrize("is_failed", [False, True])
@pytest.mark.parametrize("is_gone", [False, True])
def test_only_what_is_unchanged_is_as_the_index_expects_it(
    index: sqlite3.Connection, story, before, now, expected, is_failed, is_gone
):
    row = known(**before)
    index.execute("DELETE FROM files")
    index.execute(
        "INSERT INTO files (host_id, root, path, size, mtime_ns, inode, checked_ns, parser_version, error, gone_at)"
        " VALUES (1, '/r', ?, ?, ?, ?, ?, ?, ?, ?)",
        (PATH, *row[1:5], row.parser_version, "it failed" if is_failed else None, 1 if is_gone else None),
    )
    seen = found(**now)
    is_expected = (seen.path, seen.size, seen.mtime_ns, seen.inode) in set(index.execute(EXPECTED))
    assert is_expected == (expected == UNCHANGED and not is_failed and not is_gone)


def read(path: Path, offset: int) -> Checkpoint:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head, tail = samples(descriptor, offset)
    finally:
        os.close(descriptor)
    return known(offset=offset, end=offset, size=offset, head_hash=head, tail_hash=tail)


SIZES = [1, SAMPLE - 1, SAMPLE, SAMPLE + 1, 2 * SAMPLE - 1, 3 * SAMPLE]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_appended_does_not_matter(tmp_path, size):
    path = tmp_path / "x.jsonl"
    path.write_bytes(os.urandom(size))
    before = read(path, size)
    assert matches(before, str(path))
    with path.open("ab") as file:
        file.write(b"more")
    assert matches(before, str(path))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["first", "last", "last of the head", "first of the tail"])
def test_one_other_byte_in_the_head_or_the_tail_is_seen(tmp_path, size, place):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"a" * size)
    before = read(path, size)
    at = {"first": 0, "last": size - 1, "last of the head": min(SAMPLE, size) - 1, "first of the tail": size - SAMPLE}
    changed = bytearray(path.read_bytes())
    changed[max(at[place], 0)] = ord("b")
    path.write_bytes(changed)
    assert not matches(before, str(path))


def test_a_shorter_file_does_not_match(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"a" * 100)
    before = read(path, 100)
    path.write_bytes(b"a" * 99)
    assert not matches(before, str(path))


def test_before_the_first_whole_line_anything_matches(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"anything")
    assert matches(known(offset=0, end=0, head_hash=None, tail_hash=None), str(path))


def test_a_file_that_cannot_be_opened_is_told_by_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        matches(known(), str(tmp_path / "x.jsonl"))


def test_a_fifo_in_the_place_of_the_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(OSError, match=r".+"):
        matches(known(), str(tmp_path / "x.jsonl"))
