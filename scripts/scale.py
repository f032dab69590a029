#!/usr/bin/env python3
"""Holds DuckDB and a Spark cluster, on the exports of many made-up hosts, against one index of all their transcripts.

scripts/scale.py DIR                               20 hosts of 100,000 responses each: some minutes, 4 GB in DIR
scripts/scale.py DIR --hosts 3 --responses 1000    seconds

Every number of `cm stats` and `cm daily` must be equal, to the nanodollar; exits 1 where one is not. Prints what each
engine needs for both on 1 host, on a quarter, on half and on all of them. Needs duckdb; Spark needs pyspark and Java.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from indexer import export, store
from indexer.facts import Options
from indexer.refresh import refresh

ENGINES = ("duckdb", "spark")
PER_SESSION, SHARED = 100, 0.05
MODELS = "claude-opus-4-5-20251101 claude-opus-4-8 claude-sonnet-4-6 claude-haiku-4-5-20251001 claude-opus-5".split()
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
DAYS = 300
TOKENS = ("input_tokens", "output_tokens", "cache_creation_tokens", "cache_read_tokens")
KINDS = ("input", "output", "cache_write", "cache_read", "web_search")

STATS = f"""
SELECT
  project, model, {", ".join(f"sum({name}) AS {name}" for name in TOKENS)}, sum(responses) AS responses,
  {", ".join(f"sum({kind}_cost_usd) AS {kind}_cost_usd" for kind in KINDS)}
FROM usage GROUP BY project, model ORDER BY project, model
"""
SUMS = (*TOKENS, "total_tokens", "responses", "sessions", "unpriced_tokens", "undercounted_responses", "cost_usd")
DAILY = f"SELECT CAST(day AS VARCHAR(10)), {', '.join(SUMS)} FROM daily_usage ORDER BY day"

Answers = list[list[tuple[Any, ...]]]


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
        asked = _ask_duckdb(directory) if options.ask == "duckdb" else _ask_spark(directory)
        print(json.dumps(asked))
        return 0
    # Whatever the user has set is not of this history.
    for name in [name for name in os.environ if name.startswith(("CM_", "CLAUDE_"))]:
        del os.environ[name]
    os.environ |= {"CM_LOG": str(directory / "log"), "XDG_CONFIG_HOME": str(directory / "config"), "CM_TIMEZONE": "UTC"}
    counts = sorted({1, -(-options.hosts // 4), -(-options.hosts // 2), options.hosts})
    _make(directory, options.hosts, options.responses)
    answers = _measure(directory, options.engines, counts)
    truth = json.loads(json.dumps(_truth(directory, options.hosts)))
    for engine, said in answers.items():
        print(f"{engine}: {'every number equal' if said == truth else 'DIFFERENT'}")
    return 0 if all(said == truth for said in answers.values()) else 1


def _measure(directory: Path, engines: Sequence[str], counts: Sequence[int]) -> dict[str, Answers]:
    """Prints what each engine needs; what each says of all hosts."""
    answers = {}
    print("| engine | hosts | responses | seconds: stats | daily | CPU | MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for engine in engines:
        for count in counts:
            said = _run(engine, _exports_of(directory, count))
            total = sum(int(row[6]) for row in said["answers"][0])
            figures = " | ".join(f"{seconds:.1f}" for seconds in (*said["seconds"], said["cpu_seconds"]))
            print(f"| {engine} | {count} | {total:,} | {figures} | {said['megabytes']:,.0f} |", flush=True)
        answers[engine] = said["answers"]
    return answers


# Hosts


def _make(directory: Path, hosts: int, responses: int) -> None:
    """Transcripts of each host, its index, and its export into one directory; what is there already stays."""
    for n in range(hosts):
        root = directory / "hosts" / f"{n:02}"
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


def _truth(directory: Path, hosts: int) -> Answers:
    """What `cm stats` and `cm daily` say of one index of all transcripts; costs as whole nanodollars in decimals."""
    from indexer import metrics

    database = str(directory / "all.db")
    started = time.perf_counter()
    refresh([str(directory / "hosts" / f"{n:02}") for n in range(hosts)], database)
    print(f"one index of all hosts: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    connection = store.open_reader(database)
    stats = [
        (project, model, *map(str, tokens[:4]), str(responses), *map(_usd, tokens[4:]))
        for project, _, model, *tokens, responses, _ in connection.execute(metrics._SUMS)
    ]
    sums = ", ".join("sum(u.cost_nano)" if name == "cost_usd" else _daily_sum(name) for name in SUMS)
    sql = f"SELECT date(u.local_day * 86400, 'unixepoch'), {sums} FROM local_usage AS u GROUP BY 1 ORDER BY 1"
    daily = [(day, *map(str, numbers), _usd(nano)) for day, *numbers, nano in connection.execute(sql)]
    connection.close()
    return [stats, daily]


def _daily_sum(name: str) -> str:
    from indexer.reports import SUMS as texts

    return texts[name].format(cost="u.cost_nano")


def _usd(nano: int | None) -> str | None:
    return None if nano is None else f"{Decimal(nano) / 10**9:.9f}"


def _plain(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Rows with all that is not NULL as text, costs with nine decimals."""
    return [
        tuple(
            value if value is None or isinstance(value, str) else
            f"{value:.9f}" if isinstance(value, Decimal) and value.as_tuple().exponent else str(int(value))
            for value in row
        )
        for row in rows
    ]  # fmt: skip


# Engines


def _run(engine: str, exports: Path) -> dict[str, Any]:
    """Asks in a process of its own, in the directory of the exports; its memory is the engine's."""
    command = [sys.executable, __file__, str(exports), "--ask", engine]
    said = subprocess.run(command, cwd=exports, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _ask_duckdb(exports: Path) -> dict[str, Any]:
    import duckdb

    connection = duckdb.connect(config={"threads": "2"})
    connection.execute((exports / "views.sql").read_text())
    return _time([os.getpid()], lambda sql: connection.execute(sql).fetchall())


def _ask_spark(exports: Path) -> dict[str, Any]:
    """Of a cluster of its own: a master and two workers of one core and 1 GB each, all on the loopback."""
    with _spark_cluster(exports) as (spark, pids):
        for statement in (exports / "views-spark.sql").read_text().split(";\n"):
            if statement.strip():
                spark.sql(statement)
        spark.sql("SELECT count(*) FROM files").collect()  # the executors have started
        found = _time([*pids, os.getpid()], lambda sql: spark.sql(sql).collect())
        executors = int(spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size()) - 1
        assert executors == 2, f"{executors} executors"
        return found


@contextmanager
def _spark_cluster(folder: Path) -> Iterator[tuple[Any, list[int]]]:
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
                yield spark, [process.pid for process in started]
            finally:
                spark.stop()
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()


def _needs(pids: Sequence[int]) -> tuple[float, float]:
    """CPU seconds, and the most memory in MB, of these processes and those they started, together."""
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
    todo, all_of_them = list(pids), []
    while todo:
        pid = todo.pop()
        all_of_them.append(found.get(pid, (0.0, 0.0)))
        todo += children.get(pid, [])
    return sum(cpu for cpu, _ in all_of_them), sum(peak for _, peak in all_of_them)


def _time(pids: Sequence[int], ask: Callable[[str], Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """Answers to both questions, what they took, and the most memory until then."""
    answers, seconds = [], []
    before, _ = _needs(pids)
    for sql in (STATS, DAILY):
        started = time.perf_counter()
        answers.append(_plain(ask(sql)))
        seconds.append(time.perf_counter() - started)
    after, megabytes = _needs(pids)
    return {"answers": answers, "seconds": seconds, "cpu_seconds": after - before, "megabytes": megabytes}


if __name__ == "__main__":
    sys.exit(main())
