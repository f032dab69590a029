"""Write a big made-up Claude config directory for benchmarks: the same bytes for the same scale and seed.

At scale 1: 2,354 transcripts of 29 projects, 640 MB. Three in five are subagents', file sizes are log-normal,
tool results carry half of the bytes, and what goes wrong in real directories goes wrong here: forked copies,
images, a line of 15 MB, broken lines, torn tails, missing final newlines.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import NormalDist

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from indexer import demo

FILES, PROJECTS = 2_354, 29
UNTIL = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = 300
SLACK = timedelta(days=20)  # the longest session takes days, and must end before UNTIL
AGENTS, FORKS = 0.6, 0.06  # shares of the files
MAIN_SIZE, AGENT_SIZE = demo.Size(51, 1.4, 6_000), demo.Size(22, 1.1, 1_000)  # records
SIZES = demo.Sizes(
    prose=demo.Size(250, 0.9, 10_000),
    thinking=demo.Size(700, 1.3, 30_000),
    output=demo.Size(1_030, 1.62, 80_000),
    pool=2_000_000,
)
IMAGE = demo.Size(120_000, 0.9, 1_500_000)
HUGE = 7_500_000  # characters of one output, which its line holds twice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1, help="1 is 2,354 files; 10 is ten times as many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    if (options.directory / "projects").exists():
        sys.exit(f"{options.directory}/projects exists already; give another directory")
    started = time.perf_counter()
    summary = write_corpus(options.directory, options.scale, options.seed)
    print(json.dumps({**asdict(summary), "seconds": round(time.perf_counter() - started, 2)}))


@dataclass(frozen=True, slots=True)
class Summary:
    """`records` are those that can be read, even from a broken line; a half of one is not counted."""

    files: int
    records: int
    assistant_records: int
    bytes: int


def write_corpus(directory: Path, scale: float, seed: int) -> Summary:
    files = round(FILES * scale)
    author = demo.Author(seed, SIZES, UNTIL - timedelta(days=DAYS), UNTIL)
    author.tools = {**demo.TOOLS, Camera(author.rng): 0.1}
    corpus = Corpus(directory, author, files)
    projects = [demo.make_project(n) for n in range(math.ceil(PROJECTS * scale))]
    for plan in plans(author.rng, files, projects):
        corpus.write(plan)
        corpus.prompts.clear()
    return Summary(corpus.files, corpus.records, corpus.assistant_records, corpus.bytes)


def plans(rng: random.Random, files: int, projects: list[demo.Project]) -> Iterator[demo.Plan]:
    agents, forks = round(files * AGENTS), round(files * FORKS)
    sizes = quantiles(rng, MAIN_SIZE, files - agents - forks)
    # The longer a session, the more subagents it called.
    owners = rng.choices(range(len(sizes)), sizes, k=agents)
    called: list[list[int]] = [[] for _ in sizes]
    for owner, size in zip(owners, quantiles(rng, AGENT_SIZE, agents), strict=True):
        called[owner].append(size)
    # Evenly over the sizes: which sessions are forked decides how many bytes there are.
    forked = set(sorted(range(len(sizes)), key=sizes.__getitem__)[:: -(len(sizes) // max(1, forks))][:forks])
    for n, size in enumerate(sizes):
        start = UNTIL - SLACK - rng.random() * timedelta(days=DAYS - SLACK.days)
        yield demo.Plan(
            projects[n % len(projects)], start, size, tuple(called[n]), workflow=rng.random() < 0.1,
            worktree=f"try-{n}" if rng.random() < 0.05 else "", fork=size * 5 // 4 if n in forked else 0,
        )  # fmt: skip


def quantiles(rng: random.Random, size: demo.Size, count: int) -> list[int]:
    """`count` sizes in random order that follow the distribution exactly: every seed gives the same sum."""
    normal = NormalDist(math.log(size.median), size.sigma)
    shares = ((n + 0.5) / count for n in range(count))
    drawn = [min(max(6, round(math.exp(normal.inv_cdf(share)))), size.most) for share in shares]
    rng.shuffle(drawn)
    return drawn


class Camera:
    """A tool that reads screenshots, which land in the transcript twice, as base64."""

    def __init__(self, rng: random.Random) -> None:
        self.film = base64.b64encode(rng.randbytes(3_000_000)).decode()

    def __call__(self, t: demo.Transcript) -> demo.Call:
        size = IMAGE.draw(t.rng) // 4 * 4
        start = t.rng.randrange(len(self.film) - size)
        data, path = self.film[start : start + size], t.file() + ".png"
        source = {"type": "base64", "data": data, "media_type": "image/png"}
        file = {"base64": data, "type": "image/png", "originalSize": size * 3 // 4}
        content = [{"type": "image", "source": source}]
        return t.call("Read", {"file_path": path}, content, {"type": "image", "file": file})


class Corpus(demo.History):
    """A history with accidents, at files chosen by their number."""

    def __init__(self, directory: Path, author: demo.Author, files: int) -> None:
        super().__init__(directory, author)
        self.assistant_records = 0
        self.huge_from = files // 2
        few = max(1, round(5 * files / FILES))
        kinds = [torn, cut_short, two_on_a_line, spliced, nul_block] * few + [unended] * (files // 100)
        numbers = author.rng.sample(range(files), len(kinds))
        self.accidents: dict[int, Accident] = dict(zip(numbers, kinds, strict=True))

    def save(self, path: Path, transcript: demo.Transcript) -> None:
        if self.files >= self.huge_from and enlarge(transcript):
            self.huge_from = sys.maxsize
        self.assistant_records += sum(record["type"] == "assistant" for record in transcript.records)
        super().save(path, transcript)

    def encode(self, lines: list[bytes]) -> bytes:
        accident = self.accidents.get(self.files)
        return accident(lines) if accident else super().encode(lines)


def enlarge(transcript: demo.Transcript) -> bool:
    """Make one Bash output huge, if there is one."""
    for record in transcript.records:
        result = record.get("toolUseResult")
        if isinstance(result, dict) and "stdout" in result:
            result["stdout"] = transcript.author.output.passage(transcript.rng, HUGE)
            record["message"]["content"][0]["content"] = result["stdout"]
            return True
    return False


Accident = Callable[[list[bytes]], bytes]


def torn(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, half(lines[-1])])


def unended(lines: list[bytes]) -> bytes:
    return b"\n".join(lines)


def cut_short(lines: list[bytes]) -> bytes:
    at = len(lines) // 2
    return b"\n".join([*lines[:at], half(lines[at]), *lines[at:], b""])


def two_on_a_line(lines: list[bytes]) -> bytes:
    at = len(lines) // 2
    return b"\n".join([*lines[:at], lines[at] + lines[at + 1], *lines[at + 2 :], b""])


def spliced(lines: list[bytes]) -> bytes:
    """A record cut short by a kill, and the next one appended to its line."""
    at = len(lines) // 2
    return b"\n".join([*lines[:at], half(lines[at - 1]) + lines[at], *lines[at + 1 :], b""])


def nul_block(lines: list[bytes]) -> bytes:
    """What a power failure leaves of a line on ext4."""
    at = len(lines) // 2
    return b"\n".join([*lines[:at], b"\0" * 512, *lines[at:], b""])


def half(line: bytes) -> bytes:
    return line[: len(line) // 2]


if __name__ == "__main__":
    main()
