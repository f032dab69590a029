"""Bounded pieces of a file: whatever the cut, they add up to the file and end where lines end."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import reader

LINES = st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b" ")), max_size=12)


def read(data: bytes, chunk: int, start: int = 0, end: int | None = None) -> list[tuple[int, bytes]]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "CHUNK", chunk)
        path = Path(folder, "x.jsonl")
        path.write_bytes(data)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            found = list(reader.chunks(descriptor, start, len(data) if end is None else end))
        finally:
            os.close(descriptor)
    assert [begin for begin, _, _ in found[1:]] == [end for _, end, _ in found[:-1]]
    return [(begin, piece) for begin, _, piece in found]


@given(LINES, st.booleans(), st.integers(1, 40), st.data())
def test_pieces_add_up_to_what_was_asked_for_and_end_with_lines(lines, is_closed, chunk, data):
    text = b"\n".join(lines) + (b"\n" if lines and is_closed else b"")
    # A checkpoint stands behind a newline; the size a file had when it was looked at can be anything.
    start = data.draw(st.sampled_from([0] + [i + 1 for i, byte in enumerate(text) if byte == 10]))
    end = data.draw(st.integers(start, len(text)))
    found = read(text, chunk, start, end)
    assert b"".join(piece for _, piece in found) == text[start:end]
    assert all(piece and text[offset : offset + len(piece)] == piece for offset, piece in found)
    assert all(piece.endswith(b"\n") for _, piece in found[:-1])
    # An open last line stands alone, so that it can be told from whole ones.
    assert not found or found[-1][1].endswith(b"\n") or b"\n" not in found[-1][1]


@given(LINES, st.integers(1, 40))
def test_a_piece_is_no_longer_than_a_chunk_and_the_line_that_does_not_fit(lines, chunk):
    text = b"".join(line + b"\n" for line in lines)
    longest = max((len(line) for line in lines), default=0) + 1
    assert all(len(piece) <= chunk + longest for _, piece in read(text, chunk))


def test_nothing_new_gives_nothing():
    assert read(b"a\n", 4, start=2) == []
    assert read(b"", 4) == []


def test_a_line_longer_than_a_chunk_comes_whole():
    long = b"x" * 1000 + b"\n"
    assert read(b"y\n" + long + b"y\n", 8) == [(0, b"y\n"), (2, long + b"y\n")]


def test_what_was_appended_after_the_file_was_looked_at_is_left_for_next_time():
    assert read(b"one\ntwo\n", 100, end=4) == [(0, b"one\n")]
    assert read(b"one\ntwo\n", 100, end=6) == [(0, b"one\n"), (4, b"tw")]


def test_a_file_that_became_shorter_meanwhile_is_an_error_and_no_endless_loop():
    with pytest.raises(OSError, match="cut short"):
        read(b"one\n", 100, end=50)


def test_a_line_that_is_too_long_is_passed_over_and_what_is_around_it_is_not(monkeypatch):
    monkeypatch.setattr(reader, "MAX_LINE", 100)
    long = b"x" * 100 + b"\n"
    for chunk in (8, 64, 99):
        assert b"".join(piece for _, piece in read(b"y\n" + long + b"y\n", chunk)) == b"y\ny\n"
        assert (2, b"") in read(b"y\n" + long + b"y\n", chunk)
        # Until its end is written it may be anything: what it begins with is looked at.
        offset, piece = read(b"y\n" + b"x" * 1000, chunk)[-1]
        assert (offset, set(piece), len(piece) <= 2 * chunk) == (2, {ord("x")}, True)
