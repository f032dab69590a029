"""`cm query`: it answers in any format, and cannot change anything."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import Home, assistant, text, usage, user, write
from conftest import RunCm, clean_environment

from indexer import config, queries, store
from indexer.errors import BadInput
from indexer.refresh import refresh

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
VALUES = "SELECT 1 AS a, 'b|c' AS b, NULL AS c, x'00ff' AS d, 0.1 AS e, 'ä😀' AS f, '0012' AS g, 'two\nlines' AS h"


@pytest.fixture
def index(home: Home) -> Path:
    """An index with something in it."""
    write(home.transcript(), [user("Please."), assistant(usage=usage(1, 2)), b"{broken\n"])
    refresh()
    return Path(config.database())


def state(index: Path) -> tuple[Any, ...]:
    """What no query may change: the file, what is beside it, and what the next reader sees."""
    connection = store.open_reader(str(index))
    try:
        pragmas = [connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "journal_mode")]
        schema = connection.execute("SELECT sql FROM sqlite_schema ORDER BY 1").fetchall()
        rows = connection.execute("SELECT count(*), max(id) FROM records").fetchall()
    finally:
        connection.close()
    beside = sorted(path.name for path in index.parent.iterdir() if not path.name.endswith(("-wal", "-shm", ".lock")))
    return hashlib.sha256(index.read_bytes()).hexdigest(), beside, pragmas, schema, rows


REFUSED = [
    "DELETE FROM records",
    "UPDATE records SET text = 'x'",
    "INSERT INTO meta VALUES ('x', 'y')",
    "INSERT INTO meta VALUES ('x', 'y') RETURNING *",
    "REPLACE INTO meta VALUES ('x', 'y')",
    "WITH x AS (SELECT 1) INSERT INTO meta SELECT 'x', 'y' FROM x",
    "WITH x AS (SELECT 1) DELETE FROM records RETURNING id",
    "/* SELECT */ DELETE FROM records",
    "-- SELECT 1\nDELETE FROM records",
    "EXPLAIN DELETE FROM records",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x (a)",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER DELETE ON records BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE x USING fts5(a)",
    "CREATE INDEX x ON records (line)",
    "DROP TABLE records",
    "DROP VIEW usage",
    "ALTER TABLE records RENAME TO x",
    "REINDEX",
    "ANALYZE",
    "VACUUM",
    "VACUUM INTO '{folder}/copy.db'",
    "ATTACH '{folder}/other.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT x",
    "UPDATE sqlite_master SET sql = 'x'",
    "UPDATE sqlite_schema SET sql = 'x'",
    "DELETE FROM sqlite_master",
    "PRAGMA user_version=5",
    "PRAGMA user_version(5)",
    "PRAGMA main.user_version = 5",
    "PRAGMA writable_schema=1",
    "PRAGMA writable_schema=ON",
    "PRAGMA journal_mode=DELETE",
    "PRAGMA query_only=0",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA wal_checkpoint",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA foreign_keys=OFF",
    "PRAGMA schema_version=7",
    "PRAGMA application_id=7",
    "PRAGMA encoding='UTF-16'",
    "PRAGMA page_size=512",
    "PRAGMA temp_store_directory='/tmp'",
    "PRAGMA locking_mode=EXCLUSIVE",
    "PRAGMA cache_size=1",
    "SELECT load_extension('x')",
    "SELECT LOAD_EXTENSION('x', 'y')",
    "SELECT writefile('{folder}/x', 'y')",
    "SELECT readfile('/etc/passwd')",
    "SELECT fts3_tokenizer('x')",
    "SELECT 1; SELECT 2",
    "SELECT 1; DELETE FROM records",
    "DELETE FROM records; SELECT 1",
    "",
    ";",
    "-- nothing",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_more_than_reading_is_refused_and_changes_nothing(index: Path, sql):
    before = state(index)
    connection = store.open_reader(str(index))
    try:
        with pytest.raises(BadInput):
            queries.run(connection, sql.format(folder=index.parent))
        assert queries.run(connection, "SELECT 1 AS a") == (["a"], [(1,)])
    finally:
        connection.close()
    assert state(index) == before


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM records", "PRAGMA user_version=5", "VACUUM INTO '{folder}/copy.db'", "SELECT load_extension('x')"],
)
def test_cm_says_so_in_one_line_and_ends_with_1(index: Path, run_cm: RunCm, sql):
    before = state(index)
    done = run_cm("query", sql.format(folder=index.parent))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "only reading is allowed" in done.stderr
    assert state(index) == before


@pytest.mark.parametrize(
    "sql", ["SELECT", "SELECT * FROM nothing", "no-such-query", "SELECT :x", "SELECT max(", "usage"]
)
def test_what_is_wrong_is_told_in_one_line(index, run_cm: RunCm, sql):
    done = run_cm("query", sql)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("PRAGMA user_version", "user_version"),
        ("PRAGMA table_info(files)", "name"),
        ("SELECT name FROM pragma_table_info('files')", "name"),
        ("SELECT value FROM json_each('[1]')", "value"),
        ("EXPLAIN QUERY PLAN SELECT * FROM usage", "detail"),
        ("VALUES (1)", "column1"),
        ("SELECT json_extract('{\"a\":1}', '$.a') AS a", "a"),
    ],
)
def test_reading_about_the_index_is_reading(index: Path, sql, expected):
    connection = store.open_reader(str(index))
    try:
        assert expected in queries.run(connection, sql)[0]
    finally:
        connection.close()


@pytest.mark.parametrize("what", ["count(*)", "x"])
def test_a_query_that_never_ends_is_stopped(index, run_cm: RunCm, what):
    start = time.monotonic()
    done = run_cm("query", ENDLESS.format(what), "--time-limit", "0.3", "--format", "table")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "--time-limit" in done.stderr
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_rows_are_written_as_they_are_found_and_whoever_has_enough_ends_it(index, form):
    command = [sys.executable, "-m", "indexer", "query", ENDLESS.format("x"), "--format", form]
    with subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        assert done.stdout is not None and done.stderr is not None
        read = b"".join(done.stdout.readline() for _ in range(4500))
        done.stdout.close()
        assert (done.wait(), done.stderr.read()) == (0, b"")
    assert b"1000" in read


def test_the_time_in_which_rows_are_read_by_others_does_not_count(index):
    connection = store.open_reader(str(index))
    try:
        _, found = queries.stream(connection, ENDLESS.format("x"), {}, queries.Clock(0.2))
        assert next(found) == (1,)
        time.sleep(0.5)
        assert [next(found) for _ in range(2000)][-1] == (2001,)
        with pytest.raises(BadInput, match="time-limit"):
            for _ in found:
                pass
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        # In one call of a function, in which SQLite does not look at the time.
        ("SELECT instr(hex(zeroblob(30000000)), hex(zeroblob(10000000)) || '1')", "--time-limit"),
        ("SELECT length(printf('%.*c', 1000000000, 'x'))", ""),
        ("SELECT length(replace(hex(zeroblob(10000000)), '0', '12345'))", "too big"),
    ],
)
def test_one_function_takes_neither_for_ever_nor_all_memory(index, run_cm: RunCm, sql, says):
    start = time.monotonic()
    done = run_cm("query", sql, "--time-limit", "0.3")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert says in done.stderr
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("given", ["inf", "-1", "0", "soon"])
def test_a_time_limit_is_a_number_of_seconds(index, run_cm: RunCm, given):
    assert run_cm("query", "SELECT 1", "--time-limit", given).returncode == 2


# Formats


def ask(run_cm: RunCm, *arguments: object) -> str:
    done = run_cm("query", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_json_is_an_array_of_objects_and_the_default_where_there_is_no_terminal(index, run_cm: RunCm):
    expected = {"a": 1, "b": "b|c", "c": None, "d": "00ff", "e": 0.1, "f": "ä😀", "g": "0012", "h": "two\nlines"}
    for options in (["--format", "json"], ["--json"], ["-j"], []):
        assert json.loads(ask(run_cm, VALUES, *options)) == [expected]


def test_jsonl_is_one_object_a_line(index, run_cm: RunCm):
    out = ask(run_cm, f"{VALUES} UNION ALL {VALUES}", "--format", "jsonl")
    assert [json.loads(line)["h"] for line in out.splitlines()] == ["two\nlines"] * 2


@pytest.mark.parametrize(("form", "separator"), [("csv", ","), ("tsv", "\t")])
def test_csv_and_tsv_are_read_back_as_they_were(index, run_cm: RunCm, form, separator):
    out = ask(run_cm, VALUES, "--format", form)
    header, row = csv.reader(io.StringIO(out), delimiter=separator)
    assert header == list("abcdefgh")
    assert row == ["1", "b|c", "", "00ff", "0.1", "ä😀", "0012", "two\nlines"]


def test_a_table_has_a_line_a_row_and_keeps_texts_that_look_like_numbers(index, run_cm: RunCm):
    out = ask(run_cm, f"{VALUES}, '1e5' AS i", "--format", "table")
    header, _, row = out.splitlines()
    assert header.split() == list("abcdefghi")
    assert row.split() == ["1", "b|c", "00ff", "0.1", "ä😀", "0012", "two\\nlines", "1e5"]


def test_markdown_is_a_table_whose_cells_hold(index, run_cm: RunCm):
    out = ask(run_cm, VALUES, "--format", "markdown")
    header, line, row = out.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == list("abcdefgh")
    assert set(line) <= set("|:-")
    assert "b\\|c" in row
    assert "two\\nlines" in row


@pytest.mark.parametrize(
    ("form", "expected"),
    [("json", "[]"), ("jsonl", ""), ("csv", "a,b"), ("tsv", "a\tb"), ("markdown", "| a"), ("table", "a")],
)
def test_no_rows_are_no_error(index, run_cm: RunCm, form, expected):
    assert ask(run_cm, "SELECT 1 AS a, 2 AS b WHERE 0", "--format", form).strip().startswith(expected)


def test_a_format_nobody_knows_is_a_usage_error(index, run_cm: RunCm):
    assert run_cm("query", "SELECT 1", "--format", "xml").returncode == 2


CONTROLS = "\x1b]0;owned\x07 \x1b[2J \x00 \x7f \x9b31m \x85 \u202e \u2066 \u2028 \r\n\t"


@pytest.mark.parametrize("form", ["table", "markdown", "json", "jsonl"])
def test_control_characters_from_transcripts_reach_no_terminal(home: Home, run_cm: RunCm, form):
    write(home.transcript(), [user(f"a{CONTROLS}b"), assistant(text(CONTROLS), cwd=f"/p{CONTROLS}", model=CONTROLS)])
    refresh()
    out = ask(run_cm, "SELECT text, model, cwd FROM messages ORDER BY at", "--format", form)
    assert not set(out) & set(CONTROLS) - set("\n ]0;owned[2J31m")
    assert "\\u001b" in out if form.startswith("json") else "\\x1b" in out
    if form == "json":
        assert json.loads(out)[0]["text"] == f"a{CONTROLS}b"


def test_of_control_characters_a_delete_is_escaped_even_alone(index, run_cm: RunCm):
    out = ask(run_cm, "SELECT 'a' || char(127) || 'b' AS text", "--format", "json")
    assert "a\\u007fb" in out and json.loads(out) == [{"text": "a\x7fb"}]


def test_control_characters_in_names_of_columns_and_in_errors_are_shown_escaped(index, run_cm: RunCm):
    for form in ("table", "markdown", "json"):
        assert "\x1b" not in ask(run_cm, 'SELECT 1 AS "a\x1b[2Jb"', "--format", form)
    done = run_cm("query", 'SELECT * FROM "a\x1b[2Jb"')
    assert (done.returncode, "\x1b" in done.stderr) == (1, False)


def test_a_full_text_search_is_reading(tmp_path):
    path = tmp_path / "search.db"
    connection = sqlite3.connect(path)
    connection.executescript("CREATE VIRTUAL TABLE search USING fts5(text); INSERT INTO search VALUES ('one two')")
    connection.close()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        assert queries.run(connection, "SELECT text FROM search WHERE search MATCH 'two'")[1] == [("one two",)]
    finally:
        connection.close()


def test_a_number_too_large_for_sqlite_is_told(index: Path):
    connection = store.open_reader(str(index))
    try:
        with pytest.raises(BadInput, match="too large"):
            queries.run(connection, "SELECT ?", (1 << 63,))
    finally:
        connection.close()


# Parameters and named queries


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ("5", "integer", 5),
        ("-5", "integer", -5),
        ("0.5", "real", 0.5),
        ("0012", "text", "0012"),
        ("1234e56", "text", "1234e56"),
        ("1_000", "text", "1_000"),
        ("nan", "text", "nan"),
        ("infinity", "text", "infinity"),
        ("99999999999999999999", "text", "99999999999999999999"),
        ("9223372036854775807", "integer", 2**63 - 1),
        ("", "text", ""),
        ("it's", "text", "it's"),
    ],
)
def test_a_value_is_a_number_only_if_it_is_written_as_one(index, run_cm: RunCm, given, kind, expected):
    out = ask(run_cm, "SELECT :x AS x, typeof(:x) AS kind", "-p", "x", given)
    assert json.loads(out) == [{"x": expected, "kind": kind}]


def test_every_named_query_says_what_it_answers_and_runs(index, run_cm: RunCm):
    listed = json.loads(run_cm("queries", "--json").stdout)
    assert {item["name"] for item in listed} == set(queries.named())
    assert {"dearest-sessions", "skipped"} <= set(queries.named())
    connection = store.open_reader(str(index))
    try:
        for item in listed:
            assert item["description"]
            assert queries.run(connection, item["name"])[0]
            assert set(item["parameters"]) == set(queries.named()[item["name"]].parameters)
    finally:
        connection.close()


def test_a_named_query_takes_parameters_and_has_defaults(home: Home, run_cm: RunCm):
    for name in ("one", "two"):
        write(home.transcript(name), [assistant(sessionId=name)])
    refresh()
    assert len(json.loads(ask(run_cm, "dearest-sessions"))) == 2
    assert len(json.loads(ask(run_cm, "dearest-sessions", "-p", "limit", "1"))) == 1
    done = run_cm("query", "dearest-sessions", "-p", "limits", "1")
    assert (done.returncode, "limits" in done.stderr, "limit" in done.stderr) == (1, True, True)


def test_skipped_lines_can_be_found_by_file_and_offset(home: Home, index, run_cm: RunCm):
    (row,) = json.loads(ask(run_cm, "skipped"))
    data = Path(row["path"]).read_bytes()
    assert data[row["offset"] : row["offset"] + row["length"]] == b"{broken"
    assert (row["line"], row["reason"], row["is_partial"]) == (3, "broken JSON", 0)


def test_sql_can_come_from_a_pipe(index, run_cm: RunCm):
    done = run_cm("query", "-", input="SELECT count(*) AS sessions\nFROM sessions -- all")
    assert json.loads(done.stdout) == [{"sessions": 1}]


def test_what_can_be_asked_is_described(index, run_cm: RunCm):
    listed = json.loads(run_cm("describe", "--json").stdout)
    assert {("view", "usage"), ("view", "messages"), ("table", "responses")} <= {(r["type"], r["name"]) for r in listed}
    with closing(sqlite3.connect(index)) as connection:
        for row in listed:
            columns = [column["column"] for column in json.loads(run_cm("describe", row["name"], "--json").stdout)]
            assert columns == [item[1] for item in connection.execute(f"PRAGMA table_xinfo({row['name']})")], row
        assert row["about"] in run_cm("describe").stdout


def test_the_sql_of_a_named_query_can_be_shown(run_cm: RunCm):
    shown = run_cm("queries", "skipped")
    assert (shown.returncode, "SELECT" in shown.stdout) == (0, True)
    assert run_cm("queries", "nothing").returncode == 1


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("queries", "skiped"), "there is no query named skiped; did you mean skipped?"),
        (("query", "skiped"), "there is no query named skiped; did you mean skipped?"),
        (("queries", "nothing"), "there is no query named nothing; `cm queries` lists them"),
        (("dayly",), "Did you mean 'daily'?"),
        (("describe", "mesages"), "there is no table or view named mesages; did you mean messages?"),
        (("query", "SELECT 1 FROM mesages"), "no such table: mesages; `cm describe` lists tables and views"),
        (("query", "SELECT word FROM messages"), "no such column: word; `cm describe TABLE` lists them"),
    ],
)
def test_a_name_that_was_mistyped_is_told_with_what_it_may_have_meant(index, run_cm: RunCm, command, told):
    assert told in run_cm(*command).stderr


def test_the_help_shows_two_examples(run_cm: RunCm):
    done = run_cm("query", "--help")
    assert done.returncode == 0
    assert done.stdout.count("  cm query ") >= 2


def test_a_query_reads_the_index_as_it_is_unless_asked_to_refresh(home: Home, index, run_cm: RunCm):
    write(home.transcript("new"), [assistant(sessionId="new")])
    count = "SELECT count(*) AS n FROM usage"
    assert json.loads(ask(run_cm, count)) == [{"n": 1}]
    assert json.loads(ask(run_cm, count, "--refresh")) == [{"n": 2}]


def test_without_an_index_a_query_says_what_to_do(run_cm: RunCm, home: Home):
    done = run_cm("query", "SELECT 1")
    assert (done.returncode, done.stdout, "cm refresh" in done.stderr) == (1, "", True)
    assert not Path(config.database()).exists()
