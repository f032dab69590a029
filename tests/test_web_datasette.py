"""Datasette on the index: what it says of the tables, how it orders them, and what nobody can do through it."""

from __future__ import annotations

import html
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from builders import Home, assistant, tool_use, write
from conftest import RunCm
from webserver import IS_ALPHA, Server, datasette, serving

from indexer import dictionary, queries
from indexer.web import metadata


def relations(db: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
            if not name.startswith(("sqlite_", "_")) and "_fts" not in name
        ]
        return {name: [row[1] for row in connection.execute(f"PRAGMA table_xinfo({name})")] for name in names}


def visible(text: str) -> str:
    """A page's words, as a person reads them."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def ask(server: Server, sql: str, **arguments: object):
    """A SELECT through the web, as JSON."""
    path = "/cm/-/query.json" if IS_ALPHA else "/cm.json"
    return server.get(f"{path}?{urlencode({'sql': sql, '_shape': 'objects', **arguments})}")


# What the tables are


def test_every_table_view_and_column_is_described(demo_index: Path):
    with closing(sqlite3.connect(demo_index)) as connection:
        described = dictionary.read(connection)
    missing = {
        name: sorted(set(columns) - set(described[name].columns) if name in described else columns)
        for name, columns in relations(demo_index).items()
    }
    assert {name: columns for name, columns in missing.items() if columns} == {}


def test_no_description_is_of_something_that_is_not_there(demo_index: Path):
    found = relations(demo_index)
    assert set(metadata.TABLES) - {"_sqlite_migrations"} <= set(found)
    for name, settings in metadata.TABLES.items():
        columns = {settings[key] for key in ("sort", "sort_desc", "label_column") if key in settings}
        assert columns | set(settings.get("facets", ())) <= set(found.get(name, ())), name


@pytest.mark.parametrize("name", ["sessions", "responses", "messages", "usage", "tool_usage"])
def test_a_page_says_what_its_rows_and_columns_are(web: Server, demo_index: Path, name):
    with closing(sqlite3.connect(demo_index)) as connection:
        about, columns = dictionary.read(connection)[name]
    text = visible(web.get(f"/cm/{name}?_size=1").text)
    assert about in text
    for column, description in columns.items():
        assert f"{column} {description}" in text


def test_the_list_of_tables_is_one_click_from_our_page(web: Server, demo_index: Path):
    links = re.findall(r'href="([^"]+)"', web.get("/").text)
    assert "/-/cm/tables" in links
    text = web.get("/-/cm/tables").text
    listed = re.findall(r'href="/cm/([\w-]+)"', text)
    assert set(listed) == set(relations(demo_index)) | set(queries.named())
    # What a person looks for comes first, what is derived for cm itself last, and folded.
    assert listed[0] == "messages" and listed.index("usage") < listed.index("sessions") < listed.index("responses")
    folded = text[text.index("<details") : text.index("</details>")]
    assert {"meta", "local_quarters", "response_kinds"} <= set(re.findall(r'href="/cm/([\w-]+)"', folded))
    with closing(sqlite3.connect(demo_index)) as connection:
        assert dictionary.read(connection)["messages"].about in visible(text)
    datasettes = set(re.findall(r'href="/cm/([\w-]+)"', web.get("/cm").text))
    assert {"messages", "sessions"} <= datasettes
    assert not {"_sqlite_migrations", "usage_quarters", "meta"} & datasettes


def test_the_list_of_tables_leads_to_other_databases(demo_index: Path, tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "mine.db")) as connection:
        connection.execute("CREATE TABLE mine (id)")
    with datasette(demo_index, tmp_path / "mine.db") as server:
        links = re.findall(r'href="([^"]+)"', server.get("/-/cm/tables").text)
        assert {"/cm", "/mine"} <= set(links)


@pytest.mark.parametrize("name", ["responses", "tool_calls", "records"])
def test_a_row_names_what_it_belongs_to(web: Server, demo_index: Path, name):
    text = web.get(f"/cm/{name}?_size=5").text
    with closing(sqlite3.connect(demo_index)) as connection:
        labels = {title for (title,) in connection.execute("SELECT title FROM sessions UNION SELECT cwd FROM contexts")}
    assert any(html.escape(label) in text for label in labels if label)


def test_times_are_dates_to_people_and_numbers_to_programs(web: Server):
    text = web.get("/cm/responses?_size=1").text
    assert re.search(r'<time datetime="2026-11-\d\dT[\d:]+Z" title="\d{13}">2026-11-\d\dT[\d:.]{12}Z</time>', text)
    assert isinstance(web.get("/cm/responses.json?_size=1&_shape=array").json[0]["at"], int)


def test_a_session_leads_to_its_page(web: Server):
    text = web.get("/cm/session_usage?_size=1").text
    address = re.findall(r'href="(/-/cm/session/[^"]+)"', text)[0]
    assert web.get(address).status == 200


def test_an_index_from_before_gets_the_order_of_its_tool_calls(home: Home, run_cm: RunCm, db: Path):
    write(home.transcript(), [assistant(tool_use())])
    run_cm("refresh", "--quiet")
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("DROP INDEX tool_calls_started_at")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'index_tool_calls_by_time'")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    assert run_cm("refresh", "--quiet").returncode == 0
    with closing(sqlite3.connect(db)) as connection:
        assert "tool_calls_started_at" in plan_of(
            connection, "SELECT * FROM tool_calls ORDER BY started_at DESC LIMIT 9"
        )


def test_what_was_made_for_searching_is_searched(home: Home, run_cm: RunCm, db: Path):
    write(home.transcript(), [assistant()])
    run_cm("refresh", "--quiet")
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript("""
            CREATE TABLE IF NOT EXISTS passages (id INTEGER PRIMARY KEY, record_id INTEGER, kind INTEGER, text TEXT);
            CREATE VIRTUAL TABLE search USING fts5(text);
            INSERT INTO passages (id, record_id, kind, text) SELECT 1, min(id), 0, 'one two' FROM records;
            INSERT INTO passages (id, record_id, kind, text) SELECT 2, min(id), 0, 'three' FROM records;
            INSERT INTO search (rowid, text) SELECT id, text FROM passages;
        """)
    with serving(db) as server:
        assert [row["id"] for row in server.get("/cm/passages.json?_search=two&_shape=array").json] == [1]
        assert 'name="_search"' in server.get("/cm/passages").text


@pytest.mark.parametrize(("name", "column"), [("records", "at"), ("responses", "at"), ("sessions", "last_at")])
def test_the_newest_rows_come_first(web: Server, name, column):
    found = [row[column] for row in web.get(f"/cm/{name}.json?_size=20&_shape=array").json]
    assert found == sorted(found, reverse=True) and len(set(found)) > 1


@pytest.mark.parametrize("name", ["records", "responses", "sessions", "tool_calls", "prices"])
def test_an_order_and_a_facet_have_an_index_behind_them(demo_index: Path, name):
    settings = metadata.TABLES[name]
    order = f"{settings['sort_desc']} DESC" if "sort_desc" in settings else settings["sort"]
    with closing(sqlite3.connect(demo_index)) as connection:
        plan = plan_of(connection, f"SELECT * FROM {name} ORDER BY {order}, id LIMIT 101")
        assert f"SCAN {name} USING INDEX" in plan and "USE TEMP B-TREE FOR ORDER BY" not in plan
        for facet in settings.get("facets", ()) if name != "prices" else ():
            assert "USING COVERING INDEX" in plan_of(
                connection, f"SELECT {facet}, count(*) FROM {name} GROUP BY {facet}"
            )


def plan_of(connection: sqlite3.Connection, sql: str) -> str:
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}"))


@pytest.mark.parametrize("query", ["", "?_size=7", "?type=user"])
def test_a_page_of_a_view_does_not_wait_for_its_count(web: Server, query):
    reply = web.get(f"/cm/messages{query}")
    assert reply.status == 200 and "uuid" in reply.text
    if not IS_ALPHA:  # which stops counting in time
        assert not re.search(r"\d rows", visible(reply.text))
    assert re.search(r"\d rows", visible(web.get("/cm/records?_facet=type_id").text))


def test_facets_are_shown_and_none_are_looked_for(web: Server):
    text = visible(web.get("/cm/tool_calls").text)
    assert re.search(r"Bash \d+", text)
    assert "Suggested facets" not in text and "suggested" not in web.get("/cm/tool_calls").text.lower()


# The named queries


@pytest.mark.parametrize("name", sorted(queries.named()))
def test_a_named_query_answers_without_anything_typed(web: Server, name):
    reply = web.get(f"/cm/{name}")
    assert reply.status == 200
    assert queries.named()[name].description in visible(reply.text)
    rows = web.get(f"/cm/{name}.json?_shape=array")
    assert (rows.status, type(rows.json)) == (200, list)


def test_a_named_query_takes_what_is_typed(web: Server, demo_index: Path, run_cm: RunCm):
    assert len(web.get("/cm/dearest-sessions.json?_shape=array&limit=3").json) == 3
    everything = web.get("/cm/project-months.json?_shape=array").json
    project = everything[0]["project"]
    mine = web.get(f"/cm/project-months.json?_shape=array&project={quote(project)}").json
    assert mine == [row for row in everything if row["project"] == project] != everything


@pytest.mark.parametrize("name", sorted(queries.named()))
def test_the_command_answers_the_same(web: Server, demo_index: Path, name, monkeypatch):
    import orjson

    from indexer.api import query

    monkeypatch.setenv("CM_DB", str(demo_index))
    told = query(name)
    shown = web.get(f"/cm/{name}.json?_shape=array").json
    assert orjson.loads(orjson.dumps(told[:1000])) == shown[:1000]


# What nobody can do through it


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM responses",
        "INSERT INTO meta VALUES ('a', 'b')",
        "UPDATE prices SET input = 0",
        "DROP TABLE responses",
        "CREATE TABLE mine (id)",
        "ATTACH DATABASE '/tmp/cm-attached.db' AS other",
        "VACUUM INTO '/tmp/cm-vacuumed.db'",
        "PRAGMA writable_schema = 1",
        "PRAGMA journal_mode = DELETE",
        "SELECT 1; DELETE FROM responses",
        "WITH a AS (SELECT 1) DELETE FROM responses",
        "EXPLAIN DELETE FROM responses; DELETE FROM responses",
        "SELECT load_extension('/tmp/evil')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/cm-written', 'x')",
        "SELECT edit('x', 'touch /tmp/cm-edited')",
        "SELECT fts3_tokenizer('simple', x'00')",
    ],
)
def test_sql_from_the_web_only_reads(web: Server, demo_index: Path, sql):
    before = demo_index.read_bytes()
    assert ask(web, sql).status in (400, 403)
    assert demo_index.read_bytes() == before
    assert not list(Path("/tmp").glob("cm-*ed.db")) and not list(Path("/tmp").glob("cm-*ten"))


def test_a_select_answers(web: Server):
    assert ask(web, "SELECT count(*) AS n FROM responses").json["rows"][0]["n"] > 100


def test_sql_does_not_run_for_ever(web: Server):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    start = time.monotonic()
    reply = ask(web, endless, _timelimit=300)
    assert reply.status == 400 and time.monotonic() - start < 5
    assert int(web.get("/-/settings.json").json["sql_time_limit_ms"]) <= 10_000


@pytest.mark.parametrize("sql", ["SELECT length(zeroblob(900000000))", "SELECT length(hex(zeroblob(90000000)))"])
def test_no_function_makes_a_text_that_fills_the_memory(web: Server, sql):
    assert ask(web, sql).status == 400


@pytest.mark.parametrize(
    "path", ["/cm/-/execute-write", "/cm/-/create", "/cm/meta/-/insert", "/cm/meta/-/drop", "/cm/meta/-/upsert", "/cm"]
)
def test_nothing_can_be_posted(web: Server, path):
    body = '{"sql": "DELETE FROM meta", "row": {"key": "a"}, "confirm": true}'
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert web.get(path, headers, "POST", body).status in (400, 403, 404, 405)


@pytest.mark.parametrize("path", ["/cm.db", "/cm.db?_dl_token=1"])
def test_the_file_cannot_be_fetched(web: Server, path):
    assert web.get(path).status in (403, 404)


def test_what_a_transcript_says_is_only_text(home: Home, run_cm: RunCm, db: Path):
    evil = "</td><script>alert(1)</script><img src=x onerror=alert(1)>"
    write(home.transcript(), [{"type": "ai-title", "aiTitle": evil, "sessionId": home.transcript().stem}, assistant()])
    run_cm("refresh", "--quiet")
    with serving(db) as server:
        for path in ("/cm/sessions", "/cm/records", "/cm/session_usage", "/cm/dearest-sessions", "/cm/responses"):
            text = server.get(path).text
            assert "<script>alert" not in text and "<img src=x" not in text
        assert html.escape(evil)[:30] in server.get("/cm/sessions").text


# Datasette as its user starts it


def test_datasette_shows_the_same_to_the_same(demo_index: Path):
    with datasette(demo_index) as server:
        assert server.ask("/cm.json", {"Host": "evil.example"}).status == 403
        assert server.get("/-/cm/stats.json").json["messages_count"] > 100
        assert "one row per" in visible(server.get("/cm/responses").text)
        assert server.get("/cm/dearest-sessions").status == 200
        assert server.get("/-/settings.json").json["suggest_facets"] is False
        assert "cm/static" in server.get("/").text


def test_an_index_of_another_version_is_said_to_be_one(demo_index: Path, tmp_path: Path):
    old = tmp_path / "cm.db"
    with closing(sqlite3.connect(demo_index)) as connection:
        connection.execute("VACUUM INTO ?", (str(old),))
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    with datasette(old) as server:
        assert "newer cm" in server.get("/-/cm/stats.json").json["error"]
        assert server.get("/cm/responses").status == 200
