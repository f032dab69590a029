#!/usr/bin/env python3
"""Measures the life of an index on a made-up history, against ccusage where it is installed, and prints a report.

Everything that is compared is run in turn in one go, because a machine's speed drifts; ratios are of medians.

    scripts/bench.py                      # 2,354 transcripts, 625 MB, made in a temporary folder
    scripts/bench.py --tenfold            # and ten times as many
    scripts/bench.py --scale 0.05 --check # exit 1 if a target is missed
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
PASS = [sys.executable, "-c", "pass"]
NO_OPS = 5


@dataclass
class Run:
    """One process: wall and CPU seconds, peak MB of the largest of its processes, and what it printed."""

    wall: float
    cpu: float
    peak_mb: float
    printed: str


@dataclass
class Target:
    """A figure and what it may be at most."""

    name: str
    figure: float
    limit: float

    @property
    def is_met(self) -> bool:
        return self.figure <= self.limit


# What runs a command in a process of its own, so that its children are nobody else's.
MEASURED = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.stdout]))
sys.exit(done.returncode)
"""


def run(command: list[str], environment: dict[str, str]) -> Run:
    """Raises CalledProcessError."""
    measured = [sys.executable, "-c", MEASURED, *command]
    done = subprocess.run(measured, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Run(*json.loads(done.stdout))


class Index:
    """An index of a folder of transcripts, and `cm` on it."""

    def __init__(self, folder: Path, root: Path, name: str = "cm") -> None:
        self.path = folder / f"{name}.db"
        self.environment = {
            "HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), "CM_DB": str(self.path),
            "CM_LOG": str(folder / "cm.log"), "CLAUDE_CONFIG_DIR": str(root), "TZ": "UTC",
        }  # fmt: skip

    def cm(self, *arguments: str) -> Run:
        start = f"import sys; sys.argv = ['cm', *{list(arguments)!r}]; from indexer.main import main; main()"
        return run([sys.executable, "-c", start], self.environment)

    def first(self, *options: str) -> Run:
        self.remove()
        return self.cm("refresh", "--json", *options)

    def remove(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()

    def totals(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cm("stats", "--json", "--no-refresh").printed)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1, help="of the history; 1 is 2,354 transcripts")
    parser.add_argument("--tenfold", action="store_true", help="also measure ten times that")
    parser.add_argument("--runs", type=int, default=3, help="of what is compared; medians are taken")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8], help="numbers to compare")
    parser.add_argument("--ccusage", default=shutil.which("ccusage"), help="its executable")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cm-bench-") as folder:
        report = measure(Path(folder), options)
    print(json.dumps(report, indent=2) if options.json else markdown(report))
    if options.check and not all(target["is_met"] for target in report["targets"]):
        sys.exit(1)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    root = folder / "claude"
    corpus = generate(root, options.scale)
    report: dict[str, Any] = {"machine": machine(), "corpus": corpus, "ccusage": version(options.ccusage)}
    one = life(folder, root, options, report)
    targets = [*against_ccusage(one), *own_ratios(one, corpus)]
    if options.tenfold:
        ten_root = folder / "claude10"
        ten_corpus = generate(ten_root, options.scale * 10)
        beside, ten = times([Index(folder, root), Index(folder, ten_root, "cm10")], options.runs)
        report["tenfold"] = {"corpus": ten_corpus, **ten, "beside": beside}
        targets += tenfold(beside, ten)
    report["targets"] = [{**asdict(target), "is_met": target.is_met} for target in targets]
    return report


def generate(root: Path, scale: float) -> dict[str, Any]:
    script = str(CHECKOUT / "scripts" / "gen_corpus.py")
    done = subprocess.run(
        [sys.executable, script, "--scale", str(scale), str(root)], check=True, stdout=subprocess.PIPE
    )
    made: dict[str, Any] = json.loads(done.stdout)
    made["megabytes"] = sum(path.stat().st_size for path in (root / "projects").rglob("*.jsonl")) / 1e6
    return made


def machine() -> str:
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, CPython {platform.python_version()},"
        f" SQLite {sqlite3.sqlite_version}"
    )


def version(ccusage: str | None) -> str | None:
    return (
        ccusage and subprocess.run([ccusage, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    )


def life(folder: Path, root: Path, options: argparse.Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """First index over worker counts; then what happens to a history, each with the refresh that sees it."""
    index = Index(folder, root)
    report["workers"], totals = {}, []
    for count in options.workers:
        found = index.first("--workers", str(count))
        report["workers"][count] = {"wall": found.wall, "cpu": found.cpu, "peak_mb": found.peak_mb}
        totals.append(index.totals())
    [one] = times([index], options.runs, options.ccusage)
    report["times"] = one
    one["searched_mb"] = searched(folder, root)
    one["changes"] = changes(index, root)
    totals_after = index.totals()
    index.first()
    report["numbers_are_equal"] = all(found == totals[0] for found in totals) and kept(totals_after, index.totals())
    return one


def kept(grown: dict[str, Any], anew: dict[str, Any]) -> bool:
    """Whether the index that saw every change knows all that one made afterwards does, and what was deleted."""
    return bool(grown["messages_count"] >= anew["messages_count"] and grown["total_cost"] >= anew["total_cost"])


def times(indexes: Sequence[Index], runs: int, ccusage: str | None = None) -> list[dict[str, Any]]:
    """Of each index the medians of what is compared, all in turn with each other and with ccusage."""
    commands = {
        "no change": ("refresh", "--quiet"),
        "stats": ("stats", "--json"),
        "daily": ("daily", "--json"),
        "stats, no refresh": ("stats", "--json", "--no-refresh"),
        "daily, no refresh": ("daily", "--json", "--no-refresh"),
    }
    seen: list[dict[str, list[float]]] = [{} for _ in indexes]
    peaks = [0.0 for _ in indexes]
    for _ in range(runs):
        for number, index in enumerate(indexes):
            walls = seen[number]
            if ccusage:
                theirs = run([ccusage, "claude", "session", "--json", "--offline"], index.environment)
                walls.setdefault("ccusage", []).append(theirs.wall)
            first = index.first()
            walls.setdefault("first", []).append(first.wall)
            peaks[number] = max(peaks[number], first.peak_mb)
        for _ in range(NO_OPS):
            for index, walls in zip(indexes, seen, strict=True):
                walls.setdefault("python", []).append(run(PASS, index.environment).wall)
            for name, command in commands.items():
                for index, walls in zip(indexes, seen, strict=True):
                    walls.setdefault(name, []).append(index.cm(*command).wall)
    return [
        {name: median(found) for name, found in walls.items()}
        | {"peak_mb": peak, "index_mb": index.path.stat().st_size / 1e6}
        for index, walls, peak in zip(indexes, seen, peaks, strict=True)
    ]


def changes(index: Index, root: Path) -> dict[str, Any]:
    """Seconds and bytes read of the refresh that follows each kind of change, and of one before it without any."""
    paths = sorted((root / "projects").rglob("*.jsonl"), key=lambda path: path.stat().st_size)
    middle = len(paths) // 2
    copied, moved, rewritten, deleted, *grown = paths[middle : middle + 4 + NO_OPS]
    line = rewritten.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2] + b"\n"
    made: dict[str, Any] = {}

    def change(name: str, *works: Any) -> None:
        before, walls = [], []
        for work in works:
            # The change before is looked at once more until its time is old enough to be trusted.
            time.sleep(2.5)
            index.cm("refresh", "--quiet")
            before.append(index.cm("refresh", "--quiet").wall)
            work()
            done = index.cm("refresh", "--json")
            walls.append(done.wall)
        summary = json.loads(done.printed)
        read = {key: summary[key] for key in ("files_parsed", "bytes_read")}
        made[name] = {"wall": median(walls), "no_change": median(before), **read}

    change("append a line", *(partial(append, path, line) for path in grown))
    change("new file", lambda: shutil.copyfile(copied, copied.with_name("new.jsonl")))
    change("rename", lambda: moved.rename(moved.with_name("moved.jsonl")))
    change("rewrite", lambda: rewritten.write_bytes(rewritten.read_bytes().replace(b"\n", b" \n", 1)))
    change("delete", deleted.unlink)
    return made


def append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)


def searched(folder: Path, root: Path) -> float:
    """MB of an index that also has tool inputs, thinking and the search index."""
    index = Index(folder, root, "searched")
    settings = folder / "searched.toml"
    settings.write_text('search = ["thinking"]\n')
    index.environment["CM_CONFIG"] = str(settings)
    index.first()
    index.cm("search", "the", "--json")
    megabytes = index.path.stat().st_size / 1e6
    index.remove()
    return megabytes


def against_ccusage(one: dict[str, Any]) -> list[Target]:
    if "ccusage" not in one:
        return []
    limits = {"first": 1.0, "no change": 1 / 25, "stats": 1 / 12, "daily": 1 / 12}
    return [Target(f"{name} / ccusage", one[name] / one["ccusage"], limit) for name, limit in limits.items()]


def own_ratios(one: dict[str, Any], corpus: dict[str, Any]) -> list[Target]:
    line = one["changes"]["append a line"]
    return [
        Target("no change / python -c pass", one["no change"] / one["python"], 4),
        Target("append a line / no change", line["wall"] / line["no_change"], 2.5),
        Target("peak memory, MB", one["peak_mb"], 120),
        Target("index / transcripts", one["index_mb"] / corpus["megabytes"], 0.25),
        Target("index with all that is searched / transcripts", one["searched_mb"] / corpus["megabytes"], 0.6),
    ]


def tenfold(one: dict[str, Any], ten: dict[str, Any]) -> list[Target]:
    limits = {"first": 10.5, "no change": 5.5, "stats, no refresh": 1.5, "daily, no refresh": 1.5}
    ratios = [Target(f"{name}: tenfold", ten[name] / one[name], limit) for name, limit in limits.items()]
    return [*ratios, Target("peak memory tenfold, MB", ten["peak_mb"], 120)]


def markdown(report: dict[str, Any]) -> str:
    corpus, one = report["corpus"], report["times"]
    files, megabytes = corpus["files"], corpus["megabytes"]
    seconds = [(name, f"{found:.3f}") for name, found in one.items() if isinstance(found, float) and "mb" not in name]
    for name, change in one["changes"].items():
        what = f"{name}: {change['files_parsed']} files, {change['bytes_read']:,} bytes read"
        seconds.append((what, f"{change['wall']:.3f}"))
    workers = [
        (count, f"{found['wall']:.2f}", f"{found['cpu']:.2f}", f"{found['peak_mb']:.0f}")
        for count, found in report["workers"].items()
    ]
    targets = [
        (found["name"], f"{found['figure']:.3f}", f"{found['limit']:.3f}", "met" if found["is_met"] else "missed")
        for found in report["targets"]
    ]
    equal = "equal" if report["numbers_are_equal"] else "NOT EQUAL"
    parts = [
        f"{report['machine']}: {files:,} transcripts, {corpus['records']:,} records, {megabytes:.0f} MB",
        f"First index: {one['first']:.2f} s, {files / one['first']:,.0f} files/s, {megabytes / one['first']:,.0f} MB/s;"
        f" numbers {equal} over workers and changes",
        table(("workers", "seconds", "CPU seconds", "peak MB"), workers),
        table(("what", "seconds"), seconds),
        table(("target", "figure", "at most", ""), targets),
    ]
    return "\n\n".join(parts)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
