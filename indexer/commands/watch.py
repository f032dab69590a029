"""`cm watch`."""

from __future__ import annotations

import os
import signal

import click

from ..cli import index_options, say
from ..watch import INTERVAL, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=86_400),
    default=INTERVAL,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks at everything, for what no event tells.",
)
@click.option(
    "--once-ready",
    "tells_ready",
    is_flag=True,
    help="Print `ready` on stdout once the index is current and changes are noticed.",
)
@index_options
def watch(roots: tuple[str, ...], db: str | None, tells_ready: bool, interval: float) -> None:
    """Keep the index current, from now on.

    New lines are indexed within half a second, by the file system's events. Every --interval seconds all transcripts
    are looked at, too. There can be one watch of an index; `cm refresh` works beside it.

    SIGTERM and Ctrl-C end it when the transaction in hand is committed. SIGHUP makes it read its configuration again.
    """
    watching = Watch(roots, db, interval, say=say, ready=_print_ready if tells_ready else _do_nothing)
    _obey_signals(watching)
    watching.run()


def _print_ready() -> None:
    click.echo("ready")


def _do_nothing() -> None:
    pass


def _obey_signals(watching: Watch) -> None:
    had_terminal = os.isatty(2)

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
        watching.stop()

    def hang_up(number: int, frame: FrameType | None) -> None:
        # A terminal that was closed sends the same signal as a user who has changed the configuration.
        if had_terminal and not os.isatty(2):
            watching.stop()
        else:
            watching.reload()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, hang_up)
