"""Which session goes on from which: forks with and without a pointer, plans, what is deleted, merged or forgotten."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from builders import Home, Record, append, assistant, line, user, write
from conftest import RunCm
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import another_home, refresh, rows
from machines import Machines
from webserver import serving

from indexer import config, schema, sessions, store
from indexer.refresh import refresh as refresh_only

FIRST, SECOND, THIRD = (f"{digit}e551000-0000-4000-8000-000000000001" for digit in "123")
PLAN = (
    "Implement the following plan:\n\n# Do it\n\nIf you need specific details from before exiting plan mode, "
    "read the full transcript at: /home/dev/.claude/projects/-home-dev-app/{}.jsonl"
)


def said(session: str, count: int = 2) -> list[Record]:
    """Turns of a session."""
    return [record for _ in range(count) for record in (user(sessionId=session), assistant(sessionId=session))]


def copied(records: list[Record], session: str, says: str | None = None) -> list[Record]:
    """What a fork repeats; newer versions of Claude Code say of whom."""

    def copy(record: Record) -> Record:
        origin = {"forkedFrom": {"sessionId": says, "messageUuid": record["uuid"]}} if says else {}
        return {**record, "sessionId": session, **origin}

    return [copy(record) for record in records]


def relations() -> list[tuple[Any, ...]]:
    """Session, parent, kind and common responses, the nearest parent first."""
    sql = "SELECT session_id, parent, relation, shared_responses FROM relations ORDER BY session_id, rank"
    return [tuple(row.values()) for row in rows(sql)]


def nearest(session: str) -> tuple[str | None, str | None]:
    (row,) = rows("SELECT parent, relation FROM conversations WHERE session_id = ?", session)
    return row["parent"], row["relation"]


def about(session: str) -> dict[str, Any]:
    connection = store.open_reader(config.database())
    try:
        return sessions.about(connection, sessions.find(connection, session).id)
    finally:
        connection.close()


def test_a_fork_goes_on_from_whom_it_says_whatever_their_ids_are(home: Home) -> None:
    records = said(SECOND)
    write(home.transcript(SECOND), records)
    write(home.transcript(FIRST), [*copied(records, FIRST, SECOND), *said(FIRST, 1)])
    refresh()
    assert relations() == [(FIRST, SECOND, "fork", 2)]


def test_a_fork_that_says_nothing_is_known_by_what_it_repeats(home: Home) -> None:
    records = said(FIRST)
    write(home.transcript(FIRST), records)
    write(home.transcript(SECOND), [*copied(records, SECOND), *said(SECOND, 1)])
    refresh()
    assert relations() == [(SECOND, FIRST, "fork", 2)]
    assert (about(SECOND)["forked_from"], about(FIRST)["forks"]) == ([FIRST], [SECOND])


def test_whom_a_fork_was_made_of_is_known_when_that_was_deleted_long_ago(home: Home) -> None:
    write(home.transcript(SECOND), copied(said(SECOND), SECOND, FIRST))
    refresh()
    assert relations() == [(SECOND, FIRST, "fork", 0)]
    (parent,) = about(SECOND)["parents"]
    assert parent == {"session_id": FIRST, "relation": "fork", "title": None, "is_indexed": False}


@pytest.mark.parametrize("is_said", [True, False])
def test_of_a_fork_of_a_fork_the_nearest_is_the_parent(home: Home, is_said: bool) -> None:
    one = said(FIRST)
    two = [*copied(one, SECOND, FIRST if is_said else None), *said(SECOND, 1)]
    write(home.transcript(FIRST), one)
    write(home.transcript(SECOND), two)
    write(home.transcript(THIRD), [*copied(two, THIRD, SECOND if is_said else None), *said(THIRD, 1)])
    refresh()
    assert nearest(THIRD) == (SECOND, "fork")
    others = [(THIRD, FIRST, "shared" if is_said else "fork", 2)]
    assert relations() == [(SECOND, FIRST, "fork", 2), (THIRD, SECOND, "fork", 1), *others]
    (told,) = rows("SELECT shared_responses, shared_with FROM session_usage WHERE session_id = ?", FIRST)
    assert (told["shared_responses"], sorted(json.loads(told["shared_with"]))) == (2, [SECOND, THIRD])


def test_two_forks_of_a_third_share_with_it_and_neither_goes_on_from_the_other(home: Home) -> None:
    records = said(THIRD)
    write(home.transcript(THIRD), records)
    for session in (FIRST, SECOND):
        write(home.transcript(session), copied(records, session, THIRD))
    refresh()
    assert nearest(FIRST) == nearest(SECOND) == (THIRD, "fork")
    assert nearest(THIRD) == (None, None)


def test_a_plan_is_carried_out_in_a_session_that_goes_on_from_the_one_it_was_made_in(home: Home) -> None:
    write(home.transcript(FIRST), said(FIRST))
    write(home.transcript(SECOND), [user(PLAN.format(FIRST), sessionId=SECOND), assistant(sessionId=SECOND)])
    refresh()
    assert relations() == [(SECOND, FIRST, "continued", 0)]
    assert about(FIRST)["children"] == [
        {"session_id": SECOND, "relation": "continued", "title": about(SECOND)["title"]}
    ]


def test_a_session_that_others_go_on_from_may_grow(home: Home) -> None:
    path = write(home.transcript(FIRST), said(FIRST))
    write(home.transcript(SECOND), [user(PLAN.format(FIRST), sessionId=SECOND), assistant(sessionId=SECOND)])
    write(home.transcript(THIRD), [assistant(sessionId=THIRD)])
    refresh()
    before = relations()
    append(path, said(FIRST))
    refresh()
    assert relations() == before == [(SECOND, FIRST, "continued", 0)]


def test_a_fork_that_carries_out_a_plan_of_whom_it_was_made_of_is_a_fork(home: Home) -> None:
    copy = user(PLAN.format(FIRST), sessionId=SECOND, forkedFrom={"sessionId": FIRST, "messageUuid": "gone"})
    write(home.transcript(SECOND), [copy, assistant(sessionId=SECOND)])
    refresh()
    assert relations() == [(SECOND, FIRST, "fork", 0)]


def test_a_session_that_was_compacted_goes_on_from_no_other(home: Home) -> None:
    write(home.transcript(FIRST), [*said(FIRST), user(PLAN.format(FIRST), sessionId=FIRST, isCompactSummary=True)])
    refresh()
    assert relations() == []


def test_what_is_not_an_object_says_nothing(home: Home) -> None:
    write(home.transcript(), [user(forkedFrom=FIRST), user(forkedFrom={"sessionId": 7}), user(forkedFrom={})])
    refresh()
    assert relations() == []
    assert len(rows("SELECT 1 FROM records")) == 3


def test_a_relation_goes_with_the_records_that_made_it_and_stays_with_those_that_are_gone(home: Home) -> None:
    records = said(FIRST)
    first = write(home.transcript(FIRST), records)
    second = write(home.transcript(SECOND), copied(records, SECOND))
    refresh()
    first.unlink()
    refresh()
    assert relations() == [(SECOND, FIRST, "fork", 2)]
    second.unlink()
    refresh()
    assert relations() == [(SECOND, FIRST, "fork", 2)]


def test_forgetting_all_of_a_session_takes_what_refers_to_it(home: Home, run_cm: RunCm) -> None:
    records = said(FIRST)
    write(home.transcript(FIRST), records)
    write(home.transcript(SECOND), copied(records, SECOND, FIRST))
    write(home.transcript(THIRD), [user(PLAN.format(SECOND), sessionId=THIRD)])
    refresh()
    assert run_cm("forget", FIRST, "--all", "--yes").returncode == 0
    assert relations() == [(THIRD, SECOND, "continued", 0)]
    assert run_cm("forget", SECOND, "--yes").returncode == 0
    refresh(full=True)
    assert relations() == [(THIRD, SECOND, "continued", 0)]
    (told,) = rows("SELECT shared_responses FROM session_usage WHERE session_id = ?", SECOND)
    assert told["shared_responses"] == 0


def test_a_fork_on_another_machine_is_one_when_both_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = Machines(tmp_path, monkeypatch)
    records = said(FIRST)
    write(machines.home.transcript(FIRST), records)
    machines.refresh("alpha")
    machines.use("beta")
    write(machines.home.transcript(SECOND), copied(records, SECOND, FIRST))
    machines.refresh("beta")
    machines.merge("alpha", "beta")
    machines.merge("beta", "alpha")
    for name in ("alpha", "beta"):
        machines.use(name)
        assert relations() == [(SECOND, FIRST, "fork", 2)]


def test_an_index_made_before_knows_its_forks(home: Home, db: Path) -> None:
    records = said(FIRST)
    for session in (FIRST, SECOND):
        write(home.transcript(session), copied(records, session))
    refresh()
    before = relations()
    shared = rows("SELECT session_id, shared_responses FROM session_usage ORDER BY 1")
    import sqlite_utils

    pending = schema.load_migrations().pending(sqlite_utils.Database(memory=True))
    migration = next(item for item in pending if item.name == "relate_sessions")
    with sqlite3.connect(db) as connection:
        (views,) = connection.execute("SELECT group_concat(name) FROM sqlite_schema WHERE type = 'view'").fetchone()
        for view in views.split(","):
            connection.execute(f"DROP VIEW {view}")
        connection.execute("DROP INDEX contexts_origin")
        for change in ("contexts DROP forked_from", "contexts DROP continued_from", "session_facts DROP shared_count"):
            connection.execute(f"ALTER TABLE {change}")
        connection.execute("DROP TABLE session_relations")
        connection.execute("DELETE FROM meta WHERE key = 'views'")
        migration.fn(connection)
    connection.close()
    refresh_only()
    assert relations() == before == [(SECOND, FIRST, "fork", 2)]
    assert rows("SELECT session_id, shared_responses FROM session_usage ORDER BY 1") == shared


# Shown


def test_it_is_shown_wherever_a_session_is(home: Home, db: Path, run_cm: RunCm) -> None:
    records = said(FIRST)
    write(home.transcript(FIRST), records)
    write(home.transcript(SECOND), [*copied(records, SECOND, FIRST), *said(SECOND, 1)])
    write(home.transcript(THIRD), [user(PLAN.format(SECOND), sessionId=THIRD), assistant(sessionId=THIRD)])
    refresh()
    listed = {row["session_id"]: row for row in json.loads(run_cm("sessions", "--json").stdout)}
    assert [(listed[name]["parent"], listed[name]["relation"]) for name in (FIRST, SECOND, THIRD)] == [
        (None, None), (FIRST, "fork"), (SECOND, "continued"),
    ]  # fmt: skip
    table = run_cm("sessions", env={"COLUMNS": "200"}).stdout
    (row,) = (row for row in table.splitlines() if THIRD[:8] in row)
    assert "From" in table and SECOND[:8] in row
    shown = run_cm("show", SECOND).stdout
    assert f"from     a fork of {FIRST}" in shown
    assert f"then     {THIRD}" in shown
    assert f"a fork of {FIRST}" in run_cm("show", SECOND, "--markdown").stdout
    with serving(db) as server:
        page = server.get(f"/-/cm/session/{SECOND}").text
    assert f'/-/cm/session/{FIRST}">' in page and f'/-/cm/session/{THIRD}">' in page


# In any order


@st.composite
def histories(draw: Any) -> tuple[int, list[tuple[int, bool]], list[int]]:
    """A seed, sessions that each go on from an earlier one or from none, and in how many pieces they arrive."""
    parents = [(draw(st.integers(-1, place - 1)), draw(st.booleans())) for place in range(draw(st.integers(2, 5)))]
    return draw(st.integers(0, 1000)), parents, draw(st.lists(st.integers(0, 4000), max_size=4))


def made(home: Home, parents: list[tuple[int, bool]]) -> tuple[dict[Path, bytes], set[tuple[str, str]]]:
    """Transcripts of these sessions, and which is the parent of which."""
    names = [f"{digit}e551000-0000-4000-8000-000000000009" for digit in (5, 2, 8, 1, 7)]
    kept: list[list[Record]] = []
    files, expected = {}, set()
    for place, (parent, is_said) in enumerate(parents):
        before = [] if parent < 0 else copied(kept[parent], names[place], names[parent] if is_said else None)
        kept.append([*before, *said(names[place], 1)])
        files[home.transcript(names[place])] = b"".join(map(line, kept[-1]))
        if parent >= 0 and is_said:
            expected.add((names[place], names[parent]))
    return files, expected


@settings(max_examples=25)
@given(histories())
def test_relations_do_not_depend_on_the_order_in_which_transcripts_arrive(history: Any) -> None:
    seed, parents, cuts = history
    chance = random.Random(seed)
    with another_home() as home:
        files, expected = made(home, parents)
        for path, data in sorted(files.items(), key=lambda _: chance.random()):
            path.parent.mkdir(parents=True, exist_ok=True)
            for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
                path.write_bytes(data[:cut])
                os.utime(path, (chance.randrange(10**9),) * 2)
                refresh_only()
        bit_by_bit, facts = relations(), rows("SELECT * FROM session_facts ORDER BY 1")
    with another_home() as home:
        for path, data in files.items():
            moved = home.transcript(path.stem)
            moved.parent.mkdir(parents=True, exist_ok=True)
            moved.write_bytes(data)
        refresh_only()
        assert relations() == bit_by_bit
        assert rows("SELECT * FROM session_facts ORDER BY 1") == facts
        said_so = {(session, parent) for session, parent, relation, _ in bit_by_bit if relation == "fork"}
        assert expected <= said_so
