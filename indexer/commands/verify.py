"""`cm verify`."""

from __future__ import annotations

import click

from .. import verify as library
from ..cli import index_options, json_option
from ..output import counted, dumps, printable
from .common import open_index


@click.command()
@json_option
@index_options
def verify(roots: tuple[str, ...], db: str | None, as_json: bool) -> int:
    """Read every transcript again without the index, and compare record by record and number by number."""
    connection = open_index(db, roots, False, "verify")
    try:
        found = library.verify(connection)
    finally:
        connection.close()
    click.echo(dumps(found.to_dict(), indent=True) if as_json else _text(found))
    return 1 if found.difference_count else 0


def _text(found: library.Report) -> str:
    lines = [printable(text) for text in found.differences]
    if found.difference_count > len(lines):
        lines.append(f"… and {found.difference_count - len(lines):,} more")
    verdict = counted(found.difference_count, "difference") if found.difference_count else "no difference"
    lines.append(
        f"{counted(found.files, 'transcript')}, {counted(found.records, 'record')},"
        f" {counted(found.responses, 'response')} compared: {verdict}"
    )
    kept = found.kept
    if kept["sources"]:
        lines.append(
            f"only in the index: {counted(kept['responses'], 'response')}, {counted(kept['tokens'], 'token')},"
            f" {counted(kept['records'], 'record')} of {counted(kept['sources'], 'transcript')} gone, rewritten or"
            " merged"
        )
    return "\n".join(lines)
