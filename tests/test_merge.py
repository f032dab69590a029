"""Several machines' histories in one index: each response once, in whatever order and however often they meet."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders import append, assistant, tool_result, tool_use, usage, user, write
from conftest import RunCm, clean_environment
from hosts import index_of_merged
from hosts import machines as some_machines
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger import forget, health, refresh, rows
from machines import NAMES, Machines
from sqlite_utils import Database
from test_property import agree, files_of, history, put, said_by_index, said_by_reading

from indexer import config, erasure, schema
from indexer.merge import merge
from indexer.refresh import refresh as run_refresh

OTHER = "5e552000-0000-4000-8000-000000000002"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, monkeypatch)


def told(machines: Machines, name: str) -> list[tuple[Any, ...]]:
    """Host, session, output tokens of every response of a machine's index."""
    machines.use(name)
    return [tuple(row.values()) for row in rows("SELECT host, session_id, output_tokens FROM usage ORDER BY 1, 2, 3")]


def places(machines: Machines, name: str) -> list[tuple[Any, ...]]:
    machines.use(name)
    sql = "SELECT host, file, offset FROM messages ORDER BY 1, 2, 3"
    return [tuple(row.values()) for row in rows(sql)]


def test_two_machines_know_the_same_after_each_took_over_the_other(machines: Machines):
    write(machines.home.transcript(), [user(), assistant(usage=usage(output=1))])
    machines.refresh("alpha")
    machines.use("beta")
    write(machines.home.transcript(OTHER), [assistant(sessionId=OTHER, usage=usage(output=2))])
    machines.refresh("beta")
    machines.merge("alpha", "beta")
    machines.merge("beta", "alpha")
    assert [(host, output) for host, _, output in told(machines, "alpha")] == [("alpha", 1), ("beta", 2)]
    assert told(machines, "beta") == told(machines, "alpha")
    assert machines.reports("beta") == machines.reports("alpha")


def test_a_session_copied_to_another_machine_counts_once_and_belongs_to_the_same_in_every_order(machines: Machines):
    records = [user(), assistant(usage=usage(output=100))]
    for name in ("beta", "alpha"):
        machines.use(name)
        write(machines.home.transcript(), records)
        machines.refresh(name)
    machines.merge("beta", "alpha")
    machines.merge("alpha", "beta")
    for name in ("alpha", "beta"):
        assert [(host, output) for host, _, output in told(machines, name)] == [("alpha", 100)]
        copies = rows("SELECT host, duplicate_of IS NOT NULL AS is_copy FROM messages ORDER BY 1")
        assert [tuple(row.values()) for row in copies] == [("alpha", 0)] * 2 + [("beta", 1)] * 2


def test_merging_again_brings_only_what_is_new(machines: Machines):
    machines.use("beta")
    path = write(machines.home.transcript(), [user(), assistant()])
    machines.refresh("beta")
    machines.refresh("alpha")
    (first,) = machines.merge("alpha", "beta")
    assert (first["files_added"], first["records_added"], first["responses_added"]) == (1, 2, 1)
    (again,) = machines.merge("alpha", "beta")
    assert (again["files_added"], again["files_updated"], again["records_added"]) == (0, 0, 0)
    machines.use("beta")
    append(path, [assistant()])
    machines.refresh("beta")
    (grown,) = machines.merge("alpha", "beta")
    assert (grown["files_added"], grown["files_updated"], grown["records_added"]) == (0, 1, 1)
    assert len(places(machines, "alpha")) == 3


def test_a_last_line_without_its_newline_comes_once(machines: Machines):
    machines.use("beta")
    path = write(machines.home.transcript(), [user(), assistant()], newline=False)
    machines.refresh("beta")
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    append(path, [b"\n", assistant()])
    machines.refresh("beta")
    machines.merge("alpha", "beta")
    assert places(machines, "alpha") == places(machines, "beta")


def test_ones_own_files_coming_back_over_two_others_are_known(machines: Machines):
    write(machines.home.transcript(), [user(), assistant()])
    machines.refresh("alpha")
    for name in ("beta", "gamma"):
        machines.refresh(name)
    machines.merge("beta", "alpha")
    machines.merge("gamma", "beta")
    (back,) = machines.merge("alpha", "gamma")
    assert (back["files_added"], back["files_updated"]) == (0, 0)
    assert len(places(machines, "alpha")) == 2
    assert health()["hosts"] == [h for h in health()["hosts"] if h["is_this_machine"]]


@pytest.mark.parametrize("change", ["read again", "moved", "rewritten", "deleted"])
def test_what_became_of_a_file_on_its_machine_is_said_by_the_next_merge(machines: Machines, change: str):
    machines.use("beta")
    path = write(machines.home.transcript(), [user(), assistant(), assistant()])
    machines.refresh("beta")
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    machines.use("beta")
    if change == "moved":
        path.rename(path.with_name(f"{OTHER}.jsonl"))
    elif change == "rewritten":
        write(path, [assistant()])
    elif change == "deleted":
        path.unlink()
    machines.refresh("beta", full=change == "read again")
    machines.merge("alpha", "beta")
    assert places(machines, "alpha") == places(machines, "beta")
    gone = "SELECT file, offset, is_source_gone FROM messages ORDER BY 1, 2, 3"
    machines.use("alpha")
    here = rows(gone)
    machines.use("beta")
    assert rows(gone) == here
    assert machines.reports("alpha") == machines.reports("beta")


def test_an_earlier_state_of_a_machine_adds_nothing_to_a_later_one(machines: Machines):
    machines.use("beta")
    path = write(machines.home.transcript(), [user(), assistant()], newline=False)
    machines.refresh("beta")
    shutil.copy(machines.index("beta"), machines.folder / "earlier.db")
    append(path, [b"\n", assistant()])
    machines.refresh("beta", full=True)
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    before = places(machines, "alpha"), machines.reports("alpha")
    merge(str(machines.folder / "earlier.db"), str(machines.index("alpha")))
    assert (places(machines, "alpha"), machines.reports("alpha")) == before
    assert before[0] == places(machines, "beta")


def test_an_index_made_anew_gets_back_from_another_machine_what_was_deleted_since(machines: Machines):
    lost = write(machines.home.transcript(OTHER), [assistant(sessionId=OTHER)])
    kept = write(machines.home.transcript(), [user(), assistant()])
    machines.refresh("alpha")
    machines.refresh("beta")
    machines.merge("beta", "alpha")
    before = places(machines, "alpha")
    machines.index("alpha").unlink()
    lost.unlink()
    append(kept, [assistant()])
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    new = [(host, file, offset) for host, file, offset in places(machines, "alpha")]
    assert set(before) < set(new)
    assert len(new) == len(before) + 1
    # And beta, which has both states of alpha, says the same.
    machines.merge("beta", "alpha")
    assert places(machines, "beta") == new
    machines.refresh("alpha")
    assert places(machines, "alpha") == new


def test_the_files_of_another_machine_are_none_of_a_refresh_s_business(machines: Machines):
    machines.use("beta")
    write(machines.home.transcript(), [user(), assistant(), b"{oops\n"])
    machines.refresh("beta")
    machines.use("alpha")
    write(machines.home.transcript(), [assistant(sessionId="mine")])
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    sql = "SELECT * FROM files WHERE host_id <> 1"
    merged = rows(sql)
    machines.refresh("alpha", full=True)
    (machines.home.transcript()).unlink()
    machines.refresh("alpha")
    assert rows(sql) == merged
    found = health()
    assert (found["files"]["present"], found["files"]["gone"]) == (0, 1)
    assert found["coverage"]["lines_seen"] == 0
    assert [(h["host"], h["present"], h["responses"]) for h in found["hosts"]] == [("alpha", 0, 1), ("beta", 1, 1)]


def test_a_response_is_the_largest_of_what_all_machines_recorded(machines: Machines):
    call = tool_use("WebSearch")
    early = assistant(call, usage=usage(output=1), stop_reason=None)
    whole = {**early, "message": {**early["message"], "usage": usage(output=300), "stop_reason": "tool_use"}}
    write(machines.home.transcript(), [early])
    machines.refresh("alpha")
    machines.use("beta")
    write(machines.home.transcript(), [whole, tool_result(call["id"], result={"searchCount": 3})])
    machines.refresh("beta")
    machines.merge("alpha", "beta")
    (row,) = rows("SELECT host, output_tokens, web_searches, is_undercounted FROM usage")
    assert tuple(row.values()) == ("alpha", 300, 3, 0)


def test_a_machine_that_is_called_otherwise_now_is_the_same_one(machines: Machines, monkeypatch):
    machines.use("beta")
    write(machines.home.transcript(), [user(), assistant()])
    machines.refresh("beta")
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    machines.use("beta")
    monkeypatch.setenv("CM_HOST", "workstation")
    refresh()
    machines.merge("alpha", "beta")
    assert {host for host, _, _ in places(machines, "alpha")} == {"workstation"}
    assert [h["host"] for h in health()["hosts"]] == ["alpha", "workstation"]


def test_a_machine_cannot_take_the_name_of_another_in_its_index(machines: Machines, monkeypatch, run_cm: RunCm):
    machines.use("beta")
    write(machines.home.transcript(), [assistant()])
    machines.refresh("beta")
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    done = run_cm("refresh", env={"CM_HOST": "beta"})
    assert done.returncode == 1
    assert "sam@beta is another machine" in done.stderr


def test_two_machines_of_one_name_lose_nothing(machines: Machines, monkeypatch):
    for name in ("beta", "gamma"):
        machines.use(name)
        monkeypatch.setenv("CM_HOST", "localhost")
        write(machines.home.transcript(), [assistant(sessionId=name), assistant(sessionId=name)])
        refresh()
    machines.refresh("alpha")
    for _ in range(2):
        machines.merge("alpha", "beta", "gamma")
    machines.use("gamma")
    monkeypatch.setenv("CM_HOST", "localhost")
    merge(str(machines.index("beta")), str(machines.index("gamma")))
    for name in ("alpha", "gamma"):
        machines.use(name)
        (found,) = rows("SELECT count(*) AS responses, count(DISTINCT session_id) AS sessions FROM usage")
        assert found == {"responses": 4, "sessions": 2}


# What can be merged


def test_this_index_itself_what_is_none_and_what_is_not_there_are_refused_in_one_line(
    machines: Machines, tmp_path, run_cm: RunCm
):
    write(machines.home.transcript(), [assistant()])
    machines.refresh("alpha")
    (tmp_path / "link.db").symlink_to(machines.index("alpha"))
    (tmp_path / "notes.txt").write_text("no database, and longer than the head of one" * 10)
    sqlite3.connect(tmp_path / "empty.db").close()
    with sqlite3.connect(tmp_path / "foreign.db") as connection:
        connection.execute("CREATE TABLE hosts (id)")
    connection.close()
    before = places(machines, "alpha")
    for name in ("alpha.db", "link.db", "notes.txt", "empty.db", "foreign.db", "nothing.db", "."):
        done = run_cm("merge", tmp_path / name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), name
        assert name in done.stderr
    assert places(machines, "alpha") == before


def test_an_index_of_a_newer_cm_is_refused(machines: Machines, run_cm: RunCm):
    machines.refresh("alpha")
    machines.refresh("beta")
    with sqlite3.connect(machines.index("beta")) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    machines.use("alpha")
    done = run_cm("merge", machines.index("beta"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "newer cm" in done.stderr


def test_an_index_whose_first_refresh_has_not_completed_is_refused(machines: Machines, run_cm: RunCm):
    machines.refresh("alpha")
    machines.refresh("beta")
    with sqlite3.connect(machines.index("beta")) as connection:
        connection.execute("INSERT INTO meta VALUES ('is_loading', '1')")
    connection.close()
    machines.use("alpha")
    assert "has not completed" in run_cm("merge", machines.index("beta")).stderr


def _made(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Kinds and names of all that was made by statements of their own; indexes before the tables they are of."""
    sql = "SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE '%sqlite\\_%' ESCAPE '\\'"
    return set(connection.execute(sql))


def _made_first() -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        schema.load_migrations().apply(Database(connection), stop_before="order_by_record")
        return _made(connection)


@pytest.fixture
def an_older_index(machines: Machines) -> Path:
    """Beta's index as the first version of cm had made it."""
    machines.use("beta")
    write(machines.home.transcript(), [user(), assistant()])
    machines.refresh("beta")
    with sqlite3.connect(machines.index("beta")) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'").fetchall():
            connection.execute(f"DROP VIEW {name}")
        for kind, name in sorted(_made(connection) - _made_first()):
            connection.execute(f"DROP {kind} {name}")
        for column in ("files DROP COLUMN identity", "contexts DROP forked_from", "contexts DROP continued_from"):
            connection.execute(f"ALTER TABLE {column}")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name <> 'create_index'")
        connection.execute("DELETE FROM meta WHERE key = 'views'")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    return machines.index("beta")


def test_an_index_of_an_older_cm_is_migrated_in_a_copy_and_known_again_when_it_is_migrated_itself(
    machines: Machines, an_older_index: Path
):
    before = an_older_index.read_bytes()
    machines.refresh("alpha")
    (first,) = machines.merge("alpha", "beta")
    assert first["files_added"] == 1
    assert an_older_index.read_bytes() == before
    (again,) = machines.merge("alpha", "beta")
    assert again["files_added"] == 0
    machines.refresh("beta")
    (migrated,) = machines.merge("alpha", "beta")
    assert (migrated["files_added"], migrated["records_added"]) == (0, 0)
    assert list(machines.folder.glob("*merge*")) == []


def test_the_copy_that_a_killed_merge_left_is_removed(machines: Machines, an_older_index: Path):
    machines.refresh("alpha")
    dies = (
        "import os, sys; from indexer import merge; merge._merge = lambda *_: os._exit(9); merge.merge(*sys.argv[1:])"
    )
    index = machines.index("alpha")
    subprocess.run([sys.executable, "-c", dies, an_older_index, index], env=clean_environment(), check=False)
    assert list(machines.folder.glob("alpha.db.merge-*/other.db"))
    machines.merge("alpha", "beta")
    assert list(machines.folder.glob("*merge*")) == []


def test_an_index_that_is_refreshed_meanwhile_is_taken_as_it_is_at_one_moment(machines: Machines):
    machines.use("beta")
    path = write(machines.home.transcript(), [assistant()])
    machines.refresh("beta")
    reader = sqlite3.connect(machines.index("beta"))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM files").fetchone()
    append(path, [assistant()])
    machines.refresh("beta")  # what it adds stays in the -wal file, for the reader's sake
    machines.refresh("alpha")
    (done,) = machines.merge("alpha", "beta")
    reader.close()
    assert done["responses_added"] == 2


def test_an_index_in_a_folder_that_nobody_may_write_to(machines: Machines, tmp_path, run_cm: RunCm):
    machines.use("beta")
    write(machines.home.transcript(), [assistant()])
    machines.refresh("beta")
    machines.refresh("alpha")
    folder = tmp_path / "backup"
    folder.mkdir()
    shutil.copy(machines.index("beta"), folder / "beta.db")
    folder.chmod(0o500)
    try:
        done = run_cm("merge", folder / "beta.db", "--json")
    finally:
        folder.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["records_added"] == 1


def test_a_machine_without_transcripts_of_its_own_gathers_those_of_others(machines: Machines, run_cm: RunCm):
    for name in ("beta", "gamma"):
        machines.use(name)
        write(machines.home.transcript(name), [assistant(sessionId=name)])
        machines.refresh(name)
    machines.use("alpha")
    done = run_cm("merge", machines.index("beta"), machines.index("gamma"), env={"CLAUDE_CONFIG_DIR": "/nowhere"})
    assert done.returncode == 0, done.stderr
    assert "sam@beta" in done.stderr
    stats = run_cm("stats", "--json", env={"CLAUDE_CONFIG_DIR": "/nowhere"})
    assert json.loads(stats.stdout)["messages_count"] == 2
    indexes = "SELECT count(*) AS n FROM sqlite_schema WHERE type = 'index' AND name = 'responses_at'"
    assert rows(indexes) == [{"n": 1}]


def test_of_many_machines_a_few_are_named(tmp_path, run_cm: RunCm):
    team = some_machines(tmp_path, [f"host-{n}" for n in range(8)])
    for machine in team:
        write(machine.home.transcript(), [assistant()])
        machine.index()
    merged = index_of_merged(team, tmp_path / "merged.db")
    done = run_cm("stats", "--no-refresh", "--db", merged, env={"CLAUDE_CONFIG_DIR": str(team[0].home.root)})
    assert done.stderr.endswith("dev@host-4, dev@host-5, 2 more\n")


def test_what_a_third_index_forgot_still_comes_from_where_it_is(machines: Machines):
    path = write(machines.home.transcript(), [user(), assistant(), assistant(sessionId=OTHER)])
    machines.refresh("alpha")
    for name in ("beta", "gamma"):
        machines.refresh(name)
    machines.merge("beta", "alpha")
    erasure.forget(str(machines.index("beta")), [OTHER], is_all=True)
    machines.merge("gamma", "beta")
    assert len(told(machines, "gamma")) == 1
    machines.merge("gamma", "alpha", "beta")
    assert told(machines, "gamma") == told(machines, "alpha")
    machines.use("alpha")
    append(path, [assistant(sessionId=OTHER)])
    machines.refresh("alpha")
    machines.merge("beta", "alpha")
    assert len(told(machines, "beta")) == 1
    machines.merge("gamma", "beta", "alpha")
    assert places(machines, "gamma") == places(machines, "alpha")
    assert machines.reports("gamma") == machines.reports("alpha")


def test_a_damaged_copy_changes_nothing(machines: Machines, run_cm: RunCm):
    machines.use("beta")
    write(machines.home.transcript(OTHER), [assistant(sessionId=OTHER) for _ in range(500)])
    machines.refresh("beta")
    with machines.index("beta").open("r+b") as file:
        file.seek(machines.index("beta").stat().st_size // 3)
        file.write(b"\xff" * 100_000)
    machines.use("alpha")
    write(machines.home.transcript(), [assistant()])
    machines.refresh("alpha")
    before = places(machines, "alpha"), rows("SELECT * FROM hosts")
    done = run_cm("merge", machines.index("beta"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "beta.db" in done.stderr
    assert (places(machines, "alpha"), rows("SELECT * FROM hosts")) == before


def test_nothing_refers_to_what_is_not_there(machines: Machines):
    call = tool_use("Task", subagent_type="Explore")
    machines.use("beta")
    path = write(machines.home.transcript(), [user(), assistant(call), tool_result(call["id"]), b"{oops\n"])
    write(machines.home.subagent(), [assistant(isSidechain=True, agentId="a1")])
    machines.refresh("beta")
    machines.refresh("alpha")
    machines.merge("alpha", "beta")
    write(path, [user()])
    machines.refresh("beta")
    machines.merge("alpha", "beta")
    connection = sqlite3.connect(machines.index("alpha"))
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


# Any history, any order

step = st.one_of(
    st.tuples(
        st.just("write"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 9), st.sampled_from([0.4, 0.8, 1])
    ),
    st.tuples(
        st.just("write"), st.integers(0, 2), st.integers(0, 1), st.integers(0, 9), st.sampled_from([0.4, 0.8, 1])
    ),
    st.tuples(st.just("merge"), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("refresh"), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("delete"), st.integers(0, 2), st.integers(0, 9)),
)
meetings = st.permutations([(a, b) for a in range(3) for b in range(3) if a != b] * 2)


class Play:
    """Three machines whose transcripts grow and go and whose indexes meet; `ever` keeps all bytes there ever were."""

    def __init__(self, machines: Machines, pools: list[dict[str, bytes]]) -> None:
        self.machines = machines
        self.pools = pools
        self.ever = machines.folder / "ever"
        self.written: dict[tuple[str, str], tuple[int, int]] = {}
        self.deleted: set[str | tuple[str, str]] = set()

    def write(self, host: int, pool: int, which: int, share: float) -> None:
        name, paths = NAMES[host], sorted(self.pools[pool])
        path = paths[which % len(paths)]
        before, length = self.written.get((name, path), (pool, -1))
        wanted = int(share * len(self.pools[before][path])) if path in self.pools[before] else 0
        # A new file that begins like a deleted one would be taken for that one, moved.
        if wanted <= length or (name in self.deleted and length < 0) or (name, path) in self.deleted:
            return
        self.written[name, path] = (before, wanted)
        data = self.pools[before][path][:wanted]
        for root in (self.machines.folder / name / ".claude", self.ever / name / ".claude"):
            put(root, path, data)

    def delete(self, host: int, which: int) -> None:
        name = NAMES[host]
        paths = sorted(path for owner, path in self.written if owner == name)
        if paths:
            # What no refresh saw is never known.
            self.refresh(name)
            path = paths[which % len(paths)]
            self.deleted |= {name, (name, path)}
            (self.machines.folder / name / ".claude" / "projects" / path).unlink(missing_ok=True)

    def refresh(self, name: str, full: bool = False) -> None:
        self.machines.use(name)
        run_refresh(full=full)

    def run(self, kind: str, *given: Any) -> None:
        if kind == "merge":
            into, other = (NAMES[number] for number in given)
            self.refresh(other)
            self.refresh(into)
            if into != other:
                self.machines.merge(into, other)
        elif kind == "refresh":
            self.refresh(NAMES[given[0]], full=given[1])
        else:
            getattr(self, kind)(*given)

    def said(self, name: str) -> tuple[list[Any], ...]:
        """What an index says, with the paths that its hosts' files have in `ever`."""
        self.machines.use(name)
        copy = self.machines.folder / "copy.db"
        with sqlite3.connect(config.database()) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            sql = "UPDATE files SET path = replace(path, ?, ? || (SELECT name FROM hosts WHERE id = host_id) || '/')"
            target.execute(sql, (f"{self.machines.folder}/home/", f"{self.ever}/"))
        source.close()
        target.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CM_DB", str(copy))
            return said_by_index()


@contextmanager
def play(pools: list[dict[str, bytes]]) -> Iterator[Play]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        machines = Machines(Path(folder), patch)
        for name in NAMES:
            machines.use(name)
            forget()
            put(machines.folder / "ever" / name / ".claude", "-none/none.txt", b"")
        yield Play(machines, pools)


def holds(first: Any, second: Any, steps: list[Any], order: list[tuple[int, int]]) -> None:
    with play([files_of(first), files_of(second)]) as played:
        machines = played.machines
        for done in steps:
            played.run(*done)
        for name in NAMES:
            played.refresh(name)
        for into, other in order:
            machines.merge(NAMES[into], NAMES[other])
        for name in NAMES:
            machines.refresh(name)  # which compares with the transcripts
        said = [played.said(name) for name in NAMES]
        found = [machines.reports(name) for name in NAMES]
        assert said[1] == said[0] == said[2]
        assert found[1] == found[0] == found[2]
        agree(said[0], said_by_reading(played.ever))


@settings(
    max_examples=10,
    phases=[Phase.generate],  # to shrink a failure takes longer than a test may
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@given(history, history, st.lists(step, min_size=3, max_size=12), meetings)
def test_machines_agree_and_say_what_a_naive_reading_of_all_says(first, second, steps, order) -> None:
    holds(first, second, steps, order)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(max_examples=1500, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
@given(history, history, st.lists(step, min_size=3, max_size=12), meetings)
def test_machines_agree_for_long(first, second, steps, order) -> None:
    holds(first, second, steps, order)
