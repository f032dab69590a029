"""What every test stands on: an environment of its own, a Claude config directory, and `cm` as a process."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import builders
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from webserver import Server

CHECKOUT = Path(__file__).resolve().parent.parent
# What `cm` reads from its environment, and what Python needs; nothing else reaches the process.
PASSED = ("HOME", "PATH", "LANG", "LC_ALL", "TZ", "CM_", "XDG_", "CLAUDE_", "NO_COLOR", "FORCE_COLOR")
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24

# How long an example takes is the machine's business.
settings.register_profile("cm", deadline=None)
settings.load_profile("cm")

# A shell starts what is to run in the background with interrupts ignored, and what is started from there inherits it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

RunCm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test does reaches the real home, index or log, and its records are as if it were the only one."""
    builders.restart()
    for name in list(os.environ):
        if name.startswith(("CM_", "XDG_", "CLAUDE_", "NO_COLOR", "FORCE_COLOR")) and name != "CM_TRANSCRIPTS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DATA", "STATE", "CONFIG", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / f"xdg-{name.lower()}"))
    monkeypatch.setenv("CM_DB", str(tmp_path / "index" / "cm.db"))
    monkeypatch.setenv("CM_LOG", str(tmp_path / "log" / "cm.log"))


@pytest.fixture(autouse=True)
def fresh_log() -> Iterator[None]:
    """A log that one test opened is not the next one's."""
    yield
    logger = logging.getLogger("cm")
    for handler in logger.handlers[:]:
        if handler.name == "cm":
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> builders.Home:
    """An empty Claude config directory, the only one that `cm` looks at."""
    made = builders.Home(tmp_path)
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(made.root))
    return made


@pytest.fixture
def db() -> Path:
    """Where the index is, or will be."""
    return Path(os.environ["CM_DB"])


@pytest.fixture
def run_cm() -> RunCm:
    """Runs `cm` as a process; a variable given as None is left out of its environment."""

    def run(
        *arguments: object, env: Mapping[str, str | None] | None = None, input: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "indexer", *map(str, arguments)],
            env=clean_environment(env),
            input=input,
            preexec_fn=respect_permissions,
            encoding="utf-8",
            check=False,
            **{"capture_output": True, **options},
        )

    return run


def clean_environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(PASSED) and name != "CM_TRANSCRIPTS"}
    # Compiled once for all tests, and not into the checkout.
    kept |= {"PYTHONPATH": str(CHECKOUT), "PYTHONPYCACHEPREFIX": str(CHECKOUT / ".pytest_cache" / "compiled")}
    return {name: value for name, value in (kept | dict(changes or {})).items() if value is not None}


def respect_permissions() -> None:
    """Takes from a process run by root what lets it read a file of mode 000; others never had it."""
    if sys.platform == "linux" and os.getuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def make_unreadable(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Takes all permissions from a path, until the test ends; skips where the test's user reads it all the same."""

    def make(path: Path) -> None:
        mode = path.stat().st_mode
        path.chmod(0)
        request.addfinalizer(lambda: path.chmod(mode) if path.exists() else None)
        probe = [sys.executable, "-c", f"import os; os.close(os.open({str(path)!r}, os.O_RDONLY))"]
        if not subprocess.call(probe, preexec_fn=respect_permissions, stderr=subprocess.DEVNULL):
            pytest.skip("this user can read what has no permissions")

    return make


@pytest.fixture(scope="session")
def demo_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a made-up history, for tests that only read it."""
    from indexer import refresh
    from indexer.demo import write_history

    folder = tmp_path_factory.mktemp("demo")
    root, db = folder / ".claude", folder / "cm.db"
    write_history(root, until=datetime(2026, 11, 20, 18, tzinfo=UTC), days=10, projects=3, sessions_per_day=2, seed=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("CM_LOG", str(folder / "cm.log"))
        refresh([str(root)], str(db))
    return db


@pytest.fixture(scope="session")
def web(demo_index: Path) -> Iterator[Server]:
    """`cm serve` on it, without a token."""
    from webserver import serving

    with serving(demo_index, HOME=str(demo_index.parent), CM_LOG=str(demo_index.parent / "cm.log")) as server:
        yield server
