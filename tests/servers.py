"""A real PostgreSQL for tests: its own folder, its own port, run by a user without privileges."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

PASSWORD = "secret'\\ word"  # needs quoting wherever it is not quoted


class Server(NamedTuple):
    """A running PostgreSQL with a user `cm`, who has that password."""

    port: int
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        """Without the password: that is in PGPASSWORD."""
        return f"postgresql://cm@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgresql() -> Iterator[Server]:
    """Starts PostgreSQL from the system's package; skips where it is not installed."""
    programs = programs_of_postgresql()
    # Not pytest's own folder: only this test's user may look into that.
    folder = Path(tempfile.mkdtemp(prefix="cm-postgresql-"))
    identity: dict[str, object] = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        with running(programs, folder, identity) as server:
            yield server
    finally:
        shutil.rmtree(folder)


def programs_of_postgresql() -> str:
    """The folder of its programs, which Debian does not put on the path."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    program = found[-1] if found else shutil.which("initdb")
    if program is None:
        pytest.skip("PostgreSQL is not installed")
    return os.path.dirname(program)


@contextmanager
def running(programs: str, folder: Path, identity: dict[str, object]) -> Iterator[Server]:
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    how = ["-D", str(data), "-U", "cm", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--locale=C.UTF-8"]
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **identity}
    subprocess.run([f"{programs}/initdb", *how], check=True, **options)  # type: ignore[call-overload]
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
    arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen([f"{programs}/postgres", "-D", str(data), "-p", str(port), *arguments], **options)  # type: ignore[call-overload]
    try:
        wait_until_ready(programs, port, process)
        yield Server(port, process)
    finally:
        process.send_signal(signal.SIGINT)  # fast: it waits for nobody who is still connected
        process.wait()


def wait_until_ready(programs: str, port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while subprocess.run([f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False).returncode:
        assert process.poll() is None and time.monotonic() < end, "PostgreSQL does not start"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
