"""Reading one transcript: from its checkpoint to the size it had, in parts that can each be committed."""

from __future__ import annotations

import os

from . import checkpoint, lines, reader
from .batch import FROM_META, Batch
from .discovery import inode
from .parser import Parser
from .record import UNDECODABLE, decode_any
from .store import display_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .checkpoint import Checkpoint
    from .chunks import Archived, Chunk, Keeper
    from .discovery import Found


class Job:
    """A transcript to be read: where from, and as which row of `files`."""

    __slots__ = (
        "archived",
        "file_id",
        "first_at",
        "found",
        "has_begun",
        "is_for_archive",
        "is_new",
        "keeps_text",
        "kept",
        "known",
        "last_at",
        "line_count",
        "offset",
        "patterns",
        "replaces",
        "session",
    )

    def __init__(self, found: Found, file_id: int, is_new: bool, replaces: int | None = None) -> None:
        self.found = found
        self.file_id = file_id
        self.is_new = is_new
        self.has_begun = False
        self.kept: frozenset[int] = frozenset()
        self.replaces = replaces
        self.known: Checkpoint | None = None  # of a transcript that is read on from there
        self.offset = 0
        self.line_count = 0
        self.session: str | None = None
        self.first_at: int | None = None
        self.last_at: int | None = None
        self.patterns: tuple[str, ...] = ()  # of what must not be stored
        self.keeps_text = True
        self.archived: Archived | None = None  # what the archive has of it; None: it is not kept
        self.is_for_archive = False  # the index has read all of it


class Part:
    """What was read of a transcript up to an offset, or why it could not be."""

    __slots__ = (
        "batch",
        "bytes_read",
        "chunks",
        "counts",
        "error",
        "hashes",
        "is_for_archive",
        "is_forgotten",
        "is_last",
        "is_same",
        "job",
        "masked",
        "meta",
        "offset",
        "state",
        "tail",
    )

    def __init__(self, job: Job) -> None:
        self.job = job
        self.batch = Batch()
        self.offset = job.offset
        self.bytes_read = 0
        self.tail: str | None = None
        self.hashes: tuple[int, int] | None = None
        self.state = (job.session, job.first_at, job.last_at, job.line_count)
        self.is_last = True
        self.error: str | None = None
        # For the archive: bytes it lacks, the agent's description, and whether what it has is still the transcript's.
        self.chunks: list[Chunk] = []
        self.meta: bytes | None = None
        self.is_same = False
        self.masked = 0  # what of the bytes it has differs
        self.is_for_archive = False  # the index has it already
        self.is_forgotten = False  # nothing of its session is to be stored
        self.counts = (0, 0, 0)  # of the batch once it was taken: lines indexed, records, lines skipped

    def keep(self, keeper: Keeper, raw: bytes = b"", masked: bytes = b"", offset: int = 0) -> None:
        """Adds what the archive lacks of a piece."""
        self.chunks += keeper.chunks(raw, masked, offset)
        self.is_same, self.masked = keeper.is_same, keeper.masked

    def take_batch(self) -> Batch:
        """The rows, to be stored; the part keeps only how many there were."""
        batch, self.batch = self.batch, Batch()
        self.counts = (batch.indexed_lines, len(batch.records), sum(not row[4] for row in batch.skipped))
        return batch


def read(job: Job) -> Iterator[Part]:
    """Parts of a transcript in order. A failure is the last part, never an exception."""
    try:
        descriptor = reader.open_regular(job.found.path)
        try:
            _check_is_same(job, descriptor)
            for part in _parts(job, descriptor):
                if not job.keeps_text:
                    from .privacy import drop_text

                    drop_text(part.batch)
                yield part
        finally:
            os.close(descriptor)
    except Exception as error:  # a worker must not take the others down: MemoryError, too, costs one file
        failed = Part(job)
        failed.error = _reason(error)
        yield failed


def _check_is_same(job: Job, descriptor: int) -> None:
    """Raises OSError: what was read of it before is not what stands there now, though it was when it was found.

    Much may be read in between. Only what changed since is compared once more.
    """
    if job.known is None:
        return
    found, status = job.found, os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns, inode(status)) == (found.size, found.mtime_ns, found.inode):
        return
    known = job.known
    if known.end and checkpoint.samples(descriptor, known.end) != (known.head_hash, known.tail_hash):
        raise OSError("it was rewritten while others were read")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _parts(job: Job, descriptor: int) -> Iterator[Part]:
    size = job.found.size
    keeper = _keeper(job, descriptor)
    if keeper is not None:
        yield from _catch_up(job, descriptor, keeper)
        if job.is_for_archive:
            return
    parser = _parser(job)
    part = Part(job)
    for offset, end, raw in reader.chunks(descriptor, job.offset, size):
        data = _masked(job, raw)
        if offset == 0:
            _look_ahead(parser, descriptor, data, end, size)
        if not data or data.endswith(b"\n"):
            if part.bytes_read:
                part.is_last = False
                yield part
            part = Part(job)
            part.batch = parser.feed(data, offset) if data else parser.pass_over(offset, end - offset - 1)
            part.offset = end
            part.state = (parser.session, parser.first_at, parser.last_at, parser.line_count)
            part.hashes = checkpoint.samples(descriptor, part.offset)
        else:
            _tail(part, parser, data, offset)
        if keeper is not None:
            _keep(part, keeper, raw, data, offset, end, descriptor)
        part.bytes_read += end - offset
    if part.hashes is None or part.tail is not None:
        part.hashes = checkpoint.samples(descriptor, part.offset if part.tail in (None, "pending") else size)
    _meta(job, parser, part)
    if keeper is not None:
        part.keep(keeper)
    yield part


def _keep(part: Part, keeper: Keeper, raw: bytes, data: bytes, offset: int, end: int, descriptor: int) -> None:
    """Also what is too long to be parsed."""
    if len(raw) < end - offset:
        raw = os.pread(descriptor, end - offset, offset)
        data = _masked(part.job, raw)
    part.keep(keeper, raw, data, offset)


def _keeper(job: Job, descriptor: int) -> Keeper | None:
    if job.archived is None:
        return None
    from .chunks import Keeper

    return Keeper(job.archived, job.patterns, descriptor)


def _catch_up(job: Job, descriptor: int, keeper: Keeper) -> Iterator[Part]:
    """What the index has read already and the archive lacks."""
    end = job.found.size if job.is_for_archive else job.offset
    for offset, until, raw in reader.chunks(descriptor, keeper.start, end):
        part = Part(job)
        part.is_last, part.is_for_archive = False, True
        _keep(part, keeper, raw, _masked(job, raw), offset, until, descriptor)
        yield part
    if job.is_for_archive:
        part = Part(job)
        part.is_for_archive = True
        part.keep(keeper)
        data = _description(job)
        part.meta = None if data is None else _compressed(data)
        yield part


def _compressed(data: bytes) -> bytes:
    from .chunks import compress

    return compress(data)


def _masked(job: Job, data: bytes) -> bytes:
    if not job.patterns:
        return data
    from .redaction import redactor

    return redactor(job.patterns).mask(data)


def _parser(job: Job) -> Parser:
    found = job.found
    mtime_ms = found.mtime_ns // 1_000_000
    name = fallback_session(display_path(found.path))
    return Parser(job.file_id, name, mtime_ms, job.session, job.first_at, job.last_at, job.line_count, job.kept)


def _look_ahead(parser: Parser, descriptor: int, data: bytes, end: int, size: int) -> None:
    """Lets the parser find the first session and time; nearly always in the first lines of the first piece."""
    if not parser.look_ahead(_usable(data)):
        for _, _, more in reader.chunks(descriptor, end, size):
            if parser.look_ahead(_usable(more)):
                return


def _usable(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else lines.usable(data)


def _tail(part: Part, parser: Parser, data: bytes, offset: int) -> None:
    """Takes in a final line that has no newline yet, if it is whole; it is read again when the file grows."""
    used = lines.usable(data)
    if not used:
        part.tail = "pending"
        return
    batch = parser.feed(used, offset)
    part.tail = "indexed" if batch.indexed_lines else "skipped"
    part.batch.take(batch)
    part.state = (parser.session, parser.first_at, *part.state[2:])


def _description(job: Job) -> bytes | None:
    """The `.meta.json` beside a subagent's transcript, where there is one."""
    stem = job.found.path.removesuffix(".jsonl")
    if not os.path.basename(stem).startswith("agent-"):
        return None
    try:
        descriptor = reader.open_regular(f"{stem}.meta.json")
        try:
            return _masked(job, os.read(descriptor, 1 << 20))
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _meta(job: Job, parser: Parser, part: Part) -> None:
    """Takes in what a subagent is, as the file beside its transcript says."""
    data = _description(job)
    if data is None:
        return
    if job.archived is not None:
        part.meta = _compressed(data)
    batch = part.batch
    try:
        meta = decode_any(data)
    except UNDECODABLE:
        return
    if isinstance(meta, dict) and isinstance(meta.get("agentType"), str):
        description = meta.get("description")
        session_id = parser.session_id(batch)
        about = description if isinstance(description, str) else None
        agent = os.path.basename(job.found.path).removesuffix(".jsonl").removeprefix("agent-")
        batch.agents.append((session_id, agent, meta["agentType"], about, FROM_META))


def fallback_session(path: str) -> str:
    """The session of a transcript that names none: its file name; of a subagent's, the session folder's name."""
    # Folders above may have any name, also that of a user called subagents.
    below = path.rpartition("/projects/")[2]
    before, found, _ = below.partition("/subagents/")
    return (before if found else below.removesuffix(".jsonl")).rpartition("/")[2]
