"""Measure `cm watch` as it runs: latency with 20 writers, CPU when idle, memory over many lines.

Prints one line of JSON per measurement: seconds, share of a core, MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
POLL = 0.005


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="latency|idle|memory", help="by default all of them")
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="of writing, and of being idle")
    parser.add_argument("--folders", type=int, default=10_000, help="with one transcript each, when idle")
    parser.add_argument("--lines", type=int, default=100_000, help="appended while memory is measured")
    parser.add_argument("--interval", type=float, default=30, help="that `cm watch` is given")
    options = parser.parse_args()
    for name, measure in (("latency", latency), ("idle", idle), ("memory", memory)):
        if not options.parts or name in options.parts:
            with tempfile.TemporaryDirectory(prefix="cm-soak-") as folder:
                print(json.dumps({"measured": name, **measure(Path(folder), options)}), flush=True)


def latency(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """From a line appended to its row visible to a reader; writers pause as sessions do: 50 ms to 2 s."""
    written: dict[str, float] = {}
    stop = threading.Event()

    def write(number: int) -> None:
        session = f"session-{number}"
        path = transcript(folder, f"project-{number % 5}", session)
        while not stop.wait(random.uniform(0.05, 2.0)):
            identity = f"{session}-{time.monotonic_ns()}"
            with path.open("ab") as file:
                file.write(line(session, identity))
            written[identity] = time.monotonic()

    for number in range(options.writers):
        transcript(folder, f"project-{number % 5}", f"session-{number}").touch()
    with watching(folder, options.interval) as process:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(options.writers)]
        before = cpu(process)
        for thread in threads:
            thread.start()
        seen = read_until(folder, written, time.monotonic() + options.seconds)
        stop.set()
        for thread in threads:
            thread.join()
        seen |= read_until(folder, {key: at for key, at in written.items() if key not in seen}, time.monotonic() + 5)
        used = cpu(process) - before
    delays = sorted(seen.values())
    return {
        "lines": len(written),
        "never_seen": len(written.keys() - seen.keys()),
        "median": round(median(delays), 3),
        "p99": round(quantiles(delays, n=100)[98], 3),
        "max": round(delays[-1], 3),
        "cpu_share": round(used / options.seconds, 3),
    }


def read_until(folder: Path, written: dict[str, float], end: float) -> dict[str, float]:
    """Looks for what was written until the time is over; how long each line took to be seen."""
    connection = sqlite3.connect(f"file:{folder / 'cm.db'}?mode=ro", uri=True)
    seen: dict[str, float] = {}
    query = "SELECT 1 FROM records WHERE uuid = ?"
    while time.monotonic() < end:
        for identity, at in list(written.items()):
            if identity not in seen and connection.execute(query, (identity,)).fetchone():
                seen[identity] = time.monotonic() - at
        time.sleep(POLL)
    connection.close()
    return seen


def idle(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU time while nothing happens, sweeps included."""
    for number in range(options.folders):
        transcript(folder, f"project-{number}", f"session-{number}").write_bytes(line(f"session-{number}", f"{number}"))
    with watching(folder, options.interval) as process:
        time.sleep(options.interval / 2)  # so that as many sweeps are measured as there are intervals
        before = cpu(process)
        time.sleep(max(options.seconds, 2 * options.interval))
        used = cpu(process) - before
        return {
            "folders": options.folders,
            "cpu_share": round(used / max(options.seconds, 2 * options.interval), 4),
            "rss_mb": rss(process),
        }


def memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after each tenth of the lines, which are appended as fast as they are indexed."""
    paths = [transcript(folder, "project", f"session-{number}") for number in range(options.writers)]
    sizes: list[float] = []
    with watching(folder, options.interval) as process:
        connection = sqlite3.connect(f"file:{folder / 'cm.db'}?mode=ro", uri=True)
        count = 0
        started = time.monotonic()
        while count < options.lines:
            for path in paths:
                with path.open("ab") as file:
                    file.write(b"".join(line(path.stem, f"{path.stem}-{count + n}") for n in range(10)))
                count += 10
            while count - connection.execute("SELECT count(*) FROM records").fetchone()[0] > 1_000:
                time.sleep(POLL)
            if count * 10 // options.lines > len(sizes):
                sizes.append(rss(process))
        took = time.monotonic() - started
        connection.close()
    return {"lines": count, "seconds": round(took, 1), "rss_mb": sizes}


@contextmanager
def watching(folder: Path, interval: float) -> Iterator[subprocess.Popen[str]]:
    """`cm watch` on the folder, once it is ready."""
    command = [sys.executable, "-m", "indexer", "watch", "--once-ready", "--interval", str(interval)]
    places = {"HOME": str(folder), "CM_DB": str(folder / "cm.db"), "CM_LOG": str(folder / "cm.log")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **places}
    (folder / ".claude" / "projects").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            sys.exit("cm watch did not become ready")
        yield process
        process.send_signal(signal.SIGTERM)
        if process.wait(30) != 0:
            sys.exit(f"cm watch ended with {process.returncode}")
    finally:
        process.kill()


def transcript(folder: Path, project: str, session: str) -> Path:
    path = folder / ".claude" / "projects" / project / f"{session}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def line(session: str, identity: str) -> bytes:
    """A response of some 1,200 bytes, as long as an average line."""
    usage = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 1_000}
    content = [{"type": "text", "text": "word " * 150}]
    message = {"id": f"msg-{identity}", "role": "assistant", "model": "claude-opus-4-5-20251101", "content": content}
    record = {"type": "assistant", "uuid": identity, "sessionId": session, "cwd": "/home/dev/app", "isSidechain": False}
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    return json.dumps({**record, "timestamp": at, "message": {**message, "usage": usage}}).encode() + b"\n"


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of CPU time the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss(process: subprocess.Popen[str]) -> float:
    """Megabytes of memory it has."""
    for entry in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if entry.startswith("VmRSS:"):
            return round(int(entry.split()[1]) / 1024, 1)
    return 0.0


if __name__ == "__main__":
    main()
