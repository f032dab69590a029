"""Errors that are told to the user in one line: what, where, what to do."""

from __future__ import annotations


class CmError(Exception):
    """Base of all controlled errors; `exit_code` is what the command ends with."""

    exit_code = 1


class Locked(CmError):
    """Another refresh, or another watch, holds the lock."""

    exit_code = 75


class NoHistory(CmError):
    """There are no transcripts and the index is empty."""


class IndexUnusable(CmError):
    """The index is missing, unreadable, or made by newer code."""


class PriceError(CmError):
    """A prices file cannot be used: file, place, what is wrong, what to do."""


class MissingLibrary(CmError):
    """A command needs what an extra of cm brings."""

    def __init__(self, command: str, extra: str, library: str) -> None:
        import sys

        super().__init__(
            f"cm {command} needs {library}: install it where cm is, with `{sys.executable} -m pip install {library}`,"
            f" or cm with its extra {extra}"
        )


class BadInput(CmError):
    """A query, date or setting given by the user cannot be used."""
