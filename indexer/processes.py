"""Worker processes for a bulk load: parsing holds the GIL, so only processes use more than one core for it.

A worker is a fresh interpreter that talks over two pipes. It holds neither the lock nor the index, and ends with its
parent: its pipes are shared with nobody else, so they close when the parent dies, however it dies.
"""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import sys
from collections import deque
from contextlib import suppress

from . import transcripts
from .transcripts import Job, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LENGTH = 8
# One job to read while the answer to another is on its way.
_AHEAD = 2
_READ = 1 << 20


def run(jobs: Sequence[Job], count: int) -> Iterator[Part]:
    """Parts of the transcripts, read by that many processes; the largest transcripts first."""
    todo = deque(sorted(jobs, key=lambda job: job.offset - job.found.size))
    workers: list[_Worker] = []
    selector = selectors.DefaultSelector()

    def start(left: Sequence[Job] = ()) -> None:
        worker = _Worker([*left, *(todo.popleft() for _ in range(min(len(todo), _AHEAD - len(left))))])
        workers.append(worker)
        selector.register(worker.output, selectors.EVENT_READ, worker)

    try:
        while todo and len(workers) < count:
            start()
        while selector.get_map():
            for key, _ in selector.select():
                worker: _Worker = key.data
                for part in worker.receive():
                    yield part
                    if part.is_last and todo and not worker.is_gone:
                        worker.send(todo.popleft())
                if worker.is_gone or not worker.jobs:
                    selector.unregister(key.fileobj)
                    worker.stop()
                    if worker.jobs:
                        start(list(worker.jobs))
    finally:
        selector.close()
        for worker in workers:
            worker.stop()


class _Worker:
    """The parent's end of a worker."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from indexer.processes import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # Ctrl-C is for the parent, which ends it in its own time
            env=os.environ | {"PYTHONPATH": path},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        self._received = bytearray()
        self.jobs: deque[Job] = deque()
        self.is_gone = False
        for job in jobs:
            self.send(job)

    def send(self, job: Job) -> None:
        """Gives it a transcript to read, behind those it already has."""
        self.jobs.append(job)
        with suppress(BrokenPipeError):  # that it is gone shows at the other pipe
            self._input.write(_frame(job))

    def receive(self) -> Iterator[Part]:
        """The parts that have come in whole; of a worker that is gone, the failure of what it was reading."""
        data = os.read(self.output.fileno(), _READ)
        self._received += data
        while len(self._received) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._received[:_LENGTH])
            if len(self._received) < end:
                break
            part: Part = pickle.loads(self._received[_LENGTH:end])
            del self._received[:end]
            part.job = self.jobs.popleft() if part.is_last else self.jobs[0]
            yield part
        if not data:
            self.is_gone = True
            if self.jobs:
                part = Part(self.jobs.popleft())
                part.error = f"its reader ended early (exit {self._process.wait()})"
                yield part

    def stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def _frame(value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH) + data


def serve() -> None:
    """The worker: reads jobs from stdin and writes parts to stdout until there are no more, or nobody wants them."""
    import gc

    gc.disable()
    source, target = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with suppress(BrokenPipeError, KeyboardInterrupt):  # its parent is gone, or tells of the interrupt itself
        while length := source.read(_LENGTH):
            job: Job = pickle.loads(source.read(int.from_bytes(length)))
            for part in transcripts.read(job):
                del part.job  # the parent has it
                data = memoryview(_frame(part))
                while data:
                    data = data[os.write(target, data) :]
