"""`cm schedule`."""

from __future__ import annotations

import click

from .. import schedule as library
from ..cli import index_options, say
from ..errors import CmError


@click.command()
@click.argument("kind", type=click.Choice(library.KINDS))
@click.option("--every", default="5m", show_default=True, metavar="TIME", help="How often: 5m, 2h, 1d.")
@click.option("--install", "action", flag_value="install", help="Put it there, and show what that changed.")
@click.option("--remove", "action", flag_value="remove", help="Take away what --install put there.")
@click.option("--status", "action", flag_value="status", help="Show what is there; exit 1 if nothing is.")
@index_options
def schedule(roots: tuple[str, ...], db: str | None, action: str | None, every: str, kind: str) -> None:
    """What runs `cm refresh` every few minutes: print it, or install it for this user.

    It runs the very program that runs now, on the places it would use now. Installing it again changes nothing, or
    only what is different; nothing that cm did not put there is touched.
    """
    if action == "status":
        _show(kind)
    elif action:
        _change(kind, library.job(every, db, roots) if action == "install" else None)
    else:
        click.echo(library.text(kind, library.job(every, db, roots)), nl=False)


def _show(kind: str) -> None:
    found = library.installed(kind)
    if not found:
        raise CmError(f"nothing is installed for {kind}; install it with `cm schedule {kind} --install`")
    click.echo(found.encode("utf-8", "surrogateescape"), nl=False)


def _change(kind: str, job: library.Job | None) -> None:
    changes = library.documents(kind, job)
    difference = library.difference(changes)
    if not difference:
        say("it is installed already" if job else "there is nothing to remove")
        return
    library.apply(kind, changes)
    # A crontab can hold bytes that are no text.
    click.echo(difference.encode("utf-8", "surrogateescape"), nl=False)
