#!/usr/bin/env python3
"""How long `cm search` takes on an index of many messages, made up in SQL.

    python scripts/bench_search.py [MESSAGES] [FILE]

Words are drawn as in a natural language: the nth most frequent one is n times rarer than the first.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from indexer import fulltext, search, store
from indexer.digest import digest_text
from indexer.sources import Source

WORDS = 50_000
# Of a session, of a transcript, of a project's sessions.
MESSAGES, SESSIONS = 200, 100
START = 1_750_000_000_000
QUERIES = (
    "w00000", "w00030", "w00300", "w03000", "w40000", "w00000 w00001", "w00000 w00001 w00002", "w00000 w03000",
    "w00100 w00200", '"w00000 w00001"', '"w00100 w00101"', "w030*", "w0300*", "w00030 OR w00300", "w00000 OR w40000",
)  # fmt: skip


def make(connection: sqlite3.Connection, count: int) -> None:
    """Fills the tables that a search reads."""
    execute = connection.execute
    types = {"prompt": digest_text("user", "prompt"), "answer": digest_text("assistant", None)}
    execute("BEGIN")
    execute("INSERT INTO record_types VALUES (?, 'user', 'prompt'), (?, 'assistant', NULL)", tuple(types.values()))
    for number in range(count // MESSAGES + 1):
        file = (number + 1, 1, "/root", f"/root/projects/-p/s{number}.jsonl", 1, 1, 1, 1, number, number + 1)
        columns = "id, host_id, root, path, size, mtime_ns, checked_ns, parser_version, session_id, identity"
        execute(store.insert("files", columns), file)
        project = number % (count // MESSAGES // SESSIONS + 1)
        execute("INSERT OR IGNORE INTO projects VALUES (?, ?, ?)", (project, f"/p{project}", f"p{project}"))
        execute("INSERT INTO sessions (id, session_id, project_id) VALUES (?, ?, ?)", (number, f"s{number}", project))
        row = (number, number, f"/p{project}", 0, 0)
        execute(store.insert("contexts", "id, session_id, cwd, is_sidechain, is_background"), row)
    columns = "id, line, length, type_id, context_id, at, flags, uuid, text"
    connection.executemany(store.insert("records", columns), _records(count, list(types.values())))
    execute("COMMIT")


def _records(count: int, types: list[int]) -> Iterator[tuple[object, ...]]:
    chance = random.Random(1)
    weights = list(itertools.accumulate(1 / (number + 1) for number in range(WORDS)))
    words = chance.choices([f"w{number:05}" for number in range(WORDS)], cum_weights=weights, k=4_000_000)
    for number in range(count):
        length = min(int(chance.lognormvariate(3.6, 0.9)), 800)
        start = chance.randrange(len(words) - length)
        session, line = divmod(number, MESSAGES)
        text = " ".join(words[start : start + length])
        identity = (session + 1 << 40) + line
        yield identity, line, 1, types[number % 2], session, START + number * 60_000, 0, f"u{number}", text


def measure(connection: sqlite3.Connection) -> None:
    sessions = tuple(row[0] for row in connection.execute("SELECT id FROM sessions WHERE project_id = 3"))
    filters: dict[str, dict[str, Any]] = {
        "": {},
        "of a session": {"sessions": (77,)},
        "of a project": {"sessions": sessions},
        "of a month": {"since": START, "until": START + 30 * 86_400_000},
        "of prompts": {"role": "prompt"},
    }
    slowest = 0.0
    for text, (name, limits) in itertools.product(QUERIES, filters.items()):
        match, phrases = search.parse(text)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            found = search.find(connection, search.Query(match, phrases, **limits), 20)
            times.append(time.perf_counter() - begun)
        slowest = max(slowest, min(times))
        print(f"{min(times) * 1000:8.1f} ms  {len(found):3} found  {text} {name}")
    print(f"slowest: {slowest * 1000:.1f} ms")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = sys.argv[2] if len(sys.argv) > 2 else f"{folder}/cm.db"
        is_made = os.path.exists(path)
        store.make_private(path)
        connection = store.open_writer(path)
        if not is_made:
            make(connection, count)
            size = os.path.getsize(path)
            begun = time.perf_counter()
            fulltext.build(connection, frozenset(), Source(connection, None))
            print(f"built in {time.perf_counter() - begun:.1f} s, {(os.path.getsize(path) - size) / 1e6:.0f} MB")
        measure(connection)
        connection.close()


if __name__ == "__main__":
    main()
