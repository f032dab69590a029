"""`cm serve` and `datasette` as processes, and plain HTTP to ask them with."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from conftest import clean_environment

pytest.importorskip("datasette", reason="Datasette is not installed: pip install cm-indexer[web]")

IS_ALPHA = version("datasette").startswith("1.")


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server: where it listens, and what it said."""

    def __init__(self, process: subprocess.Popen[str], url: str, talk: Path) -> None:
        self.process = process
        self.url = url.rstrip("/")
        self.port = urlsplit(url).port
        self._talk = talk

    @property
    def talk(self) -> str:
        return self._talk.read_text()

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: str | None = None
    ) -> Reply:
        """What it answers, redirects within it followed."""
        reply = self.ask(path, headers, method, body)
        while method == "GET" and reply.status in (301, 302):
            reply = self.ask(reply.headers["location"].removeprefix(self.url), headers)
        return reply

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: str | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@contextlib.contextmanager
def serving(db: Path, *arguments: object, **environment: str | None) -> Iterator[Server]:
    """`cm serve` on an index, at a port that is free."""
    command = [sys.executable, "-m", "indexer", "serve", "--port", "0", "--db", str(db), *map(str, arguments)]
    with _running(command, environment) as (process, talk):
        url = process.stdout.readline().strip() if process.stdout else ""
        assert url, talk.read_text()
        yield Server(process, url, talk)


@contextlib.contextmanager
def datasette(*files: Path) -> Iterator[Server]:
    """Datasette as its user starts it, with the plugins that are installed."""
    if not entry_points(group="datasette", name="cm"):
        pytest.skip("cm is not installed here, so Datasette does not know its plugin")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "datasette", *map(str, files), "--port", str(port)]
    with _running(command, {}) as (process, talk):
        server = Server(process, f"http://127.0.0.1:{port}", talk)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionError):
                server.ask("/")
                break
            assert process.poll() is None and time.monotonic() < deadline, talk.read_text()
            time.sleep(0.05)
        yield server


@contextlib.contextmanager
def _running(command: list[str], environment: Mapping[str, str | None]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    with tempfile.TemporaryDirectory() as folder:
        talk = Path(folder) / "stderr"
        with talk.open("w") as stderr:
            process = subprocess.Popen(
                command, env=clean_environment(environment), stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        try:
            yield process, talk
        finally:
            process.kill()
            process.communicate()
