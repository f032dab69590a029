#!/usr/bin/env python3
"""Times the first refresh of a corpus with different numbers of workers, in turn, and prints a table of ratios.

scripts/gen_corpus.py DIR && scripts/bench.py DIR
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
WORKERS = (1, 2, 8, 20, 50, 100, 200)


def first_refresh(corpus: Path, workers: int) -> tuple[float, float, dict[str, float]]:
    """Wall seconds, CPU seconds and phases of a refresh into a new index."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": str(CHECKOUT),
            "CLAUDE_CONFIG_DIR": str(corpus),
            "CM_DB": f"{folder}/cm.db",
            "CM_LOG": f"{folder}/cm.log",
        }
        command = [sys.executable, "-m", "indexer", "refresh", "--quiet", "--json", "--workers", str(workers)]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, env=environment, check=True, capture_output=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall, cpu, json.loads(done.stdout)["phases"]


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="Claude config directory, as scripts/gen_corpus.py writes it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    options = parser.parse_args()
    first_refresh(options.corpus, 1)  # the file cache is warm from here on
    seconds: dict[int, list[tuple[float, float]]] = {count: [] for count in options.workers}
    for _ in range(options.runs):
        for count in options.workers:  # in turn, because the machine's speed drifts
            wall, cpu, _phases = first_refresh(options.corpus, count)
            seconds[count].append((wall, cpu))
    print("| workers | seconds | CPU seconds | against 1 worker |\n| --- | --- | --- | --- |")
    one = seconds[options.workers[0]]
    for count, runs in seconds.items():
        ratio = statistics.median(a[0] / b[0] for a, b in zip(runs, one, strict=True))
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {count} | {wall:.1f} | {cpu:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
