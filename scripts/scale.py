#!/usr/bin/env python3
"""Holds DuckDB and a Spark cluster, on the exports of many made-up hosts, against `cm merge` of the hosts' indexes.

scripts/scale.py DIR                               20 hosts of 100,000 responses each: an hour or less, 6 GB in DIR
scripts/scale.py DIR --hosts 3 --responses 1000    seconds

Every number of `cm stats --json` and `cm daily --json` must be equal, to the nanodollar; exits 1 where one is not.
Prints what merging needs and what each engine needs for both answers, on 1 host, on a quarter, on half and on all of
them. Needs duckdb; Spark needs pyspark and Java.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from indexer import export, metrics, store
from indexer.facts import Options
from indexer.refresh import refresh

CHECKOUT = Path(__file__).resolve().parent.parent
ENGINES = ("duckdb", "spark")
PER_SESSION, SHARED = 100, 0.05
MODELS = "claude-opus-4-5-20251101 claude-opus-4-8 claude-sonnet-4-6 claude-haiku-4-5-20251001 claude-opus-5".split()
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 300

# The columns that `metrics.assemble` takes; a row without a model is of its project.
STATS = """
SELECT
  project, project_name, model,
  sum(input_tokens), sum(output_tokens), sum(cache_creation_tokens), sum(cache_read_tokens),
  sum(input_cost_usd), sum(output_cost_usd), sum(cache_write_cost_usd), sum(cache_read_cost_usd),
  sum(web_search_cost_usd), sum(responses), sum(CASE WHEN cost_usd IS NULL THEN total_tokens END),
  count(DISTINCT session_id), CAST(max(occurred_at) AS VARCHAR(30))
FROM usage
GROUP BY GROUPING SETS ((project, project_name, model), (project, project_name))
ORDER BY project, model
"""
COSTS = slice(7, 12)
DAILY = "SELECT * FROM daily_usage ORDER BY day"

Rows = Sequence[Sequence[Any]]


class Needed(NamedTuple):
    """Seconds of the clock and of the CPU, and the most memory in MB."""

    seconds: float
    cpu: float
    megabytes: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--responses", type=int, default=100_000, help="of each host")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--ask", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    directory = options.directory.resolve()
    if options.ask:
        print(json.dumps(_ask_duckdb(directory) if options.ask == "duckdb" else _ask_spark(directory)))
        return 0
    # Whatever the user has set is not of this history.
    for name in [name for name in os.environ if name.startswith(("CM_", "CLAUDE_"))]:
        del os.environ[name]
    os.environ |= {"CM_LOG": str(directory / "log"), "XDG_CONFIG_HOME": str(directory / "config"), "CM_TIMEZONE": "UTC"}
    counts = sorted({1, -(-options.hosts // 4), -(-options.hosts // 2), options.hosts})
    _make(directory, options.hosts, options.responses)
    truths = _merge(directory, counts)
    return 0 if _compare(directory, options.engines, truths) else 1


def _merge(directory: Path, counts: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Merges more and more hosts into one index, and prints what that needs; what `cm` says of each number of them."""
    for left in directory.glob("merged.db*"):
        left.unlink()
    print("| hosts | responses | merged in s | CPU s | MB | `cm stats` s | `cm daily` s | index, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    truths = {}
    merged = 0
    for count in counts:
        others = [str(_host(directory, n) / "cm.db") for n in range(merged, count)]
        merged = count
        _, merging = _cm(directory, "merge", *others)
        stats, first = _cm(directory, "stats", "--no-refresh")
        daily, second = _cm(directory, "daily", "--no-refresh")
        truths[count] = {"stats": stats, "daily": daily}
        size = (directory / "merged.db").stat().st_size / 1e6
        print(
            f"| {count} | {stats['messages_count']:,} | {merging.seconds:.1f} | {merging.cpu:.1f} |"
            f" {merging.megabytes:,.0f} | {first.seconds:.1f} | {second.seconds:.1f} | {size:,.0f} |",
            flush=True,
        )
    return truths


def _cm(directory: Path, *arguments: str) -> tuple[Any, Needed]:
    """What a command on the merged index prints as JSON, and what it needs."""
    places = {
        "PYTHONPATH": str(CHECKOUT),
        "CM_DB": str(directory / "merged.db"),
        "CM_ROOTS": str(directory / "nothing"),
    }
    command = [sys.executable, "-m", "indexer", *arguments, "--json"]
    started = time.perf_counter()
    with subprocess.Popen(command, env=os.environ | places, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return json.loads(said), Needed(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _compare(directory: Path, engines: Sequence[str], truths: Mapping[int, Any]) -> bool:
    """Prints what each engine needs for the answers, and whether they are equal; whether all are."""
    print("\n| engine | hosts | responses | stats, s | daily, s | CPU s, both | MB | numbers |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    is_equal = True
    for engine in engines:
        for count, truth in truths.items():
            said, needed = _run(engine, _exports_of(directory, count))
            verdict = f"{_numbers(said):,} equal" if said == truth else "DIFFERENT"
            is_equal &= said == truth
            print(
                f"| {engine} | {count} | {truth['stats']['messages_count']:,} | {needed[0].seconds:.1f} |"
                f" {needed[1].seconds:.1f} | {sum(part.cpu for part in needed):.1f} |"
                f" {max(part.megabytes for part in needed):,.0f} | {verdict} |",
                flush=True,
            )
    return is_equal


def _numbers(found: Any) -> int:
    """How many there are in it."""
    if isinstance(found, dict):
        found = list(found.values())
    return sum(map(_numbers, found)) if isinstance(found, list) else int(isinstance(found, int | float))


# Hosts


def _host(directory: Path, n: int) -> Path:
    return directory / "hosts" / f"{n:02}"


def _make(directory: Path, hosts: int, responses: int) -> None:
    """Transcripts of each host, its index, and its export into one directory; what is there already stays."""
    for n in range(hosts):
        root = _host(directory, n)
        if (root / "done").exists():
            continue
        started = time.perf_counter()
        for session in range(responses // PER_SESSION):
            _write_session(root, n, session)
        if n:
            # What the host before has of these sessions stands here too.
            for session in range(int(responses // PER_SESSION * SHARED)):
                _write_session(root, n - 1, session)
        indexed, exported = _index_and_export(directory, root, f"host-{n:02}")
        (root / "done").touch()
        made = time.perf_counter() - started - indexed - exported
        print(f"host {n}: transcripts {made:.1f} s, index {indexed:.1f} s, export {exported:.1f} s", file=sys.stderr)


def _write_session(root: Path, host: int, session: int) -> None:
    rng = random.Random(f"{host} {session}")
    at = BEGIN + timedelta(seconds=rng.randrange(DAYS * 86_400))
    name, project = f"5e55{host:04}-0000-4000-8000-{session:012}", f"/home/dev/project-{rng.randrange(30):02}"
    lines = []
    for n in range(PER_SESSION):
        at += timedelta(seconds=rng.randrange(1, 600))
        common = {"type": "assistant", "sessionId": name, "cwd": project, "isSidechain": False}
        lines += [json.dumps(common | record) for record in _response(rng, at, f"{host:04}{session:08}{n:04}")]
    path = root / "projects" / project.replace("/", "-") / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _response(rng: random.Random, at: datetime, identity: str) -> Iterator[dict[str, Any]]:
    """Its two records, of which the second knows how much was put out."""
    written = {"ephemeral_5m_input_tokens": rng.randrange(3000), "ephemeral_1h_input_tokens": rng.randrange(300)}
    usage: dict[str, Any] = {"cache_creation": written, "cache_creation_input_tokens": sum(written.values())}
    usage |= {"input_tokens": rng.randrange(2000), "cache_read_input_tokens": rng.randrange(150_000)}
    message: dict[str, Any] = {"id": f"msg_01{identity:0>22}", "type": "message", "role": "assistant", "content": []}
    message["model"] = rng.choice(MODELS)
    for part, output in enumerate((1, rng.randrange(1, 3000))):
        said = {"stop_reason": "end_turn" if part else None, "usage": {**usage, "output_tokens": output}}
        yield {
            "uuid": f"{identity}-{part}",
            "requestId": f"req_{identity}",
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{part:03}Z",
            "message": {**message, **said},
        }


def _index_and_export(directory: Path, root: Path, name: str) -> tuple[float, float]:
    """Seconds of each."""
    database = str(root / "cm.db")
    started = time.perf_counter()
    refresh([str(root)], database)
    indexed = time.perf_counter()
    connection = store.open_writer(database)
    connection.execute("UPDATE hosts SET name = ?, user = 'dev' WHERE id = 1", (name,))
    connection.close()
    reader = store.open_reader(database)
    export.export(reader, database, str(directory / "exports"), Options())
    reader.close()
    return indexed - started, time.perf_counter() - indexed


def _exports_of(directory: Path, count: int) -> Path:
    """The exports of the first hosts alone, as links to the same files."""
    found = directory / f"exports-{count}"
    shutil.rmtree(found, ignore_errors=True)
    names = {f"host=host-{n:02}" for n in range(count)}
    for file in (directory / "exports").rglob("*"):
        place = found / file.relative_to(directory / "exports")
        if file.is_file() and (file.parent.name in names or file.suffix == ".sql"):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
    return found


# Engines


def _run(engine: str, exports: Path) -> tuple[dict[str, Any], list[Needed]]:
    """Asks in a process of its own, in the directory of the exports; its memory is the engine's."""
    command = [sys.executable, __file__, str(exports), "--ask", engine]
    said = subprocess.run(command, cwd=exports, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(said.splitlines()[-1])
    return {name: found[name] for name in ("stats", "daily")}, [Needed(*needed) for needed in found["needed"]]


def _ask_duckdb(exports: Path) -> dict[str, Any]:
    import duckdb

    connection = duckdb.connect(config={"threads": "2"})
    connection.execute((exports / "views.sql").read_text())

    def ask(sql: str) -> tuple[list[str], Rows]:
        found = connection.execute(sql)
        return [column[0] for column in found.description], found.fetchall()

    return _answers(ask)


def _ask_spark(exports: Path) -> dict[str, Any]:
    """Of a cluster of its own: a master and two workers of one core and 1 GB each, all on the loopback."""
    with _spark_cluster(exports) as spark:
        for statement in (exports / "views-spark.sql").read_text().split(";\n"):
            if statement.strip():
                spark.sql(statement)
        spark.sql("SELECT count(*) FROM files").collect()  # the executors have started

        def ask(sql: str) -> tuple[list[str], Rows]:
            frame = spark.sql(sql)
            return frame.columns, frame.collect()

        found = _answers(ask)
        executors = int(spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) - 1
        assert executors == 2, f"{executors} executors"
        return found


@contextmanager
def _spark_cluster(folder: Path) -> Iterator[Any]:
    import pyspark
    from pyspark.sql import SparkSession

    home = Path(pyspark.__file__).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1", "PYSPARK_PYTHON": sys.executable}
    os.environ |= {"SPARK_WORKER_DIR": str(folder / "spark-work"), "SPARK_LOCAL_DIRS": str(folder / "spark-local")}
    url = f"spark://127.0.0.1:{port}"
    parts = [["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]]
    parts += [["worker.Worker", "--cores", "1", "--memory", "1g", "--host", "127.0.0.1", "--webui-port", "0", url]] * 2
    with (folder / "spark.log").open("w") as log:
        started = []
        for name, *arguments in parts:
            command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        try:
            builder = SparkSession.builder.master(url).appName("cm").config("spark.executor.memory", "1g")
            for key, value in {
                "spark.driver.host": "127.0.0.1", "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "8",
                "spark.sql.session.timeZone": "UTC", "spark.ui.enabled": "false", "spark.log.level": "ERROR",
                "spark.ui.showConsoleProgress": "false", "spark.scheduler.minRegisteredResourcesRatio": "1.0",
                "spark.cores.max": "2",
                # Months of single hosts are small files: several make one task.
                "spark.sql.files.openCostInBytes": "131072", "spark.scheduler.maxRegisteredResourcesWaitingTime": "60s",
            }.items():  # fmt: skip
                builder = builder.config(key, value)
            spark = builder.getOrCreate()
            try:
                yield spark
            finally:
                spark.stop()
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()


def _answers(ask: Callable[[str], tuple[list[str], Rows]]) -> dict[str, Any]:
    """Both answers as `cm` has them, and what each took."""
    needed, found = [], []
    for sql in (STATS, DAILY):
        started, (before, _) = time.perf_counter(), _needs()
        found.append(ask(sql))
        seconds, (after, megabytes) = time.perf_counter() - started, _needs()
        needed.append(Needed(seconds, after - before, megabytes))
    (_, stats), (columns, days) = found
    return {
        "stats": _stats(stats),
        "daily": [_day(dict(zip(columns, row, strict=True))) for row in days],
        "needed": needed,
    }


def _stats(rows: Rows) -> dict[str, Any]:
    sums = [
        [
            *row[:3],
            *map(_whole, row[3:7]),
            *(_whole((usd or 0) * 10**9) for usd in row[COSTS]),
            *(_whole(count or 0) for count in row[12:14]),
        ]
        for row in rows
        if row[2] is not None
    ]
    conversations = {row[0]: int(row[14]) for row in rows if row[2] is None}
    newest = datetime.fromisoformat(max(row[15] for row in rows))
    last = newest.isoformat(timespec="milliseconds") + "Z"
    return metrics.assemble(sums, conversations, last).to_dict()


def _day(row: dict[str, Any]) -> dict[str, Any]:
    row |= {key: _whole(value) for key, value in row.items() if key not in ("day", "models", "cost_usd")}
    return row | {
        "day": str(row["day"]),
        "models": list(row["models"]),
        "cost_usd": None if row["cost_usd"] is None else float(row["cost_usd"]),
    }


def _whole(number: Any) -> int | None:
    """Sums of whole numbers are decimals in some engines."""
    return None if number is None else int(number)


def _needs() -> tuple[float, float]:
    """CPU seconds, and the most memory in MB, of this process and all that it started, together."""
    children: dict[int, list[int]] = {}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            times = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(status["PPid"]), []).append(int(folder.name))
        peak = int(status.get("VmHWM", "0 kB").split()[0])
        found[int(folder.name)] = ((int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), peak / 1024)
    todo, all_of_them = [os.getpid()], []
    while todo:
        pid = todo.pop()
        all_of_them.append(found.get(pid, (0.0, 0.0)))
        todo += children.get(pid, [])
    return sum(cpu for cpu, _ in all_of_them), sum(peak for _, peak in all_of_them)


if __name__ == "__main__":
    sys.exit(main())
