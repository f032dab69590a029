"""`cm status`."""

from __future__ import annotations

from typing import Any

import click

from .. import config
from .. import status as library
from ..cli import index_options, json_option
from ..output import dumps, printable
from .common import open_index, tokens_of
from .keep import lines as kept_lines


@click.command()
@click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date first.")
@json_option
@index_options
def status(roots: tuple[str, ...], db: str | None, as_json: bool, refreshes: bool) -> None:
    """The index's health: what it covers, what it could not use, and what only it still knows."""
    connection = open_index(db, roots, not refreshes, "status")
    try:
        found = library.status(connection, config.database(db), roots)
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
    lines += [("host" if place == 0 else "", _host(host)) for place, host in enumerate(found["hosts"])]
    lines += [("unpriced", tokens_of(item)) for item in found["unpriced"]]
    lines += [("unreadable", f"{path}: {reason}") for path, reason in found["failures"].items()]
    lines += _cleanup(found)
    lines += [("kept" if number == 0 else "", text) for number, text in enumerate(kept_lines(found["keep"]))]
    lines += [
        ("last refresh" if run is last else "", f"{run['started_at']} by {run['command']}, {run['seconds']:.2f} s")
        for run in found["refreshes"]
    ] or [("last refresh", "never")]
    lines += [("warning", text) for text in found["warnings"]]
    return "\n".join(f"{name:<13} {printable(text)}" for name, text in lines)


def _host(host: dict[str, Any]) -> str:
    is_this = "this machine" if host["is_this_machine"] else f"merged, as of {host['as_of']}"
    return (
        f"{host['user']}@{host['host']}, {is_this}: {host['present']:,} transcripts present, {host['gone']:,} gone,"
        f" {host['rewritten']:,} rewritten; {host['responses']:,} responses"
    )


def _cleanup(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What Claude Code deletes next, and what it had deleted before the index was there."""
    next_ones, gone = found["deletions"], found["gone_before_index"]
    periods = " or ".join(str(days) for days in sorted({root["cleanup_period_days"] for root in next_ones["roots"]}))
    safe = "all of them are safe in the index" if not next_ones["not_indexed"] else "not all of them are in the index"
    lines = [
        (
            "deleted soon",
            f"{next_ones['due']:,} transcripts within {next_ones['within_days']} days, {next_ones['overdue']:,} of them"
            f" when Claude Code starts next (it keeps them {periods} days); {safe}"
            if next_ones["due"]
            else f"no transcript within {next_ones['within_days']} days",
        )
    ]
    if gone["prompts"]:
        span = f"{gone['first_at'][:10]} to {gone['last_at'][:10]}"
        lines.append(
            (
                "gone before",
                f"{gone['prompts']:,} prompts of {gone['sessions']:,} sessions, {span}, are in history.jsonl only:"
                " their transcripts were deleted before they were indexed",
            )
        )
    return lines
