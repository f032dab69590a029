"""Machines for tests: each with transcripts and an index of its own, and one index that has read all of them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from builders import (
    Home,
    Record,
    agent_progress,
    assistant,
    fresh,
    text,
    title,
    tool_result,
    tool_use,
    usage,
    user,
    write,
)

from indexer import store
from indexer.merge import merge
from indexer.refresh import refresh

Rows: TypeAlias = list[tuple[Any, ...]]

SHARED, OTHER = "5e551000-0000-4000-8000-000000000009", "5e551000-0000-4000-8000-000000000002"


class Machine(NamedTuple):
    """A machine; its name sorts as its folder does, so that ties are decided alike in an index of all."""

    name: str
    home: Home
    db: Path

    def index(self, user_name: str = "dev") -> None:
        """Reads its transcripts into its index."""
        refresh([str(self.home.root)], str(self.db))
        with closing(sqlite3.connect(self.db)) as connection, connection:
            connection.execute("UPDATE hosts SET name = ?, user = ? WHERE id = 1", (self.name, user_name))


def machines(folder: Path, names: Sequence[str]) -> list[Machine]:
    found = []
    for n, name in enumerate(names):
        place = folder / f"{n}"
        place.mkdir(parents=True)
        found.append(Machine(name, Home(place), place / "cm.db"))
    return found


def index_of_all(found: Sequence[Machine], path: Path) -> Path:
    """One index of all their transcripts, as if they had been merged: it knows whose each is."""
    refresh([str(machine.home.root) for machine in found], str(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM hosts")
        for n, machine in enumerate(found, 1):
            connection.execute("INSERT INTO hosts VALUES (?, ?, 'dev')", (n, machine.name))
            connection.execute("UPDATE files SET host_id = ? WHERE root = ?", (n, str(machine.home.root)))
    return path


def index_of_merged(found: Sequence[Machine], path: Path) -> Path:
    """A copy of the first one's index after `cm merge` of all others."""
    with closing(sqlite3.connect(found[0].db)) as connection:
        connection.execute("VACUUM INTO ?", (str(path),))
    for machine in found[1:]:
        merge(str(machine.db), str(path))
    return path


def a_real_team(folder: Path) -> list[Machine]:
    """A machine for each Claude config directory in CM_TRANSCRIPTS, and one that has every second of all files too."""
    if "CM_TRANSCRIPTS" not in os.environ:
        pytest.skip("CM_TRANSCRIPTS names no folder of real transcripts")
    roots = sorted(path.parent for path in Path(os.environ["CM_TRANSCRIPTS"]).glob("*/projects"))
    found = machines(folder, [f"host-{n}" for n in range(len(roots) + 1)])
    for machine, root in zip(found, roots, strict=False):
        shutil.copytree(root / "projects", machine.home.root / "projects", dirs_exist_ok=True)
        for file in sorted(root.rglob("*.jsonl"))[::2]:
            copy = found[-1].home.root / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    for machine in found:
        machine.index()
    return found


def a_team(folder: Path) -> list[Machine]:
    """Three machines with all that the accounting distinguishes; some sessions stand on two of them, partly."""
    found = machines(folder, ["anvil", "birch", "cedar"])
    for n, machine in enumerate(found):
        own = f"5e551000-0000-4000-8000-00000000010{n}"
        write(machine.home.transcript(own, f"/home/dev/{machine.name}"), _own(own, machine.name))
    _share(found)
    for machine in found:
        machine.index()
    return found


def _own(session: str, name: str) -> list[Record]:
    common = {"sessionId": session, "cwd": f"/home/dev/{name}", "gitBranch": f"secret-{name}"}
    models = ["claude-opus-4-5-20251101", "claude-sonnet-4-5", "claude-haiku-4-5", "claude-zeta-99"]
    records = [title(f"About {name}", session), user(f"Fix {name}.", **common)]
    for model in models:
        # Odd counts: their costs end in halves of a nanodollar.
        records.append(assistant(model=model, usage=usage(333, 777, 55, 33, 222_001), **common))
    kinds: list[dict[str, Any]] = [{"speed": "fast"}, {"inference_geo": "us"}, {"service_tier": "batch"}]
    for kind in kinds:
        records.append(
            assistant(model="claude-opus-4-6", usage=usage(**kind), timestamp="2026-02-03T23:30:00Z", **common)
        )
    records.append(assistant(model="claude-sonnet-4-5", usage=usage(300_000, 5), **common))
    records.append(assistant(usage=usage(output=3), stop_reason=None, **common))
    return records


def _share(found: Sequence[Machine]) -> None:
    """One session on all three, of which each has another part; one copied whole."""
    common = {"sessionId": SHARED, "cwd": "/home/dev/shared"}
    call = tool_use("WebSearch")
    identity = {"id": fresh("msg_01{:022}"), "requestId": "req_1"}
    advice = [{"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 1000, "output_tokens": 2000}]
    first = assistant(text(), usage=usage(10, 1), **identity, **common)
    last = assistant(call, usage=usage(10, 300, iterations=advice, speed="fast"), **identity, **common)
    result = tool_result(call["id"], result={"searchCount": 7}, **common)
    prompt, answer = user("Where?", **common), assistant(model="claude-opus-5", usage=usage(7, 1000), **common)
    replay = {**answer, "isSidechain": True, "uuid": fresh("00000000-0000-4000-8000-{:012}")}
    parts = [[prompt, first, last, replay], [prompt, first, result, answer], [last, answer, agent_progress(**common)]]
    for machine, records in zip(found, parts, strict=True):
        write(machine.home.transcript(SHARED, "/home/dev/shared"), records)
    copied = [user(sessionId=OTHER), *(assistant(sessionId=OTHER, timestamp="2026-10-31T22:30:00Z") for _ in range(5))]
    for machine in found[:2]:
        write(machine.home.transcript(OTHER), copied)


# What an index says, for comparison: whole nanodollars as decimals.

TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
COSTS = ("input", "output", "cache_write", "cache_read", "web_search")

STATS = f"""
SELECT
  p.path, m.name, h.name,
  sum(r.input_tokens), sum(r.output_tokens), sum(r.cache_write_tokens), sum(r.cache_read_tokens),
  sum(r.part = 0), sum(r.is_undercounted), {", ".join(f"sum(r.{kind})" for kind in COSTS)}
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN files AS f ON f.id = r.owner_id >> 40
JOIN hosts AS h ON h.id = f.host_id
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
STATS_ELSEWHERE = f"""
SELECT
  project, model, host, {", ".join(f"sum({name})" for name in TOKENS)}, sum(responses), sum(is_undercounted),
  {", ".join(f"sum({kind}_cost_usd)" for kind in COSTS)}
FROM usage GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
DAILY = """
SELECT
  day, input_tokens, output_tokens, cache_creation_tokens, cache_read_tokens, total_tokens, responses, sessions,
  unpriced_tokens, undercounted_responses
FROM daily_usage ORDER BY day
"""


def stats(db: Path) -> Rows:
    """By project, model and owner: tokens, responses, costs of each kind."""
    return [
        (*row[:9], *(None if nano is None else Decimal(nano) / 10**9 for nano in row[9:])) for row in ask(db, STATS)
    ]


def ask(db: Path, sql: str) -> Rows:
    connection = store.open_reader(os.fspath(db))
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def plain(found: Sequence[Sequence[Any]]) -> Rows:
    """Rows of another engine with its dates as text, and its whole decimals as numbers where an index has those."""
    return [tuple(str(value) if hasattr(value, "isoformat") else value for value in row) for row in found]


def need(module: str) -> Any:
    """A library that an extra installs."""
    return pytest.importorskip(module, reason=f"{module} is not installed")
