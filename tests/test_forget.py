"""What is forgotten is in no file any more, does not come back, and leaves the numbers as they were."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import builders
import orjson
import pytest
from builders import SESSION, assistant, text, tool_result, tool_use, user
from conftest import RunCm
from test_keep import chunks, configure, restored
from test_redaction import remains, rows

from indexer import accounting, erasure, refresh, store
from indexer.merge import merge

OTHER = "5e551000-0000-4000-8000-000000000002"
SAID = "theunspeakable"
SPENT = "SELECT sum(input_tokens), sum(output_tokens), count(*) FROM responses"


@pytest.fixture(autouse=True)
def keep(environment: None) -> None:
    configure("keep = true")


def conversation(home: builders.Home, session: str = SESSION, said: str = SAID) -> Path:
    call = tool_use("Task", prompt=said, subagent_type="Explore")
    slash = tool_use("SlashCommand", command=f"/ask {said}")
    lines = [user(f"About {said}."), assistant(text(f"So {said}!"), call, slash), tool_result(call["id"], said)]
    lines.append({"type": "summary", "summary": said, "leafUuid": "x"})
    lines.append(builders.title(said, session))
    path = builders.write(home.transcript(session), [{**line, "sessionId": session} for line in lines])
    agent = home.subagent(session)
    builders.write(agent, [user(said, isSidechain=True, agentId="a1", sessionId=session), assistant(sessionId=session)])
    agent.with_name("agent-a1.meta.json").write_bytes(orjson.dumps({"agentType": "Explore", "description": said}))
    return path


def search_for(run_cm: RunCm, words: str) -> str:
    return run_cm("search", words, "--json").stdout


def test_a_forgotten_session_is_in_no_file_and_its_numbers_stay(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    conversation(home, OTHER, "harmless")
    refresh()
    assert SAID in search_for(run_cm, SAID)
    before = rows(db, SPENT)
    assert remains(db, SAID)
    done = run_cm("forget", SESSION, "--yes")
    assert done.returncode == 0, done.stderr
    assert not remains(db, SAID)
    assert rows(db, SPENT) == before
    assert remains(db, "harmless")
    assert "harmless" in search_for(run_cm, "harmless")
    assert SAID not in search_for(run_cm, SAID)
    assert str(home.transcript()) in done.stderr
    assert run_cm("verify").returncode == 0


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_what_happened_in_a_session_is_counted_without_its_text(
    home: builders.Home, db: Path, run_cm: RunCm, is_forgotten: bool
) -> None:
    links = [{"type": "pr-link", "prUrl": f"https://git.example/{n % 2}", "sessionId": SESSION} for n in range(3)]
    typed = user(f"<command-name>/ask</command-name><command-args>{SAID}</command-args>")
    lines = [user(SAID), typed, user(f"<local-command-stdout>{SAID}"), *links]
    path = builders.write(home.transcript(), lines)
    configure("")
    refresh()
    counted = "SELECT turn_count, pull_request_count FROM session_facts"
    assert rows(db, counted) == [(2, 2)]
    configure("" if is_forgotten else "text = false")
    if is_forgotten:
        assert run_cm("forget", SESSION, "--yes").returncode == 0
    refresh()
    assert rows(db, counted) == [(2, 2)]
    builders.append(path, [typed, links[1], user(SAID)])
    refresh()
    assert rows(db, counted) == [(3, 2)]
    refresh(full=True)
    assert rows(db, counted) == [(3, 2)]
    assert not remains(db, SAID) and not remains(db, "git.example")


def test_it_does_not_come_back(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    path = conversation(home)
    refresh()
    run_cm("forget", SESSION, "--yes")
    before = rows(db, SPENT)
    refresh(full=True)
    builders.append(path, [user(f"Again {SAID}"), assistant(text(SAID))])
    refresh()
    Path(str(db).replace("cm.db", "cm-archive.db")).unlink()
    refresh()
    conversation(home)
    moved = home.transcript(project="/home/dev/elsewhere")
    moved.parent.mkdir(parents=True)
    shutil.copy(path, moved)
    refresh()
    search_for(run_cm, "anything")
    assert not remains(db, SAID)
    assert rows(db, SPENT)[0][1] > before[0][1]
    assert run_cm("verify").returncode == 0


def test_all_takes_the_numbers_too_and_they_do_not_come_back(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    path = conversation(home)
    conversation(home, OTHER, "harmless")
    refresh()
    done = run_cm("forget", SESSION, "--all", "--yes", "--json")
    assert orjson.loads(done.stdout)["responses"] == 2
    assert rows(db, SPENT) == [(20, 40, 2)]
    for _ in range(2):
        refresh(full=True)
        builders.append(path, [assistant(text(SAID))])
        refresh()
    assert rows(db, SPENT) == [(20, 40, 2)]
    assert rows(db, "SELECT session_id FROM sessions") == [(OTHER,)]
    assert rows(db, "PRAGMA foreign_key_check") == []
    assert not remains(db, SAID)
    assert run_cm("verify").returncode == 0


def test_a_session_is_forgotten_whose_rewritten_transcript_was_not_settled(
    home: builders.Home, db: Path, run_cm: RunCm
) -> None:
    path = conversation(home)
    conversation(home, OTHER, "harmless")
    refresh()
    builders.write(path, [user(f"Anew: {SAID}")])
    refresh(is_stopped=lambda: True)
    assert run_cm("forget", SESSION, "--all", "--yes").returncode == 0
    done = run_cm("refresh")
    assert done.returncode == 0, done.stderr
    assert rows(db, "SELECT count(*) FROM files WHERE replaced_at IS NOT NULL OR replaces IS NOT NULL") == [(0,)]
    assert run_cm("verify").returncode == 0


def test_a_project_is_forgotten_with_all_its_sessions(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    conversation(home, OTHER)
    third = builders.write(
        home.transcript("third", "/home/dev/other"), [user("harmless", cwd="/home/dev/other", sessionId="third")]
    )
    refresh()
    assert run_cm("forget", "/home/dev/app", "--yes").returncode == 0
    assert not remains(db, SAID)
    assert remains(db, "harmless")
    assert third.exists()


def test_lines_of_a_forgotten_session_in_another_s_transcript_are_blank_in_the_archive(
    home: builders.Home, db: Path, run_cm: RunCm, tmp_path: Path
) -> None:
    path = builders.write(
        home.transcript(), [user("harmless"), user(SAID, sessionId=OTHER), assistant(), user(SAID, sessionId=OTHER)]
    )
    refresh()
    assert run_cm("forget", OTHER, "--yes").returncode == 0
    assert not remains(db, SAID)
    (back,) = restored(db, tmp_path / "out").values()
    assert len(back) == path.stat().st_size
    assert [bool(line.strip()) for line in back.splitlines()] == [True, False, True, False]
    builders.append(path, [user(SAID, sessionId=OTHER), user("harmless")])
    refresh(full=True)
    assert not remains(db, SAID)
    assert chunks(db) == [True, True]


def test_lines_of_a_fork_that_name_the_forgotten_session_stay_in_the_archive(
    home: builders.Home, db: Path, run_cm: RunCm, tmp_path: Path
) -> None:
    records = [user(SAID), assistant()]
    builders.write(home.transcript(), records)
    origin = {"forkedFrom": {"sessionId": SESSION}, "sessionId": OTHER}
    fork = builders.write(home.transcript(OTHER), [{**record, **origin} for record in records])
    refresh()
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    builders.append(fork, [user("On.", sessionId=OTHER)])
    refresh()
    (back,) = restored(db, tmp_path / "out", OTHER).values()
    assert back == fork.read_bytes()


def test_a_fork_that_holds_copies_is_named(home: builders.Home, run_cm: RunCm) -> None:
    record = user(SAID)
    builders.write(home.transcript(), [record, assistant()])
    builders.write(home.transcript(OTHER), [{**record, "sessionId": OTHER}, assistant(sessionId=OTHER)])
    refresh()
    assert OTHER in run_cm("forget", SESSION, "--dry-run").stderr


def test_a_backup_that_still_holds_it_is_named(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    copy = db.parent / "backups" / "old.db"
    copy.parent.mkdir()
    with closing(sqlite3.connect(db)) as connection, closing(sqlite3.connect(copy)) as target:
        connection.backup(target)
    done = run_cm("forget", SESSION, "--yes", "--json")
    assert orjson.loads(done.stdout)["still_in"] == [str(copy)]
    assert f"{copy} still holds it" in done.stderr


def test_nothing_is_forgotten_without_a_yes(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    assert run_cm("forget", SESSION, "--dry-run").returncode == 0
    assert run_cm("forget", SESSION, input="n\n").returncode != 0
    assert run_cm("forget", SESSION).returncode != 0
    assert run_cm("forget", "nobody", "--yes").returncode == 1
    assert remains(db, SAID)


def test_a_reader_in_the_way_is_told(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    with closing(sqlite3.connect(db, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        assert "close it and do this again" in run_cm("forget", SESSION, "--yes").stderr
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    assert not remains(db, SAID)


def test_without_text_nothing_that_was_said_is_stored(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    configure("text = false")
    conversation(home)
    refresh()
    search_for(run_cm, SAID)
    refresh(full=True)
    assert not remains(db, SAID)
    assert rows(db, SPENT)[0][2] == 2
    assert run_cm("verify").returncode == 0


def test_text_that_was_stored_goes_when_it_is_switched_off(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    configure("")
    path = conversation(home)
    refresh()
    search_for(run_cm, SAID)
    path.unlink()
    configure("text = false")
    refresh()
    assert not remains(db, SAID)
    configure("")
    conversation(home, OTHER, "harmless")
    refresh()
    assert remains(db, "harmless")
    assert not remains(db, SAID)


def test_an_archive_that_text_false_leaves_is_named(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    conversation(home)
    refresh()
    configure("text = false")
    assert "cm keep prune --older-than 0d" in run_cm("refresh").stderr
    assert run_cm("keep", "prune", "--older-than", "0d", "--yes").returncode == 0
    assert not remains(db, SAID)


def test_a_merge_does_not_bring_back_what_was_forgotten(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    path = conversation(home)
    configure('host = "laptop"')
    refresh(db=str(db.parent / "laptop" / "cm.db"))
    path.unlink()
    configure("")
    conversation(home, OTHER, "harmless")
    refresh()
    search_for(run_cm, "harmless")
    run_cm("merge", db.parent / "laptop" / "cm.db")
    before = rows(db, SPENT)
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    merged = run_cm("merge", db.parent / "laptop" / "cm.db")
    assert merged.returncode == 0, merged.stderr
    texts = [row[0] for row in rows(db, "SELECT text FROM records WHERE text IS NOT NULL")]
    assert texts and not any(SAID in text for text in texts)
    assert SAID not in search_for(run_cm, SAID)
    assert rows(db, SPENT) == before


@pytest.mark.parametrize("config", ["", "text = false", "[redact]\nsets = []\npatterns = ['theunspeakable']"])
def test_nothing_of_what_a_merge_may_not_bring_is_left_in_free_space(
    home: builders.Home, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    configure('host = "laptop"')
    path = builders.write(home.transcript(), [user(f"{'word ' * (n % 50) * 30}{SAID}") for n in range(300)])
    refresh(db=str(tmp_path / "laptop.db"))
    path.unlink()
    configure(config)
    conversation(home, OTHER, "harmless")
    refresh()
    if not config:
        erasure.forget(str(db), [SESSION])
    # As SQLite does by itself where it was not built to do otherwise.
    monkeypatch.setattr(store, "open_writer", _without_secure_delete(store.open_writer))
    assert merge(str(tmp_path / "laptop.db"), str(db))["records_added"] == 300
    assert not remains(db, SAID)


def _without_secure_delete(open_writer: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    def opened(*arguments: Any) -> sqlite3.Connection:
        connection = open_writer(*arguments)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    return opened


def test_a_file_that_is_changed_again_after_a_merge_counts_once(home: builders.Home, db: Path, run_cm: RunCm) -> None:
    configure("text = false")
    lines = [user(), assistant(tool_use("Edit", file_path="/home/dev/app/a.py"))]
    path = builders.write(home.transcript(), lines)
    refresh()
    assert run_cm("forget", SESSION, "--yes").returncode == 0
    refresh([str(builders.Home(db.parent / "laptop").root)], str(db.parent / "laptop.db"))
    assert run_cm("merge", db.parent / "laptop.db").returncode == 0
    builders.append(path, [assistant(tool_use("Edit", file_path="/home/dev/app/a.py"))])
    refresh()
    assert rows(db, "SELECT file_count FROM session_facts") == [(1,)]


def test_what_another_index_brings_is_forgotten_too(home: builders.Home, db: Path) -> None:
    conversation(home)
    refresh(db=str(db.parent / "other.db"))
    conversation(home, OTHER, "harmless")
    refresh()
    said = rows(db, "SELECT id, text FROM records WHERE text IS NOT NULL")
    before = rows(db, SPENT)
    erasure.forget(str(db), [SESSION])
    with closing(store.open_writer(str(db))) as connection:
        connection.executemany("UPDATE records SET text = ?2 WHERE id = ?1", said)
        connection.executescript(accounting.TOUCHED)
        store.transaction(connection, lambda: erasure.enforce(connection))
    texts = [row[0] for row in rows(db, "SELECT text FROM records WHERE text IS NOT NULL")]
    assert texts and not any(SAID in text for text in texts)
    assert rows(db, SPENT) == before
