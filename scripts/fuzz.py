"""Fuzz the parser, guided by what the bytes reach in it: no exception, no hang, every line accounted for.

Seeds are the lines of a made-up history. Needs atheris: pip install atheris. Extra arguments are libFuzzer's:
scripts/fuzz.py --seconds 600 -workers=2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))
# One input may take that long: far more than a line of this size ever needs.
HANG_SECONDS = 5
LONGEST = 65_536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="folder that keeps what was found from run to run")
    options, rest = parser.parse_known_args()
    try:
        import atheris  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["indexer"]):
        from indexer import lines
        from indexer.parser import Parser

    def try_bytes(data: bytes) -> None:
        tail = data.rpartition(b"\n")[2]
        assert tail.startswith(lines.usable(tail))
        accounted_for(Parser(1, "session", 0), data)

    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or Path(folder, "corpus")
        corpus.mkdir(parents=True, exist_ok=True)
        write_seeds(Path(folder), corpus)
        limits = [f"-max_total_time={options.seconds}", f"-timeout={HANG_SECONDS}", f"-max_len={LONGEST}"]
        atheris.Setup([sys.argv[0], *limits, *rest, str(corpus)], try_bytes)
        atheris.Fuzz()


def accounted_for(parser: Any, data: bytes) -> None:
    """Parses the bytes, and holds what came out against the lines there are."""
    parser.look_ahead(data)
    batch = parser.feed(data, 0)
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    assert parser.line_count == lines
    assert batch.indexed_lines + sum(not row[4] for row in batch.skipped) == lines
    offsets = [row[0] & ((1 << 40) - 1) for row in batch.records]
    assert len(set(offsets)) == len(offsets)
    assert all(at >= 0 and at + row[2] <= len(data) for at, row in zip(offsets, batch.records, strict=True))


def write_seeds(folder: Path, corpus: Path) -> None:
    from indexer.demo import write_history

    until = datetime(2026, 11, 20, tzinfo=UTC)
    write_history(folder / "claude", until=until, days=2, projects=1, sessions_per_day=1, seed=1)
    known: set[bytes] = set()
    for path in (folder / "claude").rglob("*.jsonl"):
        known.update(line[:2000] for line in path.read_bytes().splitlines(keepends=True))
    for number, line in enumerate(sorted(known)):
        (corpus / f"seed-{number}").write_bytes(line)


if __name__ == "__main__":
    main()
