"""The pages: their addresses and what they show."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROUTES: list[tuple[str, Any]] = []
