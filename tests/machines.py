"""Several machines for tests: each with a history and an index of its own, and all with the same paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import Home
from ledger import refresh

from indexer import config, reports, store
from indexer.merge import merge

NAMES = ("alpha", "beta", "gamma")


class Machines:
    """Machines with an index of their own and the same paths: at any time one of them is at work."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._patch = patch
        self.home = Home(self.make("alpha"))  # its paths are every machine's
        self.home.root = folder / "home" / ".claude"
        for name in NAMES[1:]:
            Home(self.make(name))
        patch.setenv("CLAUDE_CONFIG_DIR", str(self.home.root))
        self.use("alpha")

    def make(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def use(self, name: str) -> None:
        link = self.folder / "home"
        link.unlink(missing_ok=True)
        link.symlink_to(self.folder / name)
        self._patch.setenv("CM_HOST", name)
        self._patch.setenv("CM_USER", "sam")
        self._patch.setenv("CM_DB", str(self.index(name)))

    def index(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def refresh(self, name: str, **options: Any) -> None:
        self.use(name)
        refresh(**options)

    def merge(self, into: str, *others: str) -> list[dict[str, Any]]:
        self.use(into)
        return [merge(str(self.index(other)), str(self.index(into))) for other in others]

    def reports(self, name: str) -> dict[str, Any]:
        """Every report of a machine's index."""
        self.use(name)
        connection = store.open_reader(config.database())
        try:
            return {key: reports.rows(connection, report)[1] for key, report in reports.REPORTS.items()}
        finally:
            connection.close()
