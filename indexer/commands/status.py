"""`cm status`."""

from __future__ import annotations

from typing import Any

import click

from .. import config
from .. import status as library
from ..cli import index_options, json_option
from ..output import dumps, printable
from .common import open_index


@click.command()
@click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date first.")
@json_option
@index_options
def status(roots: tuple[str, ...], db: str | None, as_json: bool, refreshes: bool) -> None:
    """The index's health: what it covers, what it could not use, and what only it still knows."""
    connection = open_index(db, roots, not refreshes, "status")
    try:
        found = library.status(connection, config.database(db), config.roots(roots)[0])
    finally:
        connection.close()
    click.echo(dumps(found, indent=True) if as_json else _text(found))


def _text(found: dict[str, Any]) -> str:
    files, cover, last = found["files"], found["coverage"], found["last_refresh"]
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in cover["skipped_by_reason"].items())
    lines = [
        ("index", f"{found['database']}, {found['database_bytes'] / 1e6:,.1f} MB, schema {found['schema_version']}"),
        ("roots", ", ".join(found["roots"]) or "none found"),
        (
            "transcripts",
            f"{files['present']:,} present, {files['bytes'] / 1e6:,.1f} MB; {files['gone']:,} gone, "
            f"{files['rewritten']:,} rewritten, {files['failed']:,} unreadable",
        ),
        (
            "lines",
            f"{cover['lines_seen']:,} seen = {cover['lines_indexed']:,} indexed + {cover['lines_skipped']:,} skipped"
            f" + {cover['lines_pending']:,} pending{f' ({skipped})' if skipped else ''}",
        ),
        ("records", f"{found['records']:,}, {found['responses']:,} responses"),
        (
            "sources gone",
            f"{found['sources_gone']['responses']:,} responses, {found['sources_gone']['tokens']:,} tokens,"
            " are only in the index",
        ),
        ("undercounted", f"{found['undercounted_responses']:,} responses whose final output was never written"),
    ]
    lines += [
        ("unpriced", f"{item['model']}: {item['responses']:,} responses, {item['output_tokens']:,} output tokens")
        for item in found["unpriced"]
    ]
    lines += [("unreadable", f"{path}: {reason}") for path, reason in found["failures"].items()]
    when = f"{last['started_at']} by {last['command']}, {last['seconds']:.2f} s" if last else "never"
    lines.append(("last refresh", when))
    return "\n".join(f"{name:<13} {printable(text)}" for name, text in lines)
