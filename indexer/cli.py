"""The command line: commands are found by name and imported when they run."""

from __future__ import annotations

import os
from importlib import import_module

import click

from . import __version__
from .errors import CmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from click.shell_completion import CompletionItem

# Name, module below `commands`, what it does: `cm --help` imports none of them.
COMMANDS = {
    "daily": ("reports", "Usage by day; `cm` alone does this."),
    "weekly": ("reports", "Usage by week."),
    "monthly": ("reports", "Usage by month."),
    "hourly": ("reports", "Usage by hour."),
    "sessions": ("reports", "Usage by session."),
    "projects": ("reports", "Usage by project."),
    "models": ("reports", "Usage by model."),
    "hosts": ("reports", "Usage by machine and user, where indexes were merged."),
    "agents": ("reports", "Usage by subagent, skill, MCP server or plugin."),
    "tools": ("reports", "Calls by tool: errors, durations, results."),
    "blocks": ("reports", "Usage by five-hour block."),
    "refresh": ("refresh", "Index what is new or changed."),
    "stats": ("stats", "Totals by model and by project."),
    "search": ("search", "Find what was said."),
    "show": ("show", "Read a conversation."),
    "explain": ("explain", "How a number came about, record by record."),
    "report": ("report", "The web page as one file, to keep or to send."),
    "prices": ("prices", "What models cost when; your own prices."),
    "query": ("query", "Ask the index in SQL, or by a named query."),
    "queries": ("query", "List the named queries."),
    "describe": ("query", "What the tables and views hold, for queries."),
    "serve": ("serve", "Show the index in the browser."),
    "export": ("export", "Parquet files for DuckDB, Spark and others."),
    "push": ("push", "Into a team's PostgreSQL."),
    "merge": ("merge", "Take over another machine's index."),
    "watch": ("watch", "Keep the index current, from now on."),
    "schedule": ("schedule", "What keeps the index current by cron, systemd or launchd."),
    "status": ("status", "The index's health and what it covers."),
    "statusline": ("statusline", "One line for Claude Code's status bar."),
    "keep": ("keep", "The transcripts themselves: kept, given back, thinned out."),
    "forget": ("privacy", "Take out what was said in a session or a project, for good."),
    "redact": ("privacy", "Mask the secrets in what is stored already."),
    "verify": ("verify", "Compare the index with the transcripts."),
    "check": ("check", "Whether the index is whole, and how to mend what is not."),
    "backup": ("backup", "Save the index in one file, while it is in use."),
    "restore": ("restore", "Put a backup in the index's place."),
    "mcp": ("mcp", "Let Claude Code ask about its own history."),
    "demo": ("demo", "Show the reports on a made-up history."),
    "config": ("config", "Every setting, and where it comes from."),
    "completion": ("completion", "What switches on completion in your shell."),
}
# What people's hands know from other tools.
ALIASES = {"session": "sessions"}
DEFAULT = "daily"


class LazyGroup(click.Group):
    """Commands by name, imported one at a time; without a name, the default command."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Among these click looks for what a mistyped name may have meant.
        names: Any = dict.fromkeys(COMMANDS)
        self.commands |= names

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = import_module(f".commands.{COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A shell that asks what may follow `cm` is to hear of the commands, not of the default one's arguments.
        is_bare = not args and not ctx.resilient_parsing
        if DEFAULT in COMMANDS and (is_bare or (args and args[0].startswith("-") and args[0] not in _GROUP_OPTIONS)):
            self._check_order(ctx, args)
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def _check_order(self, ctx: click.Context, args: list[str]) -> None:
        """Raises UsageError: a command's options stand before its name."""
        names = {*COMMANDS, *ALIASES}.intersection(args)
        default = self.get_command(ctx, DEFAULT)
        if not names or default is None or ctx.resilient_parsing:
            return
        _, rest, _ = default.make_parser(ctx).parse_args([*args])
        if rest and rest[0] in names:
            import shlex

            options = [*args]
            options.remove(rest[0])
            raise click.UsageError(f"the command stands before its options: cm {shlex.join([rest[0], *options])}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        # click's own would import every command to ask for its help.
        from click.shell_completion import CompletionItem

        items = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        items += click.Command.shell_complete(self, ctx, incomplete)
        default = self.get_command(ctx, DEFAULT) if incomplete.startswith("-") else None
        if default is not None:
            items += default.shell_complete(click.Context(default, parent=ctx), incomplete)
        return list({item.value: item for item in items}.values())


_GROUP_OPTIONS = {"-h", "--help", "--version"}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cm", message="%(prog)s %(version)s")
def cli() -> None:
    """What Claude Code used, what it cost, where, and what was said: from an index that outlives its transcripts."""


def run_cli(arguments: list[str]) -> int:
    """Runs a command; its exit code. Raises CmError."""
    if os.environ.get("_CM_COMPLETE"):
        return _complete(arguments)
    try:
        # Not main(): for that a closed pipe is a failure.
        with cli.make_context("cm", arguments, color=_color()) as context:
            result = cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return result if isinstance(result, int) else 0


def _complete(arguments: list[str]) -> int:
    """Answers a shell; whatever goes wrong, nothing appears in the line that somebody is typing."""
    try:
        from .completion import prepare_shells

        prepare_shells()
        cli.main(arguments, prog_name="cm")
    except Exception:
        return 1


def _color() -> bool | None:
    # click knows none of these. https://no-color.org: set and not empty, whatever the value.
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def index_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that works with the index."""
    for option in (
        click.option(
            "--db",
            metavar="FILE",
            type=click.Path(),
            help="The index; else CM_DB, else ~/.local/share/cm/cm.db.",
        ),
        click.option(
            "--root",
            "roots",
            multiple=True,
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="Claude config directory; may be repeated.",
        ),
        click.option(
            "--verbose", is_flag=True, expose_value=False, callback=_show_log, help="Show on stderr what is done."
        ),
    ):
        function = option(function)
    return function


def _show_log(context: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        from .log import show_on_stderr

        show_on_stderr()


def refresh_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that refresh before they answer."""
    return click.option("--no-refresh", is_flag=True, help="Answer from the index as it is.")(function)


def timezone_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that show local times or count local days."""
    text = "Whose local time: Europe/Berlin; else the system's."
    return click.option("-z", "--timezone", metavar="ZONE", callback=_known_zone, help=text)(function)


def _known_zone(context: click.Context, parameter: click.Parameter, zone: str | None) -> str | None:
    from . import config

    config.timezone(zone)  # raises BadInput, also for a wrong setting, before anything is refreshed
    return zone


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that print data."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(function)


def say(message: str) -> None:
    """Talk goes to stderr: stdout is data."""
    from .output import printable

    click.echo(f"cm: {printable(message)}", err=True)


__all__ = ["CmError", "cli", "index_options", "json_option", "refresh_option", "run_cli", "say"]
