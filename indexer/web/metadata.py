"""What Datasette is told about the index: how it is described, sorted, faceted and labelled, and which queries it has."""

from __future__ import annotations

# To look for facets takes ten times as long as the rest of a table's page.
SETTINGS = {"suggest_facets": False, "sql_time_limit_ms": 5000}
