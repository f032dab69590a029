"""The totals and the index's state in Prometheus' text format."""

from __future__ import annotations

import os

from .. import __version__, metrics, schema, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    # Labels and the number.
    Sample = tuple[dict[str, str], float]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TOKENS = ("input", "output", "cache_creation", "cache_read")
_COSTS = ("input", "output", "cache_write", "cache_read", "web_search")

_FILES = """
SELECT
  CASE WHEN replaced_at IS NOT NULL THEN 'rewritten' WHEN gone_at IS NOT NULL THEN 'gone' ELSE 'present' END AS state,
  count(*)
FROM files
GROUP BY state
"""
_LAST_REFRESH = "SELECT started_at / 1000.0, seconds FROM refreshes ORDER BY id DESC LIMIT 1"


def text(connection: sqlite3.Connection, path: str) -> str:
    """The metrics of the index that stands at the path."""
    return "".join([*_of_usage(metrics.from_index(connection)), *_of_index(connection, path)])


def _of_usage(found: metrics.ClaudeMetrics) -> Iterator[str]:
    models = [
        ({"project": path, "model": name}, model)
        for path, project in found.project_breakdown.items()
        for name, model in project.models.items()
    ]
    yield _counter(
        "cm_tokens",
        "Tokens, by kind.",
        ((labels | {"kind": kind}, getattr(model, f"{kind}_tokens")) for labels, model in models for kind in _TOKENS),
    )
    yield _counter(
        "cm_cost_usd",
        "Cost in USD at the API's prices, by kind; of what has a price.",
        (
            (labels | {"kind": kind}, getattr(model, f"{kind}_cost"))
            for labels, model in models
            for kind in _COSTS
            if model.total_cost or labels["model"] not in found.unpriced_models
        ),
    )
    yield _counter("cm_responses", "API responses.", ((labels, model.message_count) for labels, model in models))
    yield _counter(
        "cm_sessions",
        "Sessions that have a response.",
        (({"project": path}, project.conversation_count) for path, project in found.project_breakdown.items()),
    )
    yield _counter(
        "cm_unpriced_tokens",
        "Tokens that no price is known for.",
        (({"model": model}, tokens) for model, tokens in found.unpriced_models.items()),
    )


def _of_index(connection: sqlite3.Connection, path: str) -> Iterator[str]:
    lines = status.coverage(connection)
    states = ((state, lines[f"lines_{state}"]) for state in ("indexed", "skipped", "pending"))
    yield _gauge("cm_lines", "Lines of the transcripts as they are now.", (({"state": key}, n) for key, n in states))
    files = connection.execute(_FILES).fetchall()
    yield _gauge("cm_files", "Transcripts that were indexed.", (({"state": state}, count) for state, count in files))
    yield _gauge("cm_database_bytes", "Size of the index.", [({}, os.path.getsize(path))])
    for started_at, seconds in connection.execute(_LAST_REFRESH):
        yield _gauge("cm_last_refresh_timestamp_seconds", "When the last refresh began.", [({}, started_at)])
        yield _gauge("cm_last_refresh_duration_seconds", "How long the last refresh took.", [({}, seconds)])
    versions = {"version": __version__, "schema": str(schema.VERSION)}
    yield _gauge("cm_info", "What answers.", [(versions, 1)])


def _counter(name: str, about: str, samples: Iterable[Sample]) -> str:
    return _family(f"{name}_total", "counter", about, samples)


def _gauge(name: str, about: str, samples: Iterable[Sample]) -> str:
    return _family(name, "gauge", about, samples)


def _family(name: str, kind: str, about: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value}" if shown else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
