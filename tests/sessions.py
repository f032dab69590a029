"""Sessions while they are written, and a reading of them that shares nothing with the index's."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import builders
from builders import Home, assistant, line, text, tool_use, usage, user, write
from ledger import rows

FILES = 6
TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
FIELDS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def response(session: str, chance: random.Random) -> bytes:
    """A prompt and the lines of its response, each of which says more of its tokens."""
    identity = builders.fresh(builders.MESSAGE_ID)
    said = [user("x" * chance.randrange(2000), sessionId=session)]
    for number in range(1, chance.randrange(2, 4)):
        counts = usage(7, number * 100, 3, 2, chance.randrange(50))
        block = text("y" * chance.randrange(9000)) if number == 1 else tool_use()
        said.append(assistant(block, id=identity, usage=counts, sessionId=session))
    return b"".join(map(line, said))


def paths(home: Home) -> list[Path]:
    return [home.transcript(f"session-{number}") for number in range(FILES)]


def begin(home: Home, chance: random.Random, responses: int = 60) -> None:
    """Sessions of so many responses each."""
    for path in paths(home):
        write(path, [b"".join(response(path.stem, chance) for _ in range(responses))])


@contextmanager
def appending(files: Iterable[Path], chance: random.Random) -> Iterator[None]:
    """A writer at work on sessions: it appends pieces that may end anywhere, and leaves whole lines when it ends."""
    stop = threading.Event()
    rest = dict.fromkeys(files, b"")

    def work() -> None:
        while not stop.wait(0.002):
            path = chance.choice(list(rest))
            data = rest[path] or response(path.stem, chance)
            cut = chance.randrange(1, len(data) + 1)
            with path.open("ab") as file:
                file.write(data[:cut])
            rest[path] = data[cut:]
        for path, data in rest.items():
            with path.open("ab") as file:
                file.write(data)

    writer = threading.Thread(target=work)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def naive(home: Home) -> tuple[int, ...]:
    """Tokens and responses by a reading that shares nothing with the index's: the maximum per message id."""
    found: dict[str, list[int]] = {}
    for path in paths(home):
        for record in map(json.loads, path.read_bytes().splitlines()):
            if record["type"] == "assistant":
                counts = [record["message"]["usage"][name] for name in FIELDS]
                before = found.get(record["message"]["id"], counts)
                found[record["message"]["id"]] = list(map(max, before, counts))
    return (*map(sum, zip(*found.values(), strict=True)), len(found))


def indexed() -> tuple[int, ...]:
    sums = ", ".join(f"sum({name}) AS {name}" for name in TOKENS)
    (row,) = rows(f"SELECT {sums}, count(*) AS responses FROM usage")
    return tuple(row.values())
