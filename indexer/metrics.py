"""The ClaudeMetrics object: totals by model and by project, from the index by SQL or from the transcripts directly."""

from __future__ import annotations

from dataclasses import dataclass, field

from .store import snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence
    from typing import Any

NANO = 10**9


@dataclass
class ModelMetrics:
    """Usage of one model: tokens, USD by kind, responses. An advisor's calls count as tokens, not as messages."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_read_tokens: int = 0
    input_cost: float = 0.0
    output_cost: float = 0.0
    cache_write_cost: float = 0.0
    cache_read_cost: float = 0.0
    web_search_cost: float = 0.0
    total_cost: float = 0.0
    message_count: int = 0


@dataclass
class ProjectMetrics:
    """Usage of one project, and by model within it."""

    name: str = ""
    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_cache_creation_tokens: int = 0
    total_cache_read_tokens: int = 0
    total_cost: float = 0.0
    message_count: int = 0
    conversation_count: int = 0
    models: dict[str, ModelMetrics] = field(default_factory=dict)


@dataclass
class ClaudeMetrics:
    """Everything that was used and what it would cost at the API's prices, in USD.

    `messages_count` counts responses, `conversations_count` sessions that own one. Models are named as in the
    transcripts. What has no price is left out of the sums, and listed in `unpriced_models` with its tokens.
    `last_updated` is the newest response's time (UTC, ISO 8601), so that equal histories give equal objects.
    """

    total_input_tokens: int = 0
    total_output_tokens: int = 0
    total_cache_creation_tokens: int = 0
    total_cache_read_tokens: int = 0
    total_cost: float = 0.0
    messages_count: int = 0
    conversations_count: int = 0
    model_breakdown: dict[str, ModelMetrics] = field(default_factory=dict)
    project_breakdown: dict[str, ProjectMetrics] = field(default_factory=dict)
    last_updated: str | None = None
    unpriced_models: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The object that `cm stats --json` prints."""
        # dataclasses.asdict copies each number, which of 290 projects takes a third of the command's time.
        projects = {
            path: vars(found) | {"models": _vars(found.models)} for path, found in self.project_breakdown.items()
        }
        return vars(self) | {"model_breakdown": _vars(self.model_breakdown), "project_breakdown": projects}


def _vars(found: dict[str, ModelMetrics]) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(metrics)) for name, metrics in found.items()}


# Sums of responses of one project and model: tokens, costs in nanodollars, NULL where nothing has a price.
_SUMS = """
SELECT
  p.path, p.name, m.name,
  sum(u.input_tokens), sum(u.output_tokens), sum(u.cache_creation_tokens), sum(u.cache_read_tokens),
  sum(u.input_nano), sum(u.output_nano), sum(u.cache_write_nano), sum(u.cache_read_nano), sum(u.web_search_nano),
  sum(u.responses),
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens END)
FROM local_days AS u
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = u.model_id
GROUP BY p.id, m.id
ORDER BY p.path, m.name
"""

_CONVERSATIONS = """
SELECT p.path, count(*)
FROM sessions AS s
JOIN projects AS p ON p.id = s.project_id
WHERE s.id IN (SELECT session_id FROM usage_days)
GROUP BY p.id
"""

_NEWEST = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', max(at) / 1000.0, 'unixepoch') FROM responses"


def from_index(connection: sqlite3.Connection) -> ClaudeMetrics:
    """The metrics of the whole index."""
    with snapshot(connection):
        sums = connection.execute(_SUMS).fetchall()
        conversations = dict(connection.execute(_CONVERSATIONS).fetchall())
        (newest,) = connection.execute(_NEWEST).fetchone()
    return assemble(sums, conversations, newest)


def assemble(sums: Iterable[Sequence[Any]], conversations: dict[str, int], last_updated: str | None) -> ClaudeMetrics:
    """Builds the object from sums per project and model, in the columns of the index's query."""
    metrics = ClaudeMetrics(last_updated=last_updated, conversations_count=sum(conversations.values()))
    models: dict[str, list[int]] = {}
    projects: dict[str, list[int]] = {}
    for path, name, model, *row in sums:
        # NULL: nothing of it has a price.
        values, unpriced = [value or 0 for value in row[:-1]], row[-1]
        project = metrics.project_breakdown.setdefault(path, ProjectMetrics(name=name))
        project.conversation_count = conversations.get(path, 0)
        project.models[model] = _model(values)
        for totals, key in ((models, model), (projects, path)):
            totals[key] = [a + b for a, b in zip(totals.get(key, [0] * len(values)), values, strict=True)]
        if unpriced:
            metrics.unpriced_models[model] = metrics.unpriced_models.get(model, 0) + unpriced
    metrics.model_breakdown = {model: _model(values) for model, values in sorted(models.items())}
    metrics.unpriced_models = dict(sorted(metrics.unpriced_models.items()))
    for path, values in projects.items():
        _fill(metrics.project_breakdown[path], values)
        metrics.project_breakdown[path].message_count = values[9]
    total = [sum(column) for column in zip(*models.values(), strict=True)] or [0] * 10
    _fill(metrics, total)
    metrics.messages_count = total[9]
    return metrics


def _model(values: Sequence[int]) -> ModelMetrics:
    found = ModelMetrics(values[0], values[1], values[2], values[3], message_count=values[9])
    found.input_cost, found.output_cost = values[4] / NANO, values[5] / NANO
    found.cache_write_cost, found.cache_read_cost = values[6] / NANO, values[7] / NANO
    found.web_search_cost, found.total_cost = values[8] / NANO, sum(values[4:9]) / NANO
    return found


def _fill(target: ClaudeMetrics | ProjectMetrics, values: Sequence[int]) -> None:
    target.total_input_tokens, target.total_output_tokens = values[0], values[1]
    target.total_cache_creation_tokens, target.total_cache_read_tokens = values[2], values[3]
    target.total_cost = sum(values[4:9]) / NANO


def total_cost(connection: sqlite3.Connection) -> float | None:
    """USD of everything indexed; None where nothing has a price."""
    (nano,) = connection.execute("SELECT sum(cost_nano) FROM local_days").fetchone()
    return None if nano is None else nano / NANO
