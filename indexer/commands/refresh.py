"""`cm refresh`. Its plain form runs without click, so click is imported only where options are parsed."""

from __future__ import annotations

import sys

from .. import config
from ..errors import NoHistory
from ..refresh import refresh as refresh_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from ..refresh import Progress
    from ..summary import Summary

FAILED = 3


def run(
    roots: Sequence[str] = (),
    db: str | None = None,
    paths: Sequence[str] = (),
    full: bool = False,
    workers: int | None = None,
    is_quiet: bool = False,
    as_json: bool = False,
) -> int:
    """Refreshes, tells what was done, and gives the exit code."""
    bar = None if is_quiet else progress_bar()
    summary = refresh_index(roots, db, paths=paths, full=full, workers=workers, progress=bar)
    report(summary, config.database(db))
    if not summary.files_seen and not summary.failures:
        complain_if_empty(config.database(db), roots)
    if as_json:
        import json

        print(json.dumps(summary.to_dict(), indent=2))
    elif not is_quiet:
        print(_sentence(summary), file=sys.stderr)
    return FAILED if summary.files_failed or summary.is_root_missing else 0


def _sentence(summary: Summary) -> str:
    from ..output import counted

    transcripts, kept = counted(summary.files_seen, "transcript"), _kept(summary)
    if not summary.files_parsed:
        return f"{transcripts}, nothing new{kept} ({summary.seconds:.2f} s)"
    return (
        f"{summary.files_parsed:,} of {transcripts} read: {counted(summary.records_added, 'record')}, "
        f"{counted(summary.responses_added, 'new response')}, {summary.bytes_read / 1e6:,.1f} MB"
        f" in {summary.seconds:.2f} s{kept}"
    )


def _kept(summary: Summary) -> str:
    if not summary.kept or not summary.kept["transcripts"]:
        return ""
    from ..output import counted

    transcripts = counted(summary.kept["transcripts"], "transcript")
    whole, packed = summary.kept["bytes"] / 1e6, summary.kept["packed_bytes"] / 1e6
    return f"; {whole:,.1f} MB of {transcripts} kept in {packed:,.1f} MB"


def report(summary: Summary, db: str) -> None:
    """Tells on stderr what could not be read and what else went wrong, and logs a run that is worth it."""
    from ..log import log_refresh

    log_refresh(summary, db)
    if not summary.failures and not summary.warnings:
        return
    from ..output import counted, printable

    for warning in summary.warnings:
        print(f"cm: {printable(warning)}", file=sys.stderr)
    for path, reason in summary.failures.items():
        print(f"cm: {printable(path)}: {printable(reason)}; it is tried again next time", file=sys.stderr)
    if summary.files_failed * 10 > summary.files_seen:
        seen = counted(summary.files_seen, "transcript")
        print(f"cm: {summary.files_failed:,} of {seen} could not be read", file=sys.stderr)


def complain_if_empty(db: str, roots: Sequence[str]) -> None:
    """Raises NoHistory if there is no transcript and the index knows of none either."""
    from ..store import open_reader

    connection = open_reader(db)
    try:
        if connection.execute("SELECT 1 FROM files LIMIT 1").fetchone():
            return
    finally:
        connection.close()
    _, looked = config.roots(roots)
    raise NoHistory(
        f"no Claude Code history found in {', '.join(f'{place}/projects' for place in looked)};"
        " name its directory with --root or CLAUDE_CONFIG_DIR, or see what it would look like with `cm demo`"
    )


def progress_bar(label: str = "Reading transcripts") -> Progress | None:
    """A bar on stderr if that is a terminal; it appears when there is much to read."""
    if not sys.stderr.isatty():
        return None
    shown: list[click.ui.ProgressBar[int]] = []  # type: ignore[name-defined]

    def update(done: int, total: int) -> None:
        if total < 20_000_000:
            return
        if not shown:
            import click

            shown.append(click.progressbar(length=total, label=label, file=sys.stderr))
            shown[0].__enter__()
        shown[0].update(done - shown[0].pos)
        if done >= total:
            shown[0].__exit__(None, None, None)

    return update


def __getattr__(name: str) -> click.Command:
    if name == "refresh":
        return _command()
    raise AttributeError(name)


def _command() -> click.Command:
    import click

    from ..cli import index_options, json_option

    @click.command("refresh")
    @click.argument("paths", nargs=-1, metavar="[PATH]...")
    @click.option("--full", is_flag=True, help="Read every transcript again from its beginning.")
    @click.option("--workers", type=click.IntRange(1, 1000), help="Threads that read and parse; in bulk, processes.")
    @click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Say nothing unless something failed.")
    @json_option
    @index_options
    def command(
        roots: tuple[str, ...],
        db: str | None,
        as_json: bool,
        is_quiet: bool,
        workers: int | None,
        full: bool,
        paths: tuple[str, ...],
    ) -> int:
        """Index what is new or changed, everywhere or only below PATH.

        Only new bytes are read. What was indexed stays when its transcript is deleted or rewritten.
        """
        return run(roots, db, paths, full, workers, is_quiet, as_json)

    return command
