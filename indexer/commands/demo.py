"""`cm demo`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..cli import json_option, run_cli, say
from ..errors import CmError
from ..output import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What makes a directory one of ours; written last, so that half a history is not taken for a whole one.
_MARK = ".cm-demo"
_DAYS, _PROJECTS, _SESSIONS_PER_DAY, _SEED = 120, 6, 4.0, 1
_REPORTS = ("monthly", "projects", "models", "agents", "tools")


@click.command()
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path(file_okay=False))
@json_option
def demo(as_json: bool, directory: str | None) -> None:
    """Write a made-up history, months long, and show the reports on it.

    It goes to DIR, which must be new, empty or an earlier demo, else to a temporary directory; its index is in there,
    too. Nothing of yours is read or changed.
    """
    root = _place(directory)
    db = root / "cm.db"
    # A long refresh is logged: that is not to be found in the user's own log.
    os.environ["CM_LOG"] = str(root / "cm.log")
    written = None if (root / _MARK).exists() else _write(root)
    _index(root, db)
    if as_json:
        click.echo(dumps({"directory": str(root), "database": str(db), "written": written}, indent=True))
        return
    for name in _REPORTS:
        click.secho(f"\n$ cm {name}", bold=True)
        run_cli([name, "--no-refresh", "--root", str(root), "--db", str(db)])
    say(f"all of this is made up; it is in {root}, which you can delete")
    say(f"look around in it with any command: cm daily --root {root} --db {db}")


def _place(directory: str | None) -> Path:
    """Where the history goes. Raises CmError: something else is there."""
    if directory is None:
        from tempfile import mkdtemp

        return Path(mkdtemp(prefix="cm-demo-"))
    place = Path(directory).absolute()
    place.mkdir(parents=True, exist_ok=True)
    if not (place / _MARK).exists() and any(place.iterdir()):
        raise CmError(f"{place} is not empty: name a new directory, or none for a temporary one")
    return place


def _write(root: Path) -> dict[str, Any]:
    from dataclasses import asdict
    from datetime import datetime

    from ..demo import write_history

    until = datetime.now().astimezone()
    summary = write_history(
        root, until=until, days=_DAYS, projects=_PROJECTS, sessions_per_day=_SESSIONS_PER_DAY, seed=_SEED
    )
    (root / _MARK).write_text("Made up by `cm demo`; delete it when you like.\n", encoding="utf-8")
    return asdict(summary)


def _index(root: Path, db: Path) -> None:
    from ..refresh import refresh
    from .refresh import progress_bar

    refresh([str(root)], str(db), command="demo", progress=progress_bar())
