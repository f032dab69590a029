"""Taking out for good what is stored: forgotten sessions, text that is not to be kept, secrets that were found late."""

from __future__ import annotations

import glob
import os
import sqlite3
import time
from contextlib import closing
from itertools import chain

from . import accounting, archive, chunks, config, fulltext, redaction, store
from .batch import TEXT_DROPPED
from .digest import digest_text
from .privacy import kept_subject
from .session_facts import told
from .store import transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Any

    from .refresh import Progress

_FORGETTING = "CREATE TEMP TABLE forgetting (id INTEGER PRIMARY KEY)"
_RECORDS = """
SELECT r.id FROM contexts AS c JOIN records AS r ON r.context_id = c.id
WHERE c.session_id IN (SELECT id FROM temp.forgetting)
"""
_OF_RECORDS = f"record_id IN ({_RECORDS})"
_OF_SESSIONS = "session_id IN (SELECT id FROM temp.forgetting)"
_COUNTED = f"""
SELECT
  (SELECT count(*) FROM sessions WHERE id IN (SELECT id FROM temp.forgetting)) AS sessions,
  (SELECT count(*) FROM ({_RECORDS})) AS records,
  (SELECT count(*) FROM responses WHERE {_OF_SESSIONS} AND part = 0) AS responses
"""
# Forks, and sessions that were resumed elsewhere, begin with the records of the one before.
_COPIES = f"""
SELECT DISTINCT s.session_id
FROM records AS r
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
WHERE
  r.uuid IN (SELECT uuid FROM records WHERE uuid IS NOT NULL AND id IN ({_RECORDS}))
  AND r.text IS NOT NULL AND s.id NOT IN (SELECT id FROM temp.forgetting)
ORDER BY 1
"""
_DROP_TEXT = (
    f"UPDATE records SET block = coalesce(told(type_id, text), block), text = NULL, flags = flags | {TEXT_DROPPED}"
    " WHERE text IS NOT NULL"
)
_UNUSED_PROJECTS = "DELETE FROM projects WHERE id NOT IN (SELECT project_id FROM sessions WHERE project_id IS NOT NULL)"
_EMPTY_FILES = """
SELECT f.id FROM files AS f
WHERE
  (f.gone_at IS NOT NULL OR f.replaced_at IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM records WHERE id >= f.id << 40 AND id < (f.id + 1) << 40)
  -- A later generation is still to be matched with these.
  AND f.id NOT IN (SELECT replaces FROM files WHERE replaces IS NOT NULL)
"""
_KEPT = """
SELECT f.id, f.session, f.meta, ifnull(sum(c.end - c.start), 0)
FROM files AS f LEFT JOIN chunks AS c ON c.file_id = f.id
GROUP BY f.id
ORDER BY f.session
"""
# Characters and bytes after which progress is told.
_TOLD = 1_000_000
# What says something beyond numbers and names. Ids, models, tools and times are what the numbers rest on.
_TEXTS = (
    ("records", "text"),
    ("agents", "description"),
    ("tool_uses", "subject"),
    ("tool_calls", "skill"),
    ("contexts", "cwd"),
    ("contexts", "branch"),
    ("contexts", "skill"),
    ("projects", "path"),
    ("projects", "name"),
    ("passages", "text"),
)
_NAMES = {"session_id"}  # columns of `sessions` that are no text


def forget(db: str, sessions: Collection[str], is_all: bool = False, is_dry: bool = False) -> dict[str, Any]:
    """Takes the text and the records of sessions out of the index, the search and the archive; their numbers stay.

    A tombstone keeps refresh and merge from bringing them back.

    Args:
        sessions: ids, as Claude Code writes them.
        is_all: their numbers go, too.
        is_dry: only counts.

    Returns:
        `sessions, records, responses` that the index has of them, `archived` (transcripts that are kept of them),
        `also_in` (other sessions that hold copies of what was said), `still_in` (files beside the index that still
        hold it), `transcripts` (Claude Code's own, which are not touched), and `is_clean`: False where a program that
        has the index open keeps the old pages from being overwritten.

    Raises:
        Locked: a refresh is at work. IndexUnusable.
    """
    with store.Lock(db), closing(store.open_writer(db)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.executescript(accounting.TOUCHED)
        connection.execute(_FORGETTING)
        connection.executemany("INSERT INTO temp.forgetting VALUES (?)", [(digest_text(name),) for name in sessions])
        (found,) = store.fetch_dicts(connection, _COUNTED)
        found["archived"] = _archived(db, sessions)
        found["also_in"] = [row[0] for row in connection.execute(_COPIES)]
        found["still_in"] = _copies(db, sessions)
        found["transcripts"] = _transcripts(connection)
        found["is_clean"] = True
        if not is_dry:
            transaction(connection, lambda: _forget(connection, sessions, is_all))
            found["is_clean"] = _forget_archived(db, sessions) & archive.compact(connection)
    return found


def _forget(connection: sqlite3.Connection, sessions: Collection[str], is_all: bool) -> None:
    now = time.time_ns() // 10**6
    connection.executemany(
        "INSERT INTO forgotten VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET is_all = max(is_all, excluded.is_all)",
        [(digest_text(name), name, now, int(is_all)) for name in sessions],
    )
    _take_out(connection, is_all)
    _note(connection)


def _note(connection: sqlite3.Connection) -> None:
    """For who was given the records before: they are to be given as they are now."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('taken_out', ?)", (str(time.time_ns()),))


def _take_out(connection: sqlite3.Connection, is_all: bool) -> None:
    connection.execute("INSERT OR IGNORE INTO temp.touched_sessions SELECT id FROM temp.forgetting")
    _unsearch(connection)
    if is_all:
        _delete(connection)
    else:
        _blank(connection)
    accounting.derive(connection)


def _unsearch(connection: sqlite3.Connection) -> None:
    """While the text is there: FTS5 must be told what it is to forget, and keeps it in old segments until it merges."""
    if fulltext.kept(connection) is not None:
        fulltext.remove(connection, _RECORDS)
        connection.execute("INSERT INTO search (search) VALUES ('optimize')")
    connection.execute(f"DELETE FROM passages WHERE {_OF_RECORDS}")


def _blank(connection: sqlite3.Connection) -> None:
    _register_kept(connection)
    for sql in (
        f"{_DROP_TEXT} AND id IN ({_RECORDS})",
        f"UPDATE tool_uses SET subject = kept_subject(name, subject) WHERE subject IS NOT NULL AND {_OF_RECORDS}",
        f"UPDATE tool_calls SET skill = kept_subject('Skill', skill) WHERE skill IS NOT NULL AND {_OF_SESSIONS}",
        f"UPDATE agents SET description = NULL WHERE {_OF_SESSIONS}",
    ):
        connection.execute(sql)


def _register_kept(connection: sqlite3.Connection) -> None:
    connection.create_function("kept_subject", 2, kept_subject, deterministic=True)
    connection.create_function("told", 2, told, deterministic=True)


def _delete(connection: sqlite3.Connection) -> None:
    for touched, column, table in (
        ("responses", "response_id", "record_usage"),
        ("calls", "call_id", "tool_uses"),
        ("calls", "call_id", "tool_results"),
    ):
        sql = f"INSERT OR IGNORE INTO temp.touched_{touched} SELECT {column} FROM {table} WHERE {_OF_RECORDS}"
        connection.execute(sql)
    # Whoever merges this index is to take from another what is not here any more.
    connection.execute(f"UPDATE files SET offset = 0 WHERE host_id <> 1 AND id IN (SELECT id >> 40 FROM ({_RECORDS}))")
    for table in ("record_usage", "tool_uses", "tool_results"):
        connection.execute(f"DELETE FROM {table} WHERE {_OF_RECORDS}")
    connection.execute(f"DELETE FROM records WHERE id IN ({_RECORDS})")
    # Of copies in other sessions, these are now the owners.
    accounting.derive(connection)
    for sql in (
        f"DELETE FROM agents WHERE {_OF_SESSIONS}",
        f"DELETE FROM session_facts WHERE {_OF_SESSIONS}",
        f"DELETE FROM contexts WHERE {_OF_SESSIONS}",
        f"UPDATE files SET session_id = NULL WHERE {_OF_SESSIONS}",
        "DELETE FROM sessions WHERE id IN (SELECT id FROM temp.forgetting)",
        _UNUSED_PROJECTS,
        # Nothing of these is left but their names.
        f"DELETE FROM skipped_lines WHERE file_id IN ({_EMPTY_FILES})",
        f"DELETE FROM files WHERE id IN ({_EMPTY_FILES})",
    ):
        connection.execute(sql)


def _archived(db: str, sessions: Collection[str]) -> int:
    if not os.path.exists(archive.place(db)):
        return 0
    with closing(archive.open_archive(archive.place(db))) as connection:
        sql = f"SELECT count(*) FROM files WHERE id IN (SELECT file_id FROM chunks) AND session {_among(sessions)}"
        return int(connection.execute(sql, tuple(sessions)).fetchone()[0])


def _among(values: Collection[str]) -> str:
    return f"IN ({', '.join('?' * len(values))})"


def _forget_archived(db: str, sessions: Collection[str]) -> bool:
    """Takes sessions out of the archive: their transcripts whole, and their lines in those of others."""
    path = archive.place(db)
    if not os.path.exists(path):
        return True
    with closing(archive.open_archive(path, is_writer=True)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        sql = f"SELECT id FROM files WHERE session {_among(sessions)}"
        own = [row[0] for row in connection.execute(sql, tuple(sessions))]
        transaction(connection, lambda: archive.drop(connection, own, "forgotten"))
        transaction(connection, lambda: archive.rewrite(connection, lambda data: chunks.blank(data, sessions)))
        return archive.compact(connection)


def _transcripts(connection: sqlite3.Connection) -> list[str]:
    """Claude Code's own files of the sessions, where they are still there."""
    sql = f"SELECT DISTINCT path FROM files WHERE gone_at IS NULL AND replaced_at IS NULL AND {_OF_SESSIONS} ORDER BY 1"
    return [row[0] for row in connection.execute(sql) if os.path.exists(store.real_path(row[0]))]


def _copies(db: str, sessions: Collection[str]) -> list[str]:
    """Other databases beside the index, or in a folder there, that have something of the sessions.

    Backups, and copies made before a migration.
    """
    folder = glob.escape(os.path.dirname(db))
    ours = {db, archive.place(db)}
    files = {file for form in ("*", os.path.join("*", "*")) for file in glob.glob(os.path.join(folder, form))} - ours
    return [file for file in sorted(files) if os.path.isfile(file) and _holds(file, sessions)]


def _holds(file: str, sessions: Collection[str]) -> bool:
    with open(file, "rb") as opened:
        if opened.read(16) != b"SQLite format 3\0":
            return False
    among = _among(sessions)
    try:
        with closing(store.connect(file)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if "chunks" in tables:
                sql = f"SELECT 1 FROM files WHERE session {among} AND dropped IS NULL LIMIT 1"
            else:
                sql = (
                    "SELECT 1 FROM sessions AS s JOIN contexts AS c ON c.session_id = s.id"
                    f" JOIN records AS r ON r.context_id = c.id WHERE s.session_id {among} LIMIT 1"
                )
            return connection.execute(sql, tuple(sessions)).fetchone() is not None
    except sqlite3.Error:
        return False


def enforce(connection: sqlite3.Connection) -> None:
    """Takes out what rows of another index brought and must not be stored here: forgotten sessions, text, secrets.

    Within the transaction that brought them, and with the tables of `accounting.TOUCHED`.
    """
    for is_all in (False, True):
        connection.execute("DROP TABLE IF EXISTS temp.forgetting")
        connection.execute(_FORGETTING)
        sql = "INSERT INTO temp.forgetting SELECT id FROM forgotten WHERE is_all = ?"
        if connection.execute(sql, (is_all,)).rowcount:
            _take_out(connection, is_all)
    if not config.keeps_text():
        _drop_all_text(connection)
    elif patterns := config.patterns():
        _mask(connection, redaction.redactor(patterns))


# All text


def settle_text(connection: sqlite3.Connection, db: str) -> list[str]:
    """Follows the setting `text` after it changed: takes out what was stored before; says what else there is to do."""
    if config.keeps_text():
        connection.execute("DELETE FROM meta WHERE key = 'text_is_off'")
        return ["text is stored again from now on; `cm refresh --full` reads what is still there of the text before"]
    connection.execute("PRAGMA secure_delete = ON")
    connection.executescript(accounting.TOUCHED)
    transaction(connection, lambda: _drop_stored_text(connection))
    archive.compact(connection)
    if os.path.exists(archive.place(db)):
        return [f"{archive.place(db)} still has transcripts that were kept: `cm keep prune --older-than 0d` empties it"]
    return []


def _drop_stored_text(connection: sqlite3.Connection) -> None:
    _drop_all_text(connection)
    _note(connection)


def _drop_all_text(connection: sqlite3.Connection) -> None:
    _register_kept(connection)
    for sql in (
        "DROP TABLE IF EXISTS search",
        "DELETE FROM meta WHERE key = 'search'",
        "DELETE FROM passages",
        _DROP_TEXT,
        "UPDATE tool_uses SET subject = kept_subject(name, subject) WHERE subject IS NOT NULL",
        "UPDATE tool_calls SET skill = kept_subject('Skill', skill) WHERE skill IS NOT NULL",
        "UPDATE agents SET description = NULL",
        "INSERT OR IGNORE INTO temp.touched_sessions SELECT id FROM sessions",
        "INSERT OR IGNORE INTO meta VALUES ('text_is_off', '1')",
    ):
        connection.execute(sql)
    accounting.derive(connection)


# Secrets


def redact(
    db: str, patterns: tuple[str, ...], is_dry: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Masks what the patterns find in what is stored already: index, search and archive.

    `progress` hears how much of that was looked at.

    Returns:
        `findings`: where something was found, as `find`, and `is_clean`, as of `forget`.

    Raises:
        Locked: a refresh is at work. IndexUnusable.
    """
    with store.Lock(db), closing(store.open_writer(db)) as connection:
        found: dict[str, Any] = {"findings": list(find(connection, db, patterns, progress)), "is_clean": True}
        if found["findings"] and not is_dry:
            connection.execute("PRAGMA secure_delete = ON")
            connection.executescript(accounting.TOUCHED)
            redactor = redaction.redactor(patterns)
            transaction(connection, lambda: _mask(connection, redactor))
            found["is_clean"] = _mask_archive(db, redactor) & archive.compact(connection)
    return found


def _mask(connection: sqlite3.Connection, redactor: redaction.Redactor) -> None:
    _register(connection, redactor)
    is_searched = fulltext.kept(connection) is not None
    # Read again, these transcripts give the very masks that a refresh makes.
    connection.execute(
        "UPDATE files SET parser_version = 0 WHERE id IN (SELECT DISTINCT id >> 40 FROM records WHERE finds(text))"
    )
    connection.execute(
        "INSERT OR IGNORE INTO temp.touched_sessions SELECT session_id FROM contexts WHERE finds(cwd)"
        " UNION SELECT c.session_id FROM records AS r JOIN contexts AS c ON c.id = r.context_id WHERE finds(r.text)"
    )
    masked = 0
    for table, column in _columns(connection):
        sql = f"UPDATE {table} SET {column} = mask({column}) WHERE finds({column})"
        masked += connection.execute(sql).rowcount
    if masked:
        _note(connection)
    accounting.derive(connection)
    connection.execute(_UNUSED_PROJECTS)
    if is_searched:
        connection.execute("INSERT INTO search (search) VALUES ('rebuild')")
        connection.execute("INSERT INTO search (search) VALUES ('optimize')")


def _mask_archive(db: str, redactor: redaction.Redactor) -> bool:
    if not os.path.exists(archive.place(db)):
        return True
    with closing(archive.open_archive(archive.place(db), is_writer=True)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        transaction(connection, lambda: archive.rewrite(connection, redactor.mask_chunk))
        return archive.compact(connection)


def find(
    connection: sqlite3.Connection, db: str, patterns: tuple[str, ...], progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """What is stored that the patterns would keep out now: `place` (table and column, or the archive), `session` and
    `count` (rows, or transcripts). What was found is not said."""
    if not patterns:
        return
    redactor = redaction.redactor(patterns)
    look = _looking(connection, db, progress)

    def finds(text: str | None) -> bool:
        look(len(text or ""))
        return redactor.finds(text)

    connection.create_function("finds", 1, finds, deterministic=True)
    for table, column in _columns(connection):
        session = _SESSION_OF.get(table, "NULL")
        sql = f"SELECT {session}, count(*) FROM {table} AS t WHERE finds(t.{column}) GROUP BY 1 ORDER BY 1"
        for name, count in connection.execute(sql):
            yield {"place": f"{table}.{column}", "session": name, "count": count}
    if os.path.exists(archive.place(db)):
        with closing(archive.Reader(archive.place(db))) as reader:
            yield from _find_archived(reader, redactor, look)


def _looking(connection: sqlite3.Connection, db: str, progress: Progress | None) -> Callable[[int], None]:
    """What is called with the size of each text that is looked at, and tells of it from time to time."""
    if progress is None:
        return lambda size: None
    parts = (f"SELECT sum(length({column})) AS size FROM {table}" for table, column in _columns(connection))
    (total,) = connection.execute(f"SELECT ifnull(sum(size), 0) FROM ({' UNION ALL '.join(parts)})").fetchone()
    if os.path.exists(archive.place(db)):
        with closing(archive.Reader(archive.place(db))) as reader:
            total += sum(size for _, _, size in reader.connection.execute(_KEPT))
    done = 0

    def look(size: int) -> None:
        nonlocal done
        before, done = done, done + size
        if before < total and (done >= total or done // _TOLD > before // _TOLD):
            progress(min(done, total), total)

    return look


def problems(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """What was stored before it was to be masked, and what to do about it: for `cm check`."""
    (path,) = connection.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    for item in find(connection, path, config.patterns()):
        whose = f" of session {item['session']}" if item["session"] else ""
        yield f"{item['count']:,} in {item['place']}{whose} hold what is to be redacted", "run `cm redact`"
    names = _named(connection, config.patterns())
    if names:
        yield (
            f"{names[0]}: the names of {len(names):,} transcripts hold what is to be redacted, and a refresh finds them"
            " by their names",
            "rename the project's directory, or `cm forget --all` its sessions when they are gone",
        )


def _named(connection: sqlite3.Connection, patterns: tuple[str, ...]) -> list[str]:
    if not patterns:
        return []
    _register(connection, redaction.redactor(patterns))
    return [path for (path,) in connection.execute("SELECT mask(path) FROM files WHERE finds(path) ORDER BY 1")]


_SESSION_OF = {
    "records": "(SELECT s.session_id FROM contexts AS c JOIN sessions AS s ON s.id = c.session_id"
    " WHERE c.id = t.context_id)",
    "agents": "(SELECT s.session_id FROM sessions AS s WHERE s.id = t.session_id)",
    "contexts": "(SELECT s.session_id FROM sessions AS s WHERE s.id = t.session_id)",
    "tool_calls": "(SELECT s.session_id FROM sessions AS s WHERE s.id = t.session_id)",
    "sessions": "t.session_id",
}


def _find_archived(
    reader: archive.Reader, redactor: redaction.Redactor, look: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    sessions: dict[str, int] = {}
    for file_id, session, meta, size in reader.connection.execute(_KEPT).fetchall():
        about = [] if meta is None else [archive.described(meta)]
        if any(redactor.mask_chunk(data) != data for data in chain(reader.bytes_of(file_id), about)):
            sessions[session] = sessions.get(session, 0) + 1
        look(size)
    for session, count in sessions.items():
        yield {"place": "archive", "session": session, "count": count}


def _register(connection: sqlite3.Connection, redactor: redaction.Redactor) -> None:
    connection.create_function("finds", 1, redactor.finds, deterministic=True)
    connection.create_function("mask", 1, redactor.mask_text, deterministic=True)


def _columns(connection: sqlite3.Connection) -> Sequence[tuple[str, str]]:
    """Columns that hold text; of sessions all that are no id."""
    rows = connection.execute("SELECT name FROM pragma_table_info('sessions') WHERE type = 'TEXT'").fetchall()
    return [*_TEXTS, *(("sessions", name) for (name,) in rows if name not in _NAMES)]
