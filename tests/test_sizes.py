"""What is too large or too deep costs itself and no other; a worker that fails loses one file for one run."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import Home, assistant, line, text, user, write
from conftest import RunCm, clean_environment
from ledger import refresh, rows

from indexer import pool
from indexer.batch import Batch
from indexer.parser import Parser
from indexer.refresh import refresh as run_refresh

MB = 1 << 20
LIMIT_MB = 300
# A process of its own, small when it starts another: what that one takes begins with what its parent has.
MEASURED = """
import json, resource, subprocess, sys
command = [sys.executable, "-m", "indexer", "refresh", "--json", *sys.argv[1:]]
done = subprocess.run(command, capture_output=True, text=True)
largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps([done.returncode, largest, done.stdout, done.stderr]))
"""


@pytest.fixture
def history(home: Home) -> Home:
    for number in range(8):
        write(home.transcript(f"s-{number}"), [user(sessionId=f"s-{number}"), assistant(sessionId=f"s-{number}")])
    return home


def refresh_within_limit(*options: str) -> dict[str, Any]:
    """What `cm refresh --json` says, after it and each of its workers kept to the limit of memory."""
    command = [sys.executable, "-c", MEASURED, *options]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    code, largest, out, err = json.loads(done.stdout)
    assert code == 0, err
    assert largest < LIMIT_MB, f"{largest:.0f} MB"
    found: dict[str, Any] = json.loads(out)
    return found


# Sizes


def a_whole_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + line(assistant(text("x" * 64 * MB), sessionId="big")))


def a_line_of_numbers(path: Path) -> None:
    numbers = b"1," * (32 * MB) + b"1"
    path.write_bytes(path.read_bytes() + b'{"type":"user","sessionId":"big","x":[' + numbers + b"]}\n")


def a_broken_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"type":"user","x":"' + b"x" * 64 * MB + b"\n")


def an_open_line(path: Path) -> None:
    path.write_bytes(path.read_bytes() + line(user("x" * 64 * MB, sessionId="big"))[:-9])


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("add", "skipped"),
    [
        (a_whole_line, {}),
        pytest.param(a_line_of_numbers, {}, marks=pytest.mark.nightly),
        pytest.param(a_broken_line, {"broken JSON": 1}, marks=pytest.mark.nightly),
        pytest.param(an_open_line, {}, marks=pytest.mark.nightly),
    ],
)
def test_a_line_of_64_mb(history: Home, workers: str, add: Callable[[Path], None], skipped: dict[str, int]):
    path = write(history.transcript("big"), [user(sessionId="big"), assistant(sessionId="big")])
    add(path)
    found = refresh_within_limit("--workers", workers)
    assert found["files_failed"] == 0
    assert dict(tuple(row.values()) for row in rows("SELECT reason, count(*) FROM skipped_lines GROUP BY 1")) == skipped
    assert rows("SELECT count(*) AS n FROM usage") == [{"n": 9 + (add is a_whole_line)}]
    # Its numbers and what it belongs to are kept, its text is not, and that is flagged.
    if add is a_whole_line:
        assert rows(
            "SELECT m.text, r.flags & 8 AS is_dropped FROM messages AS m JOIN records AS r USING (uuid)"
            " WHERE length(m.text) IS NULL AND r.length > ?",
            64 * MB,
        ) == [{"text": None, "is_dropped": 8}]


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_transcript_of_600_mb(history: Home, workers: str):
    part = b"".join(
        line(record) for _ in range(60) for record in (user("y" * 500, sessionId="big"), assistant(sessionId="big"))
    )
    padding = line(assistant(text("x" * 9000), sessionId="big"))
    count = 600 * MB // (len(part) + 200 * len(padding)) + 1
    with history.transcript("big").open("wb") as file:
        for _ in range(count):
            file.write(part + padding * 200)
    assert history.transcript("big").stat().st_size > 600 * MB
    found = refresh_within_limit("--workers", workers)
    assert (found["records_added"], found["lines_skipped"]) == (16 + 320 * count, 0)
    assert rows("SELECT count(*) AS n FROM usage") == [{"n": 8 + 61}]  # the same ones again and again


@pytest.mark.nightly
@pytest.mark.parametrize("is_open", [False, True])
def test_a_line_of_600_mb_is_passed_over_and_what_is_around_it_is_not(history: Home, is_open: bool):
    path = write(history.transcript("big"), [assistant(sessionId="big")])
    with path.open("ab") as file:
        file.write(b'{"type":"user","x":"')
        for _ in range(600):
            file.write(b"x" * MB)
        file.write(b"" if is_open else b'"}\n' + line(assistant(sessionId="big")))
    found = refresh_within_limit()
    assert (found["records_added"], found["lines_skipped"]) == ((17, 0) if is_open else (18, 1))
    if not is_open:
        assert rows("SELECT reason, offset + length < ? AS is_inside FROM skipped_lines", path.stat().st_size) == [
            {"reason": "too long", "is_inside": 1}
        ]


def test_a_hundred_thousand_brackets_and_numbers_that_are_none(history: Home, run_cm: RunCm):
    deep = b'{"type":"user","sessionId":"s","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    odd = [
        line(assistant(sessionId="s")).replace(b'"input_tokens":10', b'"input_tokens":' + number)
        for number in (b"NaN", b"-Infinity", b"1e999", b"99999999999999999999999", b'"12"', b"-" + b"9" * 5000)
    ]
    write(history.transcript("s"), [deep, b"[" * 100_000 + b"\n", b'{"type":' * 50_000 + b"\n", *odd, assistant()])
    refresh()
    found = rows("SELECT sum(input_tokens) AS n, count(*) AS responses FROM usage WHERE session_id = 's'")
    assert found[0]["responses"] >= 5
    assert found[0]["n"] == 12
    assert run_cm("check").returncode == 0
    assert run_cm("verify").returncode == 0


# Workers that fail


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="only with two cores there are worker processes")
def test_a_worker_that_runs_out_of_memory_loses_its_file_for_this_run_only(history: Home):
    """Whether it gets a MemoryError, or dies of it."""
    refresh()  # what an index is made with may take more than a worker has
    write(history.transcript("small"), [assistant(sessionId="small")])
    path = write(history.transcript("big"), [user("x" * 60 * MB, sessionId="big")])
    command = [sys.executable, "-m", "indexer", "refresh", "--json"]
    done = subprocess.run(
        command,
        env=clean_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (150 * MB, 150 * MB)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    assert (found["files_parsed"], found["files_failed"], list(found["failures"])) == (1, 1, [str(path)])
    assert str(path) in done.stderr
    assert "tried again next time" in done.stderr
    assert refresh().files_parsed == 1
    assert rows("SELECT count(*) AS n FROM messages WHERE session_id = 'big'") == [{"n": 1}]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), KeyError("x"), ZeroDivisionError()])
def test_any_exception_in_a_worker_costs_one_file(
    history: Home, workers: int, error: Exception, monkeypatch: pytest.MonkeyPatch
):
    """Nothing that can be in a file is known to raise one, so it is put there."""
    bad = write(history.transcript("bad"), [user("explode", sessionId="bad")])
    feed = Parser.feed

    def explode(self: Parser, data: bytes, offset: int) -> Batch:
        if b"explode" in data:
            raise error
        return feed(self, data, offset)

    monkeypatch.setattr(pool, "BULK", 1 << 40)
    with monkeypatch.context() as patch:
        patch.setattr(Parser, "feed", explode)
        summary = run_refresh(workers=workers)
        assert (summary.files_parsed, list(summary.failures)) == (8, [str(bad)])
        assert type(error).__name__ in summary.failures[str(bad)]
        assert run_refresh(workers=workers).files_failed == 1
    assert refresh().files_parsed == 1
