"""The pool that reads transcripts: parts come back as they are ready, a bounded number at a time."""

from __future__ import annotations

import os

from . import transcripts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    import threading
    from collections.abc import Iterator, Sequence
    from queue import Queue

    from .shard import Shard
    from .transcripts import Job, Part

# Parts held between a worker and the writer: each is the rows of up to 4 MiB of a transcript.
_WAITING = 4
# From here on starting interpreters (0.15 s) costs less than it saves.
BULK = 32 * 1024 * 1024


def default_workers(jobs: int, size: int) -> int:
    """Workers for that many transcripts and bytes: one per core in bulk; otherwise threads, for the waits of a disk.

    Parsing holds the GIL, so more threads than a few only wait for it.
    """
    if size >= BULK:
        return os.cpu_count() or 1
    return 1 if jobs < 8 else 2


def run(jobs: Sequence[Job], connection: sqlite3.Connection, workers: int | None = None) -> Iterator[Part | Shard]:
    """Reads the transcripts and gives their parts, those of one transcript in order; in bulk, shards of the index."""
    size = sum(job.found.size - job.offset for job in jobs)
    if count := process_count(len(jobs), size, workers):
        from . import processes, shard

        yield from processes.run(jobs, count, shard.Blueprint(connection))
    elif (count := _workers(len(jobs), size, workers)) > 1:
        yield from _threads(jobs, count)
    else:
        for job in jobs:
            yield from transcripts.read(job)


def process_count(jobs: int, size: int, workers: int | None = None) -> int:
    """How many processes read that many transcripts and bytes; 0: none, it is not worth it."""
    cores, count = os.cpu_count() or 1, _workers(jobs, size, workers)
    return min(count, cores) if count > 1 and cores > 1 and size >= BULK else 0


def _workers(jobs: int, size: int, workers: int | None) -> int:
    return min(workers or default_workers(jobs, size), jobs)


def _threads(jobs: Sequence[Job], count: int) -> Iterator[Part]:
    import threading
    from queue import Queue

    parts: Queue[Part | None] = Queue(_WAITING * count)
    todo: Queue[Job] = Queue()
    for job in jobs:
        todo.put(job)
    stop = threading.Event()
    threads = [threading.Thread(target=_work, args=(todo, parts, stop), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        running = count
        while running:
            part = parts.get()
            if part is None:
                running -= 1
            else:
                yield part
    finally:
        # The writer may have failed: no worker may wait for ever to hand over what nobody takes.
        stop.set()
        for thread in threads:
            thread.join()


def _work(todo: Queue[Job], parts: Queue[Part | None], stop: threading.Event) -> None:
    while not stop.is_set() and not todo.empty():
        try:
            job = todo.get_nowait()
        except Exception:  # another worker took the last one
            break
        for part in transcripts.read(job):
            if not _hand_over(parts, part, stop):
                return
    _hand_over(parts, None, stop)


def _hand_over(parts: Queue[Part | None], part: Part | None, stop: threading.Event) -> bool:
    from queue import Full

    while not stop.is_set():
        try:
            parts.put(part, timeout=0.2)
        except Full:
            continue
        return True
    return False
