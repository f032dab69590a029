"""`cm report`."""

from __future__ import annotations

import os
import sqlite3

import click

from .. import completion, config
from ..cli import index_options, refresh_option, say, timezone_option
from ..errors import CmError, MissingLibrary
from ..store import explain
from .common import open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@click.command()
@click.option("--html", "file", required=True, metavar="FILE", type=click.Path(dir_okay=False), help="Write it there.")
@click.option(
    "-s",
    "--since",
    metavar="DAY",
    help="First day; else the last 30 days, or the last with use. `all` is everything.",
)
@click.option("-u", "--until", metavar="DAY", help="Last day.")
@click.option(
    "-p",
    "--project",
    "projects",
    multiple=True,
    metavar="TEXT",
    shell_complete=completion.projects,
    help="Only that project; may be repeated.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="TEXT",
    shell_complete=completion.models,
    help="Only that model, else those with that in their name; may be repeated.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="TEXT",
    shell_complete=completion.hosts,
    help="Only that machine of a merged index: its name, its user, user@host, or a part of it.",
)
@timezone_option
@click.option("--no-text", is_flag=True, help="Leave out the titles of sessions: they are prompts, or made from them.")
@click.option("--no-paths", is_flag=True, help="Name projects by the last part of their paths.")
@refresh_option
@index_options
def report(
    roots: tuple[str, ...],
    db: str | None,
    no_refresh: bool,
    file: str,
    since: str | None,
    until: str | None,
    projects: tuple[str, ...],
    models: tuple[str, ...],
    hosts: tuple[str, ...],
    timezone: str | None,
    no_text: bool,
    no_paths: bool,
) -> None:
    """Write the web page as one file, to keep or to send.

    It has its numbers, its charts and their scripts in it, and loads nothing from anywhere. Example:

      cm report --html november.html --since this-month --no-text --no-paths
    """
    html = _library()
    from ..web.dashboard import Wanted

    wanted = Wanted(since, until, projects, models, timezone, hosts)
    connection = open_index(db, roots, no_refresh, "report")
    try:
        _write(file, html(connection, wanted, has_text=not no_text, has_paths=not no_paths))
    except sqlite3.Error as error:
        raise explain(config.database(db), error) from error
    finally:
        connection.close()
    if file != "-":
        say(f"wrote {file} ({os.path.getsize(file) / 1000:,.0f} kB)")


def _library() -> Callable[..., str]:
    """What makes the page. Raises CmError: Datasette, whose template engine it uses, is not installed."""
    try:
        import jinja2  # noqa: F401 the extra has it
    except ImportError as error:
        raise MissingLibrary("report", "web", "datasette") from error
    from ..web.report import html

    return html


def _write(file: str, text: str) -> None:
    try:
        with click.open_file(file, "w", encoding="utf-8", atomic=True) as opened:
            opened.write(text)
    except OSError as error:
        raise CmError(f"{file}: {error.strerror}; name a file that can be written") from error
