"""`cm mcp`."""

from __future__ import annotations

import click

from .. import config
from ..cli import index_options
from ..errors import MissingLibrary


@click.command()
@click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date before each answer.")
@index_options
def mcp(roots: tuple[str, ...], db: str | None, refreshes: bool) -> None:
    """Let Claude Code ask about its own history: a server of the Model Context Protocol on stdin and stdout.

    Read-only: reports, stats, explain, the named queries and SQL as tools. It needs the
    MCP SDK, which the extra `mcp` brings.

    \b
    Example:
      claude mcp add cm -- cm mcp --refresh
    """
    try:
        from .mcp_tools import server
    except ModuleNotFoundError as error:
        if error.name != "mcp":
            raise
        raise MissingLibrary("mcp", "mcp", "mcp") from error
    server(config.database(db), roots, refreshes).run("stdio")
