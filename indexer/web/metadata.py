"""What Datasette is told about the index: descriptions, orders, facets and labels of its tables, and its queries."""

from __future__ import annotations

import re
from contextlib import closing
from functools import cache

from .. import __version__, dictionary, queries, store
from ..errors import IndexUnusable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from datasette.app import Datasette

    Metadata = dict[str, Any]

# To look for facets takes ten times as long as the rest of a table's page. A view of everything takes seconds.
SETTINGS = {"suggest_facets": False, "sql_time_limit_ms": 10_000}

ABOUT = (
    "What Claude Code used, what it cost, where, and what was said. Costs are what the API would charge; a subscription"
    " is not billed this way. Begin with the views usage, messages and daily_usage, or with a query."
)

# Every order has an index behind it, or a table that stays small; so has every facet.
TABLES: dict[str, Metadata] = {
    "_sqlite_migrations": {"hidden": True},
    "agents": {"facets": ["type"]},
    "contexts": {"facets": ["version", "entrypoint"], "label_column": "cwd"},
    "files": {"facets": ["root"], "label_column": "path", "sort_desc": "mtime_ns"},
    "messages": {"size": 50},
    "prices": {"facets": ["model"], "label_column": "model", "sort": "model"},
    "projects": {"label_column": "path", "sort": "path"},
    "record_types": {"label_column": "type", "sort": "type"},
    "records": {"sort_desc": "at"},
    "refreshes": {"facets": ["command"], "sort_desc": "id"},
    "responses": {"facets": ["model_id"], "label_column": "key", "sort_desc": "at"},
    "sessions": {"facets": ["project_id"], "label_column": "title", "sort_desc": "last_at"},
    "skipped_lines": {"facets": ["reason"]},
    "tool_calls": {"facets": ["name"], "label_column": "name", "sort_desc": "started_at"},
    "daily_usage": {"sort_desc": "day"},
    "weekly_usage": {"sort_desc": "week"},
    "monthly_usage": {"sort_desc": "month"},
    "blocks": {"sort_desc": "block"},
    "project_usage": {"sort_desc": "cost_usd"},
    "model_usage": {"sort_desc": "cost_usd"},
    "tool_usage": {"sort_desc": "calls"},
}
# What a person looks for, in that order; whatever else there is, is internal.
GROUPS = {
    "What was said and done": "messages conversations changed_files relations searchable".split(),
    "What was used": "usage session_usage daily_usage weekly_usage monthly_usage hourly_usage blocks project_usage"
    " model_usage agent_usage tool_usage mcp_server_usage skill_usage plugin_usage host_usage".split(),
    "Facts": "sessions projects models hosts records responses tool_calls agents files contexts record_types prices"
    " refreshes skipped_lines forgotten".split(),
}
# What the full-text index is over, once the first search has made it.
SEARCHED, SEARCH = ("passages", "searchable"), {"fts_table": "search", "fts_pk": "id"}
# What Datasette 1.0 reads from its configuration; the rest it keeps in a database of its own.
_CONFIGURED = {"facets", "fts_pk", "fts_table", "hidden", "label_column", "size", "sort", "sort_desc"}


@cache
def of(path: str) -> Metadata:
    """The metadata of an index in Datasette's form. Raises IndexUnusable."""
    with closing(store.open_reader(path)) as connection:
        described = dictionary.read(connection)
        has_search = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'search'").fetchone() is not None
    tables: dict[str, Metadata] = {
        name: {"description": item.about, "columns": item.columns} for name, item in described.items()
    }
    for name, extra in TABLES.items():
        tables.setdefault(name, {}).update(extra)
    for name in {*described}.difference(*GROUPS.values()):
        tables[name]["hidden"] = True
    for name in SEARCHED if has_search else ():
        tables.setdefault(name, {}).update(SEARCH)
    return {"title": "cm", "description": ABOUT, "source": f"cm {__version__}", "tables": tables}


def grouped(path: str) -> dict[str, dict[str, str]]:
    """Descriptions of tables and views by group and name, those of `GROUPS` first. Raises IndexUnusable."""
    described = {name: entry["description"] for name, entry in of(path)["tables"].items() if "description" in entry}
    found = {group: {name: described.pop(name) for name in names} for group, names in GROUPS.items()}
    return {**found, "Internal": described}


@cache
def canned() -> dict[str, Metadata]:
    """The named queries in Datasette's form."""
    found = {}
    for query in queries.named().values():
        sql = "\n".join(line for line in query.sql.splitlines() if not line.startswith("--"))
        for name, default in query.parameters.items():
            sql = re.sub(rf":{name}\b", _with_default(name, default), sql)
        found[query.name] = {
            "sql": sql.strip(),
            "title": query.name,
            "description": query.description,
            "params": list(query.parameters),
        }
    return found


def _with_default(name: str, default: str) -> str:
    """A field of a form is always a text, and empty if nothing was typed."""
    if re.fullmatch(r"-?\d+", default):
        return f"CAST(coalesce(nullif(:{name}, ''), {default}) AS INTEGER)"
    quoted = default.replace("'", "''")
    return f"coalesce(nullif(:{name}, ''), '{quoted}')" if default else f"nullif(:{name}, '')"


async def install(datasette: Datasette, name: str, path: str) -> None:
    """Tells Datasette 1.0, which keeps descriptions and queries in a database; what its user configured stays."""
    try:
        found = of(path)
    except IndexUnusable:
        return  # the endpoints say so
    configured = datasette.config.setdefault("databases", {}).setdefault(name, {}).setdefault("tables", {})
    for key in ("title", "description", "source"):
        await datasette.set_database_metadata(name, key, found[key])
    for table, entry in found["tables"].items():
        own = {key: value for key, value in entry.items() if key in _CONFIGURED}
        configured[table] = own | configured.get(table, {})
        if "description" in entry:
            await datasette.set_resource_metadata(name, table, "description", entry["description"])
        for column, about in entry.get("columns", {}).items():
            await datasette.set_column_metadata(name, table, column, "description", about)
    for query, entry in canned().items():
        await datasette.add_query(
            name,
            query,
            entry["sql"],
            title=entry["title"],
            description=entry["description"],
            parameters=entry["params"],
            is_trusted=True,
        )
