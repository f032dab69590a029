"""Worker processes for a bulk load: parsing holds the GIL, so only processes use more than one core for it.

A worker is a fresh interpreter that talks over two pipes, and builds shards. It holds neither the lock nor the index,
and ends with its parent: its pipes are shared with nobody else, so they close when the parent dies, however it dies.
"""

from __future__ import annotations

import os
import pickle
import selectors
import sqlite3
import subprocess
import sys
from collections import deque
from contextlib import suppress

from . import shard
from .errors import CmError
from .transcripts import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .shard import Blueprint, Shard
    from .transcripts import Job

# So many that end one after the other without a shard do not start at all.
_STILLBORN = 10
_LENGTH = 8
_READ = 1 << 20


def run(jobs: Sequence[Job], count: int, blueprint: Blueprint) -> Iterator[Shard | Part]:
    """Shards of the transcripts, built by that many processes; a Part for what one died of."""
    todo = deque(_packs(jobs, count))
    workers: list[_Worker] = []
    ended = 0  # since the last shard
    selector = selectors.DefaultSelector()

    def start() -> None:
        worker = _Worker(blueprint)
        worker.send(todo.popleft())
        workers.append(worker)
        selector.register(worker.output, selectors.EVENT_READ, worker)

    try:
        while todo and len(workers) < count:
            start()
        while selector.get_map():
            for key, _ in selector.select():
                worker: _Worker = key.data
                found = worker.receive()
                ended = 0 if any(isinstance(one, shard.Shard) for one in found) else ended + worker.is_gone
                if ended == _STILLBORN:
                    raise CmError("processes that read transcripts end at once; look above, or use --workers 1")
                if worker.is_gone:
                    selector.unregister(key.fileobj)
                    worker.stop()
                    if worker.jobs:
                        todo.appendleft(worker.jobs)
                    if todo:
                        start()
                elif worker.is_idle:
                    # Before its shard is taken over, so that it has something to do meanwhile.
                    if todo:
                        worker.send(todo.popleft())
                    else:
                        selector.unregister(key.fileobj)
                        worker.stop()
                yield from found
    finally:
        selector.close()
        for worker in workers:
            worker.stop()


def _packs(jobs: Sequence[Job], count: int) -> Iterator[list[Job]]:
    """Jobs that make a shard each, in the order of their ids: neighbours are often of one session.

    Towards the end they get smaller, so that no worker still reads for long when the others have nothing to do.
    """
    left = sum(job.found.size - job.offset for job in jobs)
    pack: list[Job] = []
    size = 0
    for job in sorted(jobs, key=lambda job: job.file_id):
        pack.append(job)
        size += job.found.size - job.offset
        if size >= min(shard.BYTES, max(left / (2 * count), shard.BYTES / 6)):
            yield pack
            left -= size
            pack, size = [], 0
    if pack:
        yield pack


class _Worker:
    """The parent's end of a worker."""

    def __init__(self, blueprint: Blueprint) -> None:
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            # -P: the folder it is started in may have modules of any name.
            [sys.executable, "-P", "-c", "from indexer.processes import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # Ctrl-C is for the parent, which ends it in its own time
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        self._received = bytearray()
        self._pack: list[Job] = []
        self._reading = 0
        self.jobs: list[Job] = []  # of a worker that is gone: what another must read
        self.is_idle = False
        self.is_gone = False
        self._write(blueprint)

    def send(self, jobs: list[Job]) -> None:
        """Gives it transcripts to read. Only while it is idle: two that write to each other wait for ever."""
        self._pack, self._reading, self.is_idle = jobs, 0, False
        self._write(jobs)

    def _write(self, value: object) -> None:
        with suppress(BrokenPipeError):  # that it is gone shows at the other pipe
            data = memoryview(_frame(value))
            while data:
                data = data[self._input.write(data) :]

    def receive(self) -> list[Shard | Part]:
        """The shards that have come in whole; of a worker that is gone, the failure of what it was reading."""
        data = os.read(self.output.fileno(), _READ)
        self._received += data
        found: list[Shard | Part] = []
        while len(self._received) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._received[:_LENGTH])
            if len(self._received) < end:
                break
            self._take(pickle.loads(self._received[_LENGTH:end]), found)
            del self._received[:end]
        if not data:
            self.is_gone = True
            if self._pack:
                found.append(self._failure())
        return found

    def _take(self, told: object, found: list[Shard | Part]) -> None:
        if isinstance(told, int):
            self._reading = told
        elif isinstance(told, str):
            raise sqlite3.OperationalError(told)
        elif isinstance(told, shard.Shard):
            for part in told.parts:
                part.job = next(job for job in self._pack if job.file_id == part.job.file_id)
            found.append(told)
        else:
            self._pack, self.is_idle = [], True

    def _failure(self) -> Part:
        """Why the transcript that it was reading is not; of the others, what was not stored in part is read again."""
        failed = self._pack[self._reading]
        self.jobs = [job for job in self._pack if job is not failed and not job.has_begun]
        part = Part(failed)
        part.error = f"its reader ended early (exit {self._process.wait()})"
        return part

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def _frame(value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH) + data


def serve() -> None:
    """The worker: reads packs of jobs from stdin and writes shards to stdout until there are no more."""
    import gc

    import apsw

    gc.disable()
    source, target = os.fdopen(os.dup(0), "rb"), os.dup(1)

    def read() -> object:
        length = source.read(_LENGTH)
        return pickle.loads(source.read(int.from_bytes(length))) if length else None

    def write(value: object) -> None:
        data = memoryview(_frame(value))
        while data:
            data = data[os.write(target, data) :]

    with suppress(BrokenPipeError, KeyboardInterrupt):  # its parent is gone, or tells of the interrupt itself
        blueprint: Blueprint = read()  # type: ignore[assignment]
        while (jobs := read()) is not None:
            try:
                for built in shard.build(blueprint, jobs, write):  # type: ignore[arg-type]
                    write(built)
            except apsw.NoMemError:
                raise  # of what it was reading: it ends, and another reads the rest
            except apsw.Error as error:
                write(f"{error} (in a shard beside it)")
                return
            write(None)
