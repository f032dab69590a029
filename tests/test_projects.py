"""Projects: the first directory that a session worked in, and never what its folder's name may have meant."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import ABSENT, SESSION, Home, append, assistant, line, title, user, write
from conftest import RunCm
from ledger import indexed, only, refresh, rows, stats

from indexer import rollups, schema
from indexer.accounting import project_of
from indexer.digest import digest_text

OTHER = "5e552000-0000-4000-8000-000000000002"


def project(session: str = SESSION) -> tuple[str, str]:
    """Path and name of the project of a session."""
    sql = "SELECT p.path, p.name FROM sessions AS s JOIN projects AS p ON p.id = s.project_id WHERE s.session_id = ?"
    row = only(rows(sql, session))
    return row["path"], row["name"]


@pytest.mark.parametrize(
    ("cwd", "path", "name"),
    [
        ("/home/dev/app", "/home/dev/app", "app"),
        ("/home/dev/app/", "/home/dev/app", "app"),
        ("/home/dev/data-analysis", "/home/dev/data-analysis", "data-analysis"),
        ("/home/dev/app/.claude/worktrees/feature-1", "/home/dev/app", "app"),
        ("/home/dev/app/.claude/worktrees/feature-1/src/deep", "/home/dev/app", "app"),
        ("/home/dev/app/.claude/worktrees", "/home/dev/app/.claude/worktrees", "worktrees"),
        ("/home/dev/app/worktrees/feature-1", "/home/dev/app/worktrees/feature-1", "feature-1"),
        ("/.claude/worktrees/x", "/", "/"),
        ("/home/dev/app/.worktrees/feature-1/src", "/home/dev/app", "app"),
        ("/home/dev/app/.worktrees/1/.claude/worktrees/x", "/home/dev/app", "app"),
        ("/home/dev/app/.worktrees", "/home/dev/app/.worktrees", ".worktrees"),
        ("C:\\Users\\dev\\app\\.worktrees\\1", "C:\\Users\\dev\\app", "app"),
        ("/", "/", "/"),
        ("C:\\Users\\dev\\app", "C:\\Users\\dev\\app", "app"),
        ("C:\\Users\\dev\\app\\.claude\\worktrees\\feature-1", "C:\\Users\\dev\\app", "app"),
        ("C:/Users/dev/app/.claude/worktrees/feature-1/src", "C:/Users/dev/app", "app"),
        ("/home/开发/应用", "/home/开发/应用", "应用"),
    ],
)
def test_the_project_of_a_directory(home: Home, cwd: str, path: str, name: str) -> None:
    write(home.transcript(), [assistant(cwd=cwd)])
    assert only(indexed())["project"] == path
    assert project() == (path, name)
    assert stats().project_breakdown[path].name == name


@pytest.mark.parametrize("cwd", [ABSENT, None, "", 5, ["/home/dev/app"]])
def test_without_a_directory_the_folders_name_as_it_is(home: Home, cwd: Any) -> None:
    write(home.transcript(project="/home/dev/data-analysis"), [title(), assistant(cwd=cwd)])
    assert only(indexed())["project"] == "-home-dev-data-analysis", "- could be any character"
    assert project() == ("-home-dev-data-analysis", "-home-dev-data-analysis")


def test_without_a_directory_a_subagents_project_is_its_sessions_folder(home: Home) -> None:
    write(home.subagent(workflow="w1"), [assistant(cwd=ABSENT, isSidechain=True)])
    assert only(indexed())["project"] == "-home-dev-app"


def test_a_session_that_wandered_stays_where_it_began(home: Home) -> None:
    path = write(home.transcript(), [title(), user(cwd="/w/zeta"), assistant(cwd="/w/alpha"), assistant(cwd="/w/zeta")])
    assert {row["project"] for row in indexed()} == {"/w/zeta"}
    append(path, [assistant(cwd="/a")])
    assert {row["project"] for row in indexed()} == {"/w/zeta"}


def test_of_directories_at_the_same_time_the_first_in_the_file(home: Home) -> None:
    lines = [user(cwd=f"/w/{name}", timestamp=ABSENT) for name in ("zeta", "alpha")]
    write(home.transcript(), [*lines, assistant(cwd="/w/alpha", timestamp=ABSENT)])
    assert only(indexed())["project"] == "/w/zeta"


def test_the_first_lines_without_a_directory_do_not_decide(home: Home) -> None:
    path = write(home.transcript(), [title(), user(cwd=ABSENT)])
    refresh()
    assert project() == ("-home-dev-app", "-home-dev-app")
    append(path, [assistant(cwd="/w/zeta")])
    assert only(indexed())["project"] == "/w/zeta"


def test_a_subagents_directory_does_not_decide_where_the_session_has_its_own(home: Home) -> None:
    write(home.subagent(), [assistant(cwd="/elsewhere", isSidechain=True, timestamp="2026-09-01T00:00:00.000Z")])
    assert only(indexed())["project"] == "/elsewhere", "until there is nothing better"
    write(home.transcript(), [user(cwd="/home/dev/app")])
    assert only(indexed())["project"] == "/home/dev/app"


def test_all_of_a_session_has_one_project_whatever_the_order_in_which_its_files_are_found(home: Home) -> None:
    late = assistant(cwd="/w/late", timestamp="2026-10-02T00:00:00.000Z")
    early = assistant(cwd="/w/early", timestamp="2026-10-01T00:00:00.000Z")
    write(home.transcript(project="/w/late"), [late])
    assert only(indexed())["project"] == "/w/late"
    write(home.transcript(project="/w/early"), [early])
    assert [row["project"] for row in indexed()] == ["/w/early"] * 2
    assert stats().conversations_count == 1


def test_one_folder_holds_sessions_of_several_projects(home: Home) -> None:
    write(home.transcript(SESSION, "/home/dev/data-analysis"), [assistant(cwd="/home/dev/data-analysis")])
    write(
        home.transcript(OTHER, "/home/dev/data/analysis"), [assistant(cwd="/home/dev/data/analysis", sessionId=OTHER)]
    )
    assert len(list((home.root / "projects").iterdir())) == 1
    assert {row["project"] for row in indexed()} == {"/home/dev/data-analysis", "/home/dev/data/analysis"}


def test_a_session_moved_into_a_worktree_keeps_its_project(home: Home) -> None:
    worktree = "/home/dev/app/.claude/worktrees/one"
    path = write(home.transcript(), [assistant()])
    refresh()
    moved = home.transcript(project=worktree)
    moved.parent.mkdir()
    path.rename(moved)
    append(moved, [assistant(cwd=worktree)])
    write(path, [{"type": "relocated", "relocatedCwd": worktree, "sessionId": SESSION}])
    assert [row["project"] for row in indexed()] == ["/home/dev/app"] * 2


def test_a_session_without_a_directory_that_moved_is_where_it_is_now(home: Home) -> None:
    path = write(home.transcript(), [assistant(cwd=ABSENT)])
    refresh()
    moved = home.transcript(project="/home/dev/new")
    moved.parent.mkdir()
    path.rename(moved)
    assert only(indexed())["project"] == "-home-dev-new"


def test_worktrees_count_as_the_project_they_are_of(home: Home) -> None:
    for n, cwd in enumerate(("/p", "/p/.claude/worktrees/a", "/p/.claude/worktrees/b/src")):
        write(home.transcript(f"session-{n}", cwd), [assistant(cwd=cwd, sessionId=f"session-{n}")])
    refresh()
    (found,) = stats().project_breakdown.items()
    assert (found[0], found[1].conversation_count, found[1].message_count) == ("/p", 3, 3)


def test_an_index_made_before_folds_worktrees_too(home: Home, db: Path) -> None:
    for n, cwd in enumerate(("/p", "/p/.worktrees/a", "/q/.worktrees/b/src", "/r.worktrees/c")):
        write(home.transcript(f"session-{n}", cwd), [assistant(cwd=cwd, sessionId=f"session-{n}")])
    refresh()
    wanted = rows("SELECT session_id, path, p.name FROM sessions AS s JOIN projects AS p ON p.id = project_id")
    with closing(sqlite3.connect(db)) as connection:
        for session, path in (("session-1", "/p/.worktrees/a"), ("session-2", "/q/.worktrees/b/src")):
            connection.execute("INSERT INTO projects VALUES (?, ?, 'x')", (digest_text(path), path))
            moved = (digest_text(path), session)
            connection.execute("UPDATE sessions SET project_id = ? WHERE session_id = ?", moved)
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'fold_worktrees'")
        connection.execute(f"PRAGMA user_version = {schema.VERSION - 1}")
        rollups.sum_all(connection)
        connection.commit()
    refresh()
    assert rows("SELECT session_id, path, p.name FROM sessions AS s JOIN projects AS p ON p.id = project_id") == wanted
    assert sorted(row["path"] for row in rows("SELECT path FROM projects")) == ["/p", "/q", "/r.worktrees/c"]


def test_a_folder_that_a_host_named_projects_is_a_name_like_any_other(home: Home) -> None:
    path: Path = home.root / "projects" / "projects" / f"{SESSION}.jsonl"
    path.parent.mkdir()
    path.write_bytes(line(assistant(cwd=ABSENT)))
    assert only(indexed())["project"] == "projects"


def test_a_directory_is_never_decoded_from_dashes() -> None:
    assert project_of(None, "/r/projects/-Users-chip-dev-ai-music/x.jsonl")[0] == "-Users-chip-dev-ai-music"
    assert project_of(None, "/r/projects/C--work-app/s/subagents/agent-1.jsonl")[0] == "C--work-app"


def test_each_project_is_shown_by_a_name_of_its_own_by_which_it_can_be_asked_for(home: Home, run_cm: RunCm) -> None:
    paths = ["/home/a/work/cli", "/home/b/work/cli", "/srv/cli", "/srv/app"]
    for n, path in enumerate(paths):
        write(home.transcript(f"s{n}"), [assistant(sessionId=f"s{n}", cwd=path)])
    shown = ["a/work/cli", "b/work/cli", "srv/cli", "app"]
    refresh()
    for command in ("projects", "stats"):
        first = [line.split()[0] for line in run_cm(command, env={"COLUMNS": "150"}).stdout.splitlines() if line]
        assert set(shown) <= set(first), command
    for label, path in zip(shown, paths, strict=True):
        found = json.loads(run_cm("projects", "--project", label, "--json").stdout)
        assert [row["project"] for row in found] == [path]
    assert len(json.loads(run_cm("projects", "--project", "cli", "--json").stdout)) == 3
    # It is called the same, whatever else is shown.
    assert "srv/cli" in run_cm("projects", "--project", "srv/cli").stdout


def test_what_is_left_out_is_counted_as_what_it_is(home: Home, run_cm: RunCm) -> None:
    for n, path in enumerate(["/srv/a", "/srv/b"]):
        days = [f"2026-05-{day:02}T12:00:00.000Z" for day in range(1, 5)]
        write(home.transcript(f"s{n}"), [assistant(sessionId=f"s{n}", cwd=path, timestamp=at) for at in days])
    assert "2 older days are not shown" in run_cm("daily", "--limit", "2").stdout
    assert "6 older rows are not shown" in run_cm("daily", "--instances", "--limit", "2").stdout
    # What lies between blocks is none.
    assert "2 older blocks are not shown" in run_cm("blocks", "--limit", "2").stdout
    assert len([row for row in json.loads(run_cm("blocks", "--json", "--limit", "2").stdout) if row["responses"]]) == 2
