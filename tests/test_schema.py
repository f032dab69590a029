"""The shape of the index, and of the code that makes it."""

from __future__ import annotations

import ast
import re
import sqlite3
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from builders import Home, agent_progress, assistant, title, tool_result, tool_use, user, write
from sqlite_utils import Database

import indexer
from indexer import config, schema
from indexer.refresh import refresh

PACKAGE = Path(indexer.__file__).parent
TABLES = (
    "files records responses tool_calls sessions projects models prices skipped_lines refreshes contexts agents "
    "record_usage tool_uses tool_results record_types rates hosts meta zone_offsets"
).split()
TOKENS = "input_tokens output_tokens cache_creation_tokens cache_read_tokens"
TOTALS = f"{TOKENS} total_tokens cost_usd"
# What other people's queries rely on.
FIXED = {
    "messages": "uuid parent_uuid session_id type at model text file offset",
    "usage": f"response_key part session_id project agent model at {TOKENS} cache_creation_1h_tokens cost_usd"
    " is_undercounted",
    "daily_usage": f"day {TOTALS}",
    "weekly_usage": f"week {TOTALS}",
    "monthly_usage": f"month {TOTALS}",
    "hourly_usage": f"hour {TOTALS}",
    "session_usage": f"session_id {TOTALS}",
    "project_usage": f"project {TOTALS}",
    "model_usage": f"model {TOTALS}",
    "agent_usage": f"agent {TOTALS}",
    "tool_usage": "tool",
    "blocks": TOTALS,
}


@pytest.fixture
def index(home: Home) -> Iterator[sqlite3.Connection]:
    """An index with a row of every kind."""
    call = tool_use("Task", subagent_type="Explore")
    records = [title(), user(), assistant(call), tool_result(call["id"]), agent_progress(), b"{oops\n"]
    write(home.transcript(), records)
    write(home.subagent(), [assistant(isSidechain=True, agentId="a1", attributionAgent="Explore")])
    rewritten = write(home.transcript("other"), [assistant(sessionId="other"), user(sessionId="other")])
    refresh()
    write(rewritten, [user(sessionId="other")])
    refresh()
    connection = sqlite3.connect(config.database())
    yield connection
    connection.close()


def own_tables(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL")
    return {name: sql for name, sql in rows if not name.startswith(("_", "sqlite_", "cm_"))}


def test_the_tables_are_there(index):
    assert set(TABLES) <= set(own_tables(index))


def test_every_table_is_strict_and_has_a_primary_key(index):
    tables = {row[1]: row for row in index.execute("PRAGMA table_list") if row[0] == "main"}
    for name in own_tables(index):
        assert tables[name][5] == 1, f"{name} is not STRICT"
        assert any(column[5] for column in index.execute(f"PRAGMA table_info({name})")), f"{name} has no primary key"


def test_every_table_and_column_is_described_in_the_schema(index):
    for name, sql in own_tables(index).items():
        assert re.match(rf"CREATE TABLE {name} \( -- \S", sql), name
        for column in index.execute(f"PRAGMA table_xinfo({name})"):
            assert re.search(rf"^(?:  |, ){column[1]} .*-- \S", sql, re.MULTILINE), f"{name}.{column[1]}"


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_name_selects_its_columns(index, name):
    columns = FIXED[name].split()
    assert index.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()


def test_views_need_no_more_than_the_sqlite3_shell(index):
    views = [row[0] for row in index.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
    assert set(FIXED) <= set(views)
    for view in views:
        index.execute(f"SELECT * FROM {view}").fetchall()


def test_times_in_views_are_utc_iso_8601(index):
    for (at,) in index.execute("SELECT at FROM messages UNION SELECT at FROM usage"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)


def test_nothing_refers_to_what_is_not_there(index):
    assert index.execute("PRAGMA foreign_key_check").fetchall() == []
    assert index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_version_is_the_number_of_migrations(index):
    assert len(schema.load_migrations().pending(Database(memory=True))) == schema.VERSION
    assert schema.version(index) == schema.VERSION


def test_secondary_indexes_are_there_after_the_first_load(index):
    wanted = re.findall(r"CREATE (?:UNIQUE )?INDEX IF NOT EXISTS (\w+)", (PACKAGE / "schema/indexes.sql").read_text())
    found = {row[0] for row in index.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert wanted
    assert set(wanted) <= found


def test_a_view_that_was_changed_is_replaced_by_the_next_refresh(index):
    index.executescript(
        "DROP VIEW usage; CREATE VIEW usage AS SELECT 1 AS old; UPDATE meta SET value = '' WHERE key = 'views'"
    )
    refresh()
    assert index.execute("SELECT response_key FROM usage").fetchall()


# Modules


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, at its top or when it works."""
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for node in run_time_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = own[: len(own) - node.level]
            module = [*base, *node.module.split(".")] if node.module else list(base)
            for name in node.names:
                yield from (".".join(found) for found in ([*module, name.name], module) if is_module(found))


def is_module(parts: list[str]) -> bool:
    return bool(parts) and PACKAGE.joinpath(*parts).with_suffix(".py").exists()


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from (found for part in node.orelse for found in [part, *run_time_nodes(part)])
        else:
            yield node
            yield from run_time_nodes(node)


def graph() -> dict[str, set[str]]:
    modules = [path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__")]
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): set(imports(path)) for path in modules}


def test_modules_import_downwards_only():
    found = graph()
    assert "store" in found["writer"]
    assert "digest" in found["checkpoint"]
    # Raises CycleError, which names the cycle.
    order = list(TopologicalSorter(found).static_order())
    assert order.index("errors") < order.index("store") < order.index("refresh")


def test_what_reads_lines_knows_nothing_of_the_database_or_the_command_line():
    found = graph()

    def below(name: str) -> set[str]:
        return found[name].union(*(below(other) for other in found[name]))

    assert not below("parser") & {"store", "schema", "writer", "refresh", "cli", "config"}
    assert not below("refresh") & {"cli", "main", "output"}
