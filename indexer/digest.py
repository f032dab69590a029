"""Ids derived from content: the same thing gets the same id in every run and on every machine."""

from __future__ import annotations

from hashlib import blake2b

_EMPTY = blake2b(digest_size=8)
_number = int.from_bytes


def digest(data: bytes) -> int:
    """63 bits of BLAKE2b: fits SQLite's INTEGER; among ten million ids a collision has a chance of 5 in a million."""
    hasher = _EMPTY.copy()  # a new one takes half as long again
    hasher.update(data)
    return _number(hasher.digest()) >> 1


def digest_text(*parts: object) -> int:
    """Digest of values that may be None; a lone surrogate counts as a replacement character."""
    return digest("\x1f".join("\x1e" if part is None else str(part) for part in parts).encode("utf-8", "replace"))
