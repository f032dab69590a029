"""`cm stats`."""

from __future__ import annotations

import click

from .. import metrics, pricing, projects
from ..cli import index_options, json_option, refresh_option
from ..output import counted, dumps, printable, render
from ..store import snapshot
from .common import open_index, tokens_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@click.command()
@refresh_option
@json_option
@index_options
def stats(roots: tuple[str, ...], db: str | None, as_json: bool, no_refresh: bool) -> None:
    """Totals of everything indexed, by model and by project.

    Costs are what the API would charge; a subscription is not billed this way.
    """
    connection = open_index(db, roots, no_refresh, "stats")
    try:
        with snapshot(connection):
            found, unpriced = metrics.from_index(connection), pricing.unpriced(connection)
            labels = {} if as_json else projects.labels(connection)
    finally:
        connection.close()
    # Not click's echo, which looks for colours to leave out: in a megabyte of JSON that takes as long as to make it.
    print(dumps(found, indent=True) if as_json else _text(found, unpriced, labels))


def _text(found: metrics.ClaudeMetrics, unpriced: list[dict[str, Any]], labels: dict[str, str]) -> str:
    models = [
        (name, model.input_tokens, model.output_tokens, model.cache_creation_tokens, model.cache_read_tokens,
         model.message_count, _cost(model.total_cost, name, found))
        for name, model in found.model_breakdown.items()
    ]  # fmt: skip
    of_projects = [
        (labels[path], project.conversation_count, project.message_count,
         project.total_output_tokens, f"${project.total_cost:,.2f}")
        for path, project in sorted(found.project_breakdown.items(), key=lambda item: -item[1].total_cost)
    ]  # fmt: skip
    total = (
        f"{counted(found.messages_count, 'response')} in {counted(found.conversations_count, 'conversation')}, "
        f"${found.total_cost:,.2f} at the API's prices (a subscription is not billed this way)"
    )
    parts = [
        total,
        render(
            ["model", "input", "output", "cache write", "cache read", "responses", "cost"], _grouped(models), "table"
        ),
        render(["project", "sessions", "responses", "output", "cost"], _grouped(of_projects), "table"),
    ]
    parts += [
        printable(f"unpriced: {tokens_of(item)}; give it a price with `cm prices set {item['model']}`")
        for item in unpriced
    ]
    return "\n\n".join(parts)


def _cost(cost: float, model: str, found: metrics.ClaudeMetrics) -> str:
    return "unpriced" if model in found.unpriced_models and not cost else f"${cost:,.2f}"


def _grouped(rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [[f"{value:,}" if isinstance(value, int) else value for value in row] for row in rows]
