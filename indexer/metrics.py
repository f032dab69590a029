"""The ClaudeMetrics object: totals by model and by project, from the index by SQL or from the transcripts directly."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

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


# Sums of responses of one project and model: tokens, costs in nanodollars, responses, tokens without a price.
_SUMS = """
SELECT
  p.path, p.name, m.name,
  sum(u.input_tokens), sum(u.output_tokens), sum(u.cache_write_tokens), sum(u.cache_read_tokens),
  ifnull(sum(u.input), 0), ifnull(sum(u.output), 0),
  ifnull(sum(u.cache_write), 0), ifnull(sum(u.cache_read), 0), ifnull(sum(u.web_search), 0),
  sum(u.responses), sum(u.unpriced_tokens)
FROM usage_projects AS u
CROSS JOIN projects AS p ON p.id = u.project_id
CROSS JOIN models AS m ON m.id = u.model_id
GROUP BY u.project_id, u.model_id
ORDER BY p.path, m.name
"""

_CONVERSATIONS = """
SELECT p.path, count(*)
FROM sessions AS s
JOIN projects AS p ON p.id = s.project_id
WHERE EXISTS (SELECT 1 FROM usage_days AS d WHERE d.session_id = s.id)
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
    """Builds the object from sums per project and model, in the columns of the index's query and its order."""
    metrics = ClaudeMetrics(last_updated=last_updated, conversations_count=sum(conversations.values()))
    of_models: dict[str, list[list[int]]] = defaultdict(list)
    unpriced: dict[str, int] = defaultdict(int)
    for (path, name), rows in groupby(sums, itemgetter(0, 1)):
        project = ProjectMetrics(name, conversation_count=conversations.get(path, 0))
        of_project = []
        for _, _, model, *values, tokens in rows:
            project.models[model] = _model(*values)
            of_models[model].append(values)
            of_project.append(values)
            unpriced[model] += tokens
        project.message_count = _fill(project, of_project)
        metrics.project_breakdown[path] = project
    totals = {model: _total(found) for model, found in sorted(of_models.items())}
    metrics.model_breakdown = {model: _model(*values) for model, values in totals.items()}
    metrics.unpriced_models = {model: tokens for model, tokens in sorted(unpriced.items()) if tokens}
    metrics.messages_count = _fill(metrics, totals.values())
    return metrics


def _total(rows: Iterable[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _model(
    input: int, output: int, write: int, read: int,
    of_input: int, of_output: int, of_write: int, of_read: int, of_searches: int, responses: int,
) -> ModelMetrics:  # fmt: skip
    total = of_input + of_output + of_write + of_read + of_searches
    return ModelMetrics(
        input, output, write, read,
        of_input / NANO, of_output / NANO, of_write / NANO, of_read / NANO, of_searches / NANO, total / NANO, responses,
    )  # fmt: skip


def _fill(target: ClaudeMetrics | ProjectMetrics, rows: Iterable[Sequence[int]]) -> int:
    """Gives it the sums of the rows; returns the responses."""
    input, output, cache_write, cache_read, *costs, responses = _total(rows) or [0] * 10
    target.total_input_tokens, target.total_output_tokens = input, output
    target.total_cache_creation_tokens, target.total_cache_read_tokens = cache_write, cache_read
    target.total_cost = sum(costs) / NANO
    return responses


def total_cost(connection: sqlite3.Connection) -> float | None:
    """USD of everything indexed; None where nothing has a price."""
    (nano,) = connection.execute(
        "SELECT sum(input + output + cache_write + cache_read + web_search) FROM usage_projects"
    ).fetchone()
    return None if nano is None else nano / NANO
