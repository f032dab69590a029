"""Claude Code's transcripts in SQLite: what was used, what it cost, where, and what was said.

from indexer import refresh, connect, query, load_claude_metrics_from_home_dir_parallel
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "ClaudeMetrics",
    "CmError",
    "connect",
    "load_claude_metrics_from_home_dir",
    "load_claude_metrics_from_home_dir_parallel",
    "query",
    "refresh",
    "watch",
]

# At once: left to __getattr__, modules of the same names would stand in their place as soon as anything imports them.
from .refresh import refresh
from .watch import watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .api import (
        connect,
        load_claude_metrics_from_home_dir,
        load_claude_metrics_from_home_dir_parallel,
        query,
    )
    from .errors import CmError
    from .metrics import ClaudeMetrics


def __getattr__(name: str) -> Any:
    # The command line imports this package at every start and needs none of it.
    modules = {"ClaudeMetrics": "metrics", "CmError": "errors"}
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f".{modules.get(name, 'api')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
