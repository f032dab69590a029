"""`cm serve`."""

from __future__ import annotations

import os
import signal
import socket
import stat

import click

from .. import config
from ..cli import index_options, say
from ..errors import BadInput, CmError, MissingLibrary
from .common import open_index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datasette.app import Datasette

# What the plugin is called in Datasette, as in pyproject.toml.
PLUGIN = "cm"
TOKEN = "CM_TOKEN"
_LEAST = 16


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8137, show_default=True, help="0 is any that is free.")
@click.option("--token-file", metavar="FILE", type=click.Path(), help="Ask for the token in it; else for CM_TOKEN.")
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option("--refresh", "refreshes", is_flag=True, help="Bring the index up to date first.")
@index_options
def serve(
    roots: tuple[str, ...],
    db: str | None,
    refreshes: bool,
    opens: bool,
    token_file: str | None,
    port: int,
    host: str,
) -> None:
    """Show the index in the browser: a page of its own, and every table by Datasette.

    Any user of this machine can reach the port, unless a token is asked for; a --host that others can reach
    demands one. It is the first line of --token-file, or CM_TOKEN. Programs send it as `Authorization: Bearer TOKEN`.

    Needs Datasette, which the extra `web` brings.

    \b
    Examples:
      cm serve --open
      CM_TOKEN=$(openssl rand -hex 16) cm serve --host 0.0.0.0
    """
    try:
        import uvicorn

        from ..web import guard
    except ImportError as error:
        raise MissingLibrary("serve", "web", "datasette") from error
    token = _token(token_file)
    if not token and not guard.is_loopback(host):
        raise BadInput(f"--host {host} can be reached by others: name a --token-file, or set {TOKEN}, and they need it")
    path = config.database(db)
    open_index(db, roots, not refreshes, "serve").close()
    listener = _listen(host, port)
    url = f"http://{_shown(host)}:{listener.getsockname()[1]}/"
    app = _datasette(path, host, token_file, token).app()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2))
    click.echo(url)
    if not token:
        say("every user of this machine can open that page; set CM_TOKEN to keep others out")
    say("Ctrl-C stops it")
    if opens:
        import webbrowser

        webbrowser.open(url)
    # uvicorn ends on either, and then sends it once more to whoever was there before: to end on them is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


def _token(file: str | None) -> str:
    """The token that everybody must know; empty: there is none. Raises BadInput: it is short, or cannot be read."""
    if file is None:
        return _checked(os.environ.get(TOKEN, "").strip(), TOKEN) if os.environ.get(TOKEN) else ""
    try:
        with open(file, encoding="utf-8") as opened:
            token, mode = opened.readline().strip(), os.fstat(opened.fileno()).st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--token-file {file}: {getattr(error, 'strerror', error)}; name a readable file") from error
    checked = _checked(token, file)
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        say(f"{file} can be read by other users: chmod 600 it")
    return checked


def _checked(token: str, source: str) -> str:
    if len(token) < _LEAST or not (token.isascii() and token.isprintable()):
        raise BadInput(
            f"{source}: a token is {_LEAST} characters of ASCII or more; make one with `openssl rand -hex 16`"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    """The socket on which to answer; browsers that come before the server is ready wait. Raises CmError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise CmError(f"{_shown(host)}:{port}: {reason}; name another --host or --port") from error
    return listener


def _datasette(path: str, host: str, token_file: str | None, token: str) -> Datasette:
    from datasette.app import Datasette
    from datasette.plugins import pm

    from ..web import metadata, plugin

    if not pm.has_plugin(PLUGIN):  # a checkout that is not installed, or a Datasette told to load none
        pm.register(plugin, PLUGIN)
    # What Datasette shows of its configuration says where the token is, not what it is.
    source = {"$file": os.path.abspath(token_file)} if token_file else {"$env": TOKEN}
    config = {"hosts": [host]} | ({"token": source} if token else {})
    return Datasette([path], settings=metadata.SETTINGS, metadata={"plugins": {PLUGIN: config}})


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
