"""The accounting across hosts in the SQL of each engine that can be given their tables."""

from __future__ import annotations

import os
import re

from .schema import SQL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import NamedTuple

    class Dialect(NamedTuple):
        """How an engine says what is not standard: a statement, an operator, and calls.

        In a call {0} is the first argument, {1} all others, and {2} these with their names.
        """

        name: str
        create: str
        divide: str
        calls: Mapping[str, str]

else:
    from collections import namedtuple

    Dialect = namedtuple("Dialect", "name create divide calls")

DUCKDB = Dialect(
    "DuckDB",
    "CREATE OR REPLACE VIEW",
    "//",
    {
        "instant": "epoch_ms({0})",
        "day_of": "DATE '1970-01-01' + CAST({0} AS INTEGER)",
        "names_of": "list(DISTINCT {0} ORDER BY {0})",
        "earliest": "min(struct_pack({2})) FILTER (WHERE {0})",
    },
)
SPARK = Dialect(
    "Spark",
    "CREATE OR REPLACE TEMPORARY VIEW",
    "div",
    {
        "instant": "timestamp_millis({0})",
        "day_of": "date_add(DATE '1970-01-01', CAST({0} AS INT))",
        "names_of": "array_sort(collect_set({0}))",
        "earliest": "min(struct({1})) FILTER (WHERE {0})",
    },
)
POSTGRESQL = Dialect(
    "PostgreSQL",
    "CREATE VIEW",
    "/",
    {
        "instant": "'epoch'::timestamptz + {0} * interval '1 millisecond'",
        "day_of": "DATE '1970-01-01' + CAST({0} AS INTEGER)",
        "names_of": "array_agg(DISTINCT {0} ORDER BY {0})",
        "earliest": "(array_agg(CAST(ROW({1}) AS origin) ORDER BY {1}) FILTER (WHERE {0}))[1]",
    },
)

# Whole nanodollars as decimals; to multiply keeps them exact where a division might not.
_USD = "CAST(CAST({0} AS DECIMAL(20, 0)) * CAST(0.000000001 AS DECIMAL(10, 9)) AS DECIMAL(20, 9))"
# What earlier formats had besides.
FORMER = ("VIEW adviser_models",)
_CALL = re.compile(r"\b(instant|day_of|names_of|usd|earliest)\(([^()]+)\)")

# There a column cannot be a row of just any columns.
_ORIGIN = """
CREATE TYPE origin AS (
  owner_rank bigint, session_id text COLLATE "C", host text COLLATE "C", user_name text COLLATE "C",
  path text COLLATE "C", byte_offset bigint, model text COLLATE "C", agent text COLLATE "C"
);

"""
# PostgreSQL takes what is grouped and joined for a row or two, and would join millions in nested loops. A function has
# settings of its own, under which the whole is planned.
_PLANNED = """
CREATE FUNCTION planned_usage() RETURNS SETOF joined_usage LANGUAGE sql STABLE ROWS 1000000
SET enable_nestloop = off SET jit = off SET work_mem = '64MB'
AS 'SELECT * FROM cm.joined_usage';

CREATE VIEW usage AS SELECT * FROM planned_usage();
"""

_SUMS = """
  sum(input_tokens) AS input_tokens,
  sum(output_tokens) AS output_tokens,
  sum(cache_creation_tokens) AS cache_creation_tokens,
  sum(cache_read_tokens) AS cache_read_tokens,
  sum(total_tokens) AS total_tokens,
  sum(cost_usd) AS cost_usd,
  sum(responses) AS responses,
  count(DISTINCT session_id) AS sessions,
  names_of(model) AS models,
  sum(CASE WHEN cost_usd IS NULL THEN total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(is_undercounted) AS undercounted_responses
FROM usage
GROUP BY {key};
"""
# View, what one of its rows is about, and its key.
REPORTS = (
    ("daily_usage", "day in the time zone of the reference host", "day"),
    ("daily_usage_utc", "day in UTC", "day_utc"),
    ("model_usage", "model", "model"),
    ("project_usage", "project", "project"),
    ("host_usage", "host and user that own the responses", "host, user_name"),
)


def views(dialect: Dialect) -> Iterator[str]:
    """The statements that create the views, each after what is said of it; their tables must exist."""
    with open(os.path.join(SQL, "across.sql"), encoding="utf-8") as file:
        text = file.read().partition("\n\n")[2]
    if dialect is POSTGRESQL:
        text = _ORIGIN + text.replace("CREATE VIEW usage AS", "CREATE VIEW joined_usage AS") + _PLANNED
    for view, about, key in REPORTS:
        text += f"\n-- One row per {about}.\nCREATE VIEW {view} AS\nSELECT\n  {key},{_SUMS.format(key=key)}"
    calls = {**dialect.calls, "usd": _USD}
    text = _CALL.sub(lambda call: calls[call[1]].format(*_arguments(call[2])), text)
    text = text.replace(" // ", f" {dialect.divide} ").replace("CREATE VIEW", dialect.create)
    yield from (part.strip() for part in text.split(";\n") if part.strip())


def _arguments(text: str) -> tuple[str, str, str]:
    first, *others = text.split(", ")
    return first, ", ".join(others), ", ".join(f"{name} := {name}" for name in others)


def made(dialect: Dialect) -> list[str]:
    """What the statements create, in their order: `VIEW usage`, `FUNCTION planned_usage()`."""
    return [match[0] for match in re.finditer(r"(?<=^CREATE )\w+ [\w()]+", "\n".join(views(dialect)), re.MULTILINE)]
