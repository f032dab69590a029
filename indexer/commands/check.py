"""`cm check`."""

from __future__ import annotations

from typing import Any

import click

from .. import check as library
from .. import config, store
from ..cli import index_options, json_option
from ..output import counted, dumps, printable

# More than these of one kind are counted, not listed.
_LISTED = 20


@click.command()
@json_option
@index_options
def check(roots: tuple[str, ...], db: str | None, as_json: bool) -> int:
    """Whether the index is whole; ends with 1 if it is not, and says how to mend it. Changes nothing.

    Looks at every page and row, at what refers to what, at how far each transcript was read, whether all of its lines
    are accounted for, and who may read the index. `cm verify` compares the numbers with the transcripts.

    \b
    Example:
      cm check --json
    """
    path = config.database(db)
    connection = store.open_reader(path)
    try:
        found = library.check(connection)
    finally:
        connection.close()
    problems = sum(map(len, found.values()))
    click.echo(dumps(_object(path, found, problems), indent=True) if as_json else _text(found, problems))
    return 1 if problems else 0


def _object(path: str, found: dict[str, list[library.Problem]], problems: int) -> dict[str, Any]:
    checks = [{"check": name, "problems": [item._asdict() for item in items]} for name, items in found.items()]
    return {"database": store.display_path(path), "problem_count": problems, "checks": checks}


def _text(found: dict[str, list[library.Problem]], problems: int) -> str:
    lines = []
    for name, items in found.items():
        lines.append(f"{name:<13} {counted(len(items), 'problem') if items else 'ok'}")
        lines += [f"  {printable(item.problem)}\n    {printable(item.fix)}" for item in items[:_LISTED]]
        if len(items) > _LISTED:
            lines.append(f"  … and {len(items) - _LISTED:,} more")
    lines.append(counted(problems, "problem") if problems else "the index is whole")
    return "\n".join(lines)
