"""Bytes that nobody wrote, and records that something has damaged: never an exception, and every line accounted for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import builders
import pytest
from builders import agent_progress, assistant, line, text, title, tool_result, tool_use, user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger import another_home, health, refresh

from indexer import check, config, store

CALL = tool_use("Task", subagent_type="Explore")
RECORDS = [
    user(),
    assistant(text("a"), CALL, usage=builders.usage(1, 2, 3, 4, 5, iterations=[{"type": "message"}], speed="fast")),
    tool_result(CALL["id"], result={"searchCount": 2, "agentId": "a1"}),
    agent_progress(),
    title(),
]
ODD: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.sampled_from(["\ud800", "\0", "x" * 5000, 10**30, -(2**63), 2**64, [[[[]]]], {"": {"": ""}}]),
)
SMALL = settings(max_examples=20, suppress_health_check=list(HealthCheck))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a record there are values."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


@st.composite
def changed_record(draw: st.DrawFn) -> bytes:
    """A record with some values replaced by others, of whatever type."""
    record = json.loads(line(draw(st.sampled_from(RECORDS))))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(sorted(places(record), key=str)))
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = deepcopy(draw(ODD))  # else a list, put in twice, comes to hold itself
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(record, separators=separators, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")


@st.composite
def damaged_line(draw: st.DrawFn) -> bytes:
    """A changed record with bytes cut out, put in, doubled, or turned over."""
    data = draw(changed_record())
    for _ in range(draw(st.integers(0, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        data = draw(
            st.sampled_from(
                [
                    data[:start] + data[end:],
                    data[:end] + data[start:],
                    data[:start] + data[start:end][::-1] + data[end:],
                ]
            )
            | st.binary(max_size=4).map(lambda put, a=data[:start], b=data[end:]: a + put + b)
        )
    return data + draw(st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"", b"\0\n"]))


transcript = st.lists(st.one_of(damaged_line(), damaged_line(), st.binary(max_size=40)), max_size=6).map(b"".join)


def holds(contents: list[bytes], more: bytes) -> None:
    """Whatever stands in transcripts can be indexed in two pieces, and each of their lines is accounted for."""
    with another_home() as home:
        paths = [home.transcript(f"s-{number}") for number in range(len(contents))]
        for path, data in zip(paths, contents, strict=True):
            builders.write(path, [data])
        assert refresh().files_failed == 0
        builders.append(paths[0], [more])
        assert refresh().files_failed == 0  # and what it says is what a reading without an index says
        cover, seen = health()["coverage"], [path.read_bytes() for path in paths]
        with closing(store.open_reader(config.database())) as connection:
            assert not any(check.check(connection).values())
    assert cover["lines_seen"] == sum(data.count(b"\n") + (data[-1:] not in (b"", b"\n")) for data in seen)
    assert cover["lines_seen"] == cover["lines_indexed"] + cover["lines_skipped"] + cover["lines_pending"]


@SMALL
@given(st.lists(transcript, min_size=1, max_size=2), transcript)
def test_whatever_stands_in_transcripts_is_indexed(contents: list[bytes], more: bytes) -> None:
    holds(contents, more)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@settings(SMALL, max_examples=1000)
@given(st.lists(transcript, min_size=1, max_size=2), transcript)
def test_whatever_stands_in_transcripts_is_indexed_for_long(contents: list[bytes], more: bytes) -> None:
    holds(contents, more)


@pytest.mark.skipif("CM_TRANSCRIPTS" not in os.environ, reason="CM_TRANSCRIPTS names no folder of real transcripts")
@pytest.mark.slow
@settings(SMALL, max_examples=100)
@given(st.data())
def test_real_records_that_are_damaged_are_indexed(data: st.DataObject) -> None:
    found = sorted(Path(os.environ["CM_TRANSCRIPTS"]).glob("*/projects/**/*.jsonl"))
    read = data.draw(st.sampled_from(found)).read_bytes()[: 1 << 20]
    start = data.draw(st.integers(0, max(0, len(read) - 1)))
    piece = bytearray(read[start : start + 20_000])
    for _ in range(data.draw(st.integers(0, 5)) if piece else 0):
        piece[data.draw(st.integers(0, len(piece) - 1))] = data.draw(st.sampled_from(b'"{}[]\\,:\n\0\xff0'))
    holds([bytes(piece)], read[start + 20_000 : start + 25_000])
