"""This machine's part of the index as Parquet files, for engines that read those of many machines together.

fingerprints of what is exported → which partitions are not what the manifest says → each written beside its place and
renamed → the manifest, last

So after a kill at any moment every file is whole, and the next export writes what the manifest does not tell of.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from datetime import date, timedelta
from hashlib import blake2b
from itertools import islice
from urllib.parse import quote

from . import across, store
from .errors import BadInput, MissingLibrary
from .facts import UNDATED, VERSION, Facts, Options
from .schema import SQL

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, NamedTuple

    import pyarrow

    from .facts import Column, Table

    class Partition(NamedTuple):
        """A file of the export: its path in the directory, what is in it, and how that is known."""

        path: str
        table: Table
        days: Sequence[int]
        fingerprint: str

else:
    from collections import namedtuple

    Partition = namedtuple("Partition", "path table days fingerprint")

# Rows held at a time. Groups of a hundred thousand are what engines skip by their minimum and maximum.
_BATCH, _GROUP = 20_000, 100_000
_SPARK_TYPES = {
    "INTEGER": "BIGINT",
    "TEXT": "STRING",
    "TIME": "TIMESTAMP",
    "USD": "DECIMAL(20, 9)",
    "PRICE": "DECIMAL(18, 6)",
}
_HEAD = "-- Written by `cm export`, format "


def export(connection: sqlite3.Connection, database: str, directory: str, options: Options) -> dict[str, Any]:
    """Writes what changed since the last export; the object that `cm export --json` prints.

    Raises:
        BadInput: the directory cannot be written, or a newer cm wrote there. MissingLibrary: pyarrow.
    """
    started = time.perf_counter()
    _require_pyarrow()
    try:
        with store.Lock(database, of="export", needs_index=False), store.snapshot(connection):
            _check_version(directory)
            found = _export(Facts(connection, options), directory, options)
    except OSError as error:
        raise BadInput(f"{error.filename or directory}: {error.strerror}; name a directory to write in") from error
    return {"directory": store.display_path(directory), **found, "seconds": time.perf_counter() - started}


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401  # asked for before anything is written
    except ImportError as error:
        raise MissingLibrary("export", "export", "pyarrow") from error


def _export(facts: Facts, directory: str, options: Options) -> dict[str, Any]:
    host, user = (quote(name, safe=" @+") for name in facts.host)
    for name, text in _beside(facts.tables).items():
        _replace_text(os.path.join(directory, name), text)
    place = os.path.join(directory, "_manifests", f"host={host}", f"{user}.json")
    known = _read_manifest(place)
    partitions = list(_partitions(facts, f"host={host}/{user}.parquet"))
    manifest = {}
    written = 0
    for partition in partitions:
        path = os.path.join(directory, partition.path)
        entry = known.get(partition.path)
        if entry is None or entry["fingerprint"] != partition.fingerprint or _size(path) != entry["bytes"]:
            rows = _write(path, partition, facts)
            entry = {"fingerprint": partition.fingerprint, "rows": rows, "bytes": _size(path)}
            written += 1
        manifest[partition.path] = entry
    removed = _remove_others(directory, host, user, manifest)
    head = {"format": VERSION, "host": facts.host.name, "user": facts.host.user, **options._asdict()}
    _replace_text(place, json.dumps({**head, "partitions": manifest}, indent=1) + "\n")
    return {
        "partitions_written": written,
        "partitions_unchanged": len(partitions) - written,
        "partitions_removed": removed,
        "rows": sum(entry["rows"] for entry in manifest.values()),
        "bytes": sum(entry["bytes"] for entry in manifest.values()),
    }


def _partitions(facts: Facts, name: str) -> Iterator[Partition]:
    """Tables without months first: what joins them finds them there."""
    fingerprints = facts.fingerprints()
    for table in sorted(facts.tables, key=lambda table: table.is_dated):
        months = defaultdict(list)
        for day in fingerprints[table.name]:
            months[_month(day)].append(day)
        # An engine that finds no file at all knows no columns.
        for month, days in months.items() or {"none": []}.items():
            folder = f"{table.name}/month={month}" if table.is_dated else table.name
            together = " ".join(fingerprints[table.name][day] for day in days)
            digest = blake2b(together.encode(), digest_size=16).hexdigest()
            yield Partition(f"{folder}/{name}", table, days, digest)


def _month(day: int) -> str:
    return "none" if day == UNDATED else f"{date(1970, 1, 1) + timedelta(days=day):%Y-%m}"


def _remove_others(directory: str, host: str, user: str, kept: Mapping[str, Any]) -> int:
    """Removes this host's files of months that have no rows any more, whatever manifest told of them."""
    from glob import escape, glob

    found = glob(f"*/month=*/host={escape(host)}/{escape(user)}.parquet", root_dir=directory)
    others = [path for path in found if path not in kept]
    for path in others:
        os.unlink(os.path.join(directory, path))
    return len(others)


# Files


def _write(path: str, partition: Partition, facts: Facts) -> int:
    """Writes a partition; its rows."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = partition.table.columns
    fields = [pa.field("user_name", pa.string()), *(pa.field(column.name, _arrow_type(column)) for column in columns)]
    schema = pa.schema(fields)
    count = 0

    def batches() -> Iterator[pyarrow.RecordBatch]:
        nonlocal count
        for rows in _batched(facts.rows(partition.table, partition.days)):
            count += len(rows)
            arrays = [_array(column, values) for column, values in zip(columns, zip(*rows, strict=True), strict=True)]
            yield pa.record_batch([pa.array([facts.host.user] * len(rows)), *arrays], schema=schema)

    with _replacing(path) as file:
        parquet_options: dict[str, Any] = {"compression": "zstd", "store_schema": False}
        with parquet.ParquetWriter(file, schema, **parquet_options) as writer:
            for batch in batches():
                writer.write_batch(batch, row_group_size=_GROUP)
    return count


def _batched(rows: Iterable[tuple[object, ...]]) -> Iterator[list[tuple[object, ...]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _arrow_type(column: Column) -> pyarrow.DataType:
    import pyarrow as pa

    return {
        "INTEGER": pa.int64(),
        "TEXT": pa.string(),
        "TIME": pa.timestamp("ms", "UTC"),
        "USD": pa.decimal128(20, 9),
        "PRICE": pa.decimal128(18, 6),
    }[column.kind]


def _array(column: Column, values: Sequence[Any]) -> pyarrow.Array:
    from decimal import Decimal

    import pyarrow as pa
    from pyarrow import compute

    if column.kind == "USD":
        nano = pa.scalar(Decimal("0.000000001"), pa.decimal128(10, 9))
        whole = pa.array(values, pa.int64()).cast(pa.decimal128(20, 0))
        return compute.multiply(whole, nano).cast(_arrow_type(column))
    if column.kind == "PRICE":
        # The shortest text that is this float is the decimal that was written down.
        values = [None if value is None else Decimal(repr(value)) for value in values]
    return pa.array(values, _arrow_type(column))


class _replacing:
    """A file that takes the place of another when it is whole; `writer` tells those apart who write the same one."""

    def __init__(self, path: str, writer: str = "") -> None:
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        self._path, self._partial = path, os.path.join(folder, f".{name}.{writer}partial")

    def __enter__(self) -> Any:
        self._file = open(self._partial, "wb")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            os.unlink(self._partial)


def _replace_text(path: str, text: str) -> None:
    """Writes a text, if it is not there already."""
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    except (OSError, UnicodeDecodeError):
        pass
    with _replacing(path, f"{os.uname().nodename}-{os.getpid()}.") as file:
        file.write(text.encode())


def _read_manifest(path: str) -> dict[str, Any]:
    """What the last export says it wrote; nothing where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return dict(found["partitions"]) if found["format"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


# What stands beside the files


def _check_version(directory: str) -> None:
    try:
        with open(os.path.join(directory, "views.sql"), encoding="utf-8") as file:
            head = file.readline()
    except (FileNotFoundError, UnicodeDecodeError):
        return
    number = head.removeprefix(_HEAD).partition(".")[0]
    if head.startswith(_HEAD) and number.isdigit() and int(number) > VERSION:
        raise BadInput(f"{directory} was written by a newer cm (format {number}, this is {VERSION}): update cm")


def _beside(tables: Sequence[Table]) -> dict[str, str]:
    """The texts beside the files: what they are, and the views for DuckDB and Spark."""
    with open(os.path.join(SQL, "export.md"), encoding="utf-8") as file:
        readme = file.read()
    return {
        "README.md": readme,
        "views.sql": _script(across.DUCKDB, map(_duckdb_table, tables)),
        "views-spark.sql": _script(across.SPARK, map(_spark_table, tables)),
    }


def _script(dialect: across.Dialect, tables: Iterable[str]) -> str:
    head = f"{_HEAD}{VERSION}. For {dialect.name}, started in this directory.\n"
    return "\n".join([head, *(f"{statement};\n" for statement in [*tables, *across.views(dialect)])])


def _duckdb_table(table: Table) -> str:
    place = f"{table.name}/{'month=*/' if table.is_dated else ''}host=*/*.parquet"
    types = "{'month': VARCHAR, 'host': VARCHAR}" if table.is_dated else "{'host': VARCHAR}"
    return (
        f"{across.DUCKDB.create} {table.name} AS\n"
        f"SELECT * FROM read_parquet('{place}', hive_types = {types}, union_by_name = true)"
    )


def _spark_table(table: Table) -> str:
    columns = [("user_name", "STRING"), *((column.name, _SPARK_TYPES[column.kind]) for column in table.columns)]
    columns += [("month", "STRING"), ("host", "STRING")] if table.is_dated else [("host", "STRING")]
    listed = ", ".join(f"{name} {kind}" for name, kind in columns)
    return f"{across.SPARK.create} {table.name} ({listed})\nUSING parquet OPTIONS (path '{table.name}')"
