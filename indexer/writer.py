"""The one writer of a refresh: stores rows with the offset they bring a transcript to, then derives from them."""

from __future__ import annotations

import os
import time

from . import accounting, fulltext, rollups, rows, schema, shard, staging
from .batch import FROM_META, FROM_RECORD, OFFSET_BITS, SESSION_BORROWED
from .checkpoint import PARSER_VERSION, SAMPLE, UNFINISHED, Checkpoint
from .privacy import Tombstones
from .store import display_path
from .transcripts import Job, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from .archive import Archive
    from .batch import Batch
    from .discovery import Found
    from .plan import Plan
    from .shard import Shard
    from .summary import Summary

# A transaction holds at most this much of the transcripts: what a kill may cost, against 5 ms for a commit.
COMMIT_BYTES = 64 * 1024 * 1024

_CHECKPOINT = """
UPDATE files SET
  size = ?, mtime_ns = ?, inode = ?, device = ?, checked_ns = ?, offset = ?, head_hash = ?, tail_hash = ?,
  line_count = ?, indexed_lines = indexed_lines + ?, tail = ?, session_id = ?, first_at = ?, last_at = ?,
  parser_version = ?, gone_at = NULL, error = NULL
WHERE id = ?
"""
# 16 MB of pages, and as much for sorting; a checkpoint every 64 MB. Tried on a first load of 600 MB (2 cores,
# 2026-11-23): 8 to 32 MB take as long, and of ten times as much 32 MB take 48 MB more memory; mmap_size saves a
# fifth of what indexes take, and makes the whole file count as memory; pages of 8 to 32 KB at most a tenth of that;
# helper threads of the sorter (PRAGMA threads) and temp_store = MEMORY nothing.
BULK_PRAGMAS = "PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 16384;"


class Writer:
    """Stores the parts of a refresh; `finish` must be called when all are stored."""

    def __init__(self, connection: sqlite3.Connection, summary: Summary, archive: Archive | None = None) -> None:
        self._archive = archive
        self._tombstones = Tombstones(connection)
        self._execute = connection.execute
        self._many = connection.executemany
        self._connection = connection
        self._summary = summary
        self._uncommitted = 0
        self._now = time.time_ns()
        self._next_id = self._execute("SELECT coalesce(max(id), 0) + 1 FROM files").fetchone()[0]
        self.failed: set[str] = set()
        self._has_emptied = False  # a session that only stood in may be left without records
        for sql in (BULK_PRAGMAS + accounting.TOUCHED).split(";"):
            self._execute(sql)
        self._begin()
        if self._next_id == 1:
            self._execute("INSERT OR REPLACE INTO meta VALUES ('is_loading', '1')")
        self._is_loading = self._execute("SELECT 1 FROM meta WHERE key = 'is_loading'").fetchone() is not None
        if self._is_loading:
            staging.begin(connection)
        self._kept = fulltext.kept(connection)  # None: nobody ever searched
        self._added: list[tuple[int, int]] = []
        # In a load rows are not touched one by one; nor is it known what a load that was killed had touched.
        self._has_untouched = self._is_loading and self._next_id > 1
        shard.remove_left(connection)

    def _begin(self) -> None:
        if not self._connection.in_transaction:
            self._execute("BEGIN IMMEDIATE")

    # Rows of `files`

    def adopt_moved(self, plan: Plan) -> list[Job]:
        """Jobs of a plan, after transcripts that only moved were recognised and taken out of what is gone."""
        moves = _Moves(plan.moved)
        jobs = [self._continue(found, row) for found, row in plan.grown]
        jobs += [self._again(found, row) for found, row in plan.again]
        # Ids in the order in which they are stored.
        for found in sorted(plan.new, key=lambda found: found.path):
            path = moves.find(found)
            if path is None:
                jobs.append(self._new(found, None))
                continue
            row = plan.moved.pop(path)
            plan.gone.pop(path, None)
            if self._archive is not None:
                self._archive.move(path, found)
            if row.session is None or row.first_at is None or row.parser_version != PARSER_VERSION:
                # Its records borrow the file's name or time, which are others now.
                jobs.append(self._again(found, row))
                continue
            self._execute(
                "UPDATE files SET path = ?, root = ?, gone_at = NULL, error = NULL, checked_ns = ?, mtime_ns = ?,"
                " inode = ? WHERE id = ?",
                (display_path(found.path), display_path(found.root), self._now, found.mtime_ns, found.inode, row.id),
            )
            self._touch_file(row.id)
            if found.size > row.size:
                jobs.append(self._continue(found, row))
        return jobs

    def _new(self, found: Found, replaces: int | None) -> Job:
        job = Job(found, self._next_id, True, replaces)
        self._next_id += 1
        job.kept = self._kept or job.kept
        return job

    def _again(self, found: Found, row: Checkpoint) -> Job:
        return self._new(found, row.id)

    def _continue(self, found: Found, row: Checkpoint) -> Job:
        job = Job(found, row.id, False)
        job.kept = self._kept or job.kept
        job.known, job.offset, job.line_count = row, row.offset, row.line_count
        job.session, job.first_at, job.last_at = row.session, row.first_at, row.last_at
        return job

    def mark_gone(self, gone: dict[str, Checkpoint]) -> None:
        """Notes which transcripts are not there any more; their rows stay."""
        self._many("UPDATE files SET gone_at = ? WHERE id = ?", [(self._now // 10**6, row.id) for row in gone.values()])
        self._summary.files_gone += len(gone)

    def mark_failed(self, failed: Iterable[tuple[int, str, str]]) -> None:
        """Notes why transcripts could not be read, as (id, path, reason)."""
        for file_id, path, reason in failed:
            self.failed.add(path)
            self._summary.failures[path] = reason
            if self._execute("SELECT 1 FROM files WHERE id = ? AND error = ?", (file_id, reason)).fetchone():
                self._summary.told.add(path)
            self._execute("UPDATE files SET error = ? WHERE id = ?", (reason, file_id))

    # Parts

    def add(self, part: Part) -> None:
        """Stores a part; commits when much has come together."""
        if not self._is_for_index(part):
            return
        self._tombstones.apply(part)
        self._begin()
        self._begin_part(part)
        if part.error is not None:
            return
        batch = part.take_batch()
        rows.add(self._connection, batch)
        if self._kept is not None and batch.records:
            self._added.append((batch.records[0][0], batch.records[-1][0]))
        self._touch_batch(batch)
        self._move_checkpoint(part)
        self._uncommitted += part.bytes_read
        if self._uncommitted >= COMMIT_BYTES:
            self._commit()

    def take(self, shard_: Shard) -> None:
        """Takes over a shard that a worker process built; commits."""
        self.stop()  # SQLite attaches nothing within a transaction
        self._execute("ATTACH ? AS shard", (shard_.path,))
        self._begin()
        parts = [part for part in shard_.parts if self._is_for_index(part)]
        for part in parts:
            self._begin_part(part)
        self._summary.responses_added += shard.copy(self._connection, self._is_loading)
        if self._kept is not None:
            self._added += shard.spans(self._connection)
        for part in parts:
            if part.error is None:
                self._move_checkpoint(part)
        self._commit()
        self._execute("DETACH shard")
        os.unlink(shard_.path)

    def _is_for_index(self, part: Part) -> bool:
        """Gives the archive what it lacks; whether there is anything else in a part."""
        if self._archive is not None:
            self._archive.add(part)
        return not part.is_for_archive or part.error is not None

    def _begin_part(self, part: Part) -> None:
        if part.error is not None:
            self._fail(part)
        elif not part.job.has_begun:
            part.job.has_begun = True
            if part.job.is_new:
                self._start_generation(part.job)
            else:
                self._drop_tail(part.job)

    def _fail(self, part: Part) -> None:
        job = part.job
        if job.is_new and job.replaces is None and not job.has_begun:
            # Below any real size, so that it is tried again.
            rows.add_file(self._connection, job, -1)
        file_id = job.file_id if job.has_begun else job.replaces or job.file_id
        self.mark_failed([(file_id, job.found.path, part.error or "")])

    def _start_generation(self, job: Job) -> None:
        if job.replaces is not None:
            self._execute("UPDATE files SET replaced_at = ? WHERE id = ?", (self._now // 10**6, job.replaces))
        rows.add_file(self._connection, job, 0)

    def _drop_tail(self, job: Job) -> None:
        """Takes away what a final line without its newline gave: it is read again now."""
        start, end = (job.file_id << OFFSET_BITS) + job.offset, (job.file_id + 1) << OFFSET_BITS
        if self._execute("SELECT 1 FROM files WHERE id = ? AND tail IS NOT NULL", (job.file_id,)).fetchone():
            borrowed = f"SELECT 1 FROM records WHERE id >= ? AND id < ? AND flags & {SESSION_BORROWED}"
            if self._execute(borrowed, (start, end)).fetchone():
                self._has_emptied = True
            self._forget("SELECT id FROM records WHERE id >= :start AND id < :end", {"start": start, "end": end})
            self._execute("DELETE FROM skipped_lines WHERE id >= ? AND id < ?", (start, end))

    def _forget(self, records: str, parameters: dict[str, int]) -> None:
        accounting.forget(self._connection, records, parameters)

    def _touch_file(self, file_id: int) -> None:
        """A path decides between copies that agree in all else."""
        parameters = {"start": file_id << OFFSET_BITS, "end": (file_id + 1) << OFFSET_BITS}
        accounting.touch(self._connection, "SELECT id FROM records WHERE id >= :start AND id < :end", parameters)

    def _touch_batch(self, batch: Batch) -> None:
        if self._is_loading:
            self._has_untouched = True
            return
        responses, calls = {row[0] for row in batch.usage}, {row[0] for row in batch.tool_uses}
        calls.update(row[0] for row in batch.tool_results)
        for table, ids in (("responses", responses), ("calls", calls), ("sessions", batch.sessions)):
            sql = f"INSERT OR IGNORE INTO temp.touched_{table} VALUES (?)"
            self._many(sql, [(found,) for found in ids])

    def _move_checkpoint(self, part: Part) -> None:
        from .digest import digest_text

        found = part.job.found
        session, first_at, last_at, line_count = part.state
        # Until its last part is stored, the size it is known by is below its real one: it counts as grown.
        size, mtime_ns = (found.size, found.mtime_ns) if part.is_last else (part.offset, UNFINISHED)
        indexed, records, skipped = part.counts
        hashes = part.hashes or (None, None)
        session_id = None if session is None else digest_text(session)
        if session is not None:
            self._execute(rows.SESSION, (session_id, session))
        self._execute(
            _CHECKPOINT,
            (
                *(size, mtime_ns, found.inode, found.device, self._now, part.offset, *hashes, line_count, indexed),
                *(part.tail, session_id, first_at, last_at, PARSER_VERSION, part.job.file_id),
            ),
        )
        self._summary.files_parsed += part.is_last
        self._summary.bytes_read += part.bytes_read
        self._summary.records_added += records
        self._summary.lines_skipped += skipped

    def _commit(self) -> None:
        if not self._is_loading:
            self._derive()
        self._index_added()
        self._end_transaction()
        self._uncommitted = 0

    def _derive(self) -> None:
        if self._has_emptied:
            rollups.touch_projects(self._connection)
            for sql in _EMPTIED:
                self._execute(sql)
            self._has_emptied = False
        self._summary.responses_added += accounting.derive(self._connection)

    def _end_transaction(self) -> None:
        # First, so that wherever a kill falls the archive has what the index says was read.
        if self._archive is not None:
            self._archive.commit()
        self._execute("COMMIT")

    def _index_added(self) -> None:
        """Brings the full-text index up to date, where there is one."""
        if self._added:
            fulltext.add(self._connection, self._added)
            self._added.clear()

    # The end

    def stop(self) -> None:
        """Commits what was stored before the end was reached."""
        self._begin()
        self._commit()

    def finish(self) -> None:
        """Settles rewritten transcripts, derives what is left and commits."""
        self._begin()
        if self._is_loading:
            self._finish_load()
        else:
            self._settle()
            self._derive()
        self._index_added()
        self._end_transaction()

    def _finish_load(self) -> None:
        self._summary.responses_added += staging.settle(self._connection)
        # What derives from records needs their indexes.
        schema.create_indexes(self._connection, of_derived=False)
        self._settle()
        if self._has_untouched:
            accounting.touch_all(self._connection)
        self._derive()
        schema.create_indexes(self._connection, of_derived=True)
        if self._has_untouched:
            rollups.sum_all(self._connection)
        else:
            rollups.price_all(self._connection)
        self._execute("DELETE FROM meta WHERE key = 'is_loading'")
        self._is_loading = False

    def _settle(self) -> None:
        """Takes away the rows of earlier generations whose records stand in the new one, each as often as it does.

        What matches nothing stays, with its numbers: it was paid for.
        """
        finished = "replaces IS NOT NULL AND size >= 0 AND mtime_ns <> ?"
        # The sign keeps SQLite from reading all files in this order instead of the few that the index has.
        sql = f"SELECT id, replaces FROM files WHERE {finished} ORDER BY +id"
        settled = self._execute(sql, (UNFINISHED,)).fetchall()
        if not settled:
            return
        self._execute("CREATE TEMP TABLE IF NOT EXISTS matched (id INTEGER PRIMARY KEY, new_id INTEGER)")
        paths = dict(self._execute("SELECT id, path FROM files WHERE host_id = 1"))
        # What an earlier generation alone still had may have come back.
        earlier: dict[str, list[int]] = {}
        for (old,) in self._execute("SELECT id FROM files WHERE host_id = 1 AND replaced_at IS NOT NULL").fetchall():
            earlier.setdefault(paths[old], []).append(old)
        for new, replaced in settled:
            for old in earlier.get(paths[replaced], []):
                if old < new:
                    self._settle_generation(new, old)
            self._execute("UPDATE files SET replaces = NULL WHERE id = ?", (new,))
        self._has_emptied = True

    def _settle_generation(self, new: int, old: int) -> None:
        start, end = old << OFFSET_BITS, (old + 1) << OFFSET_BITS
        self._execute(_MATCHED, {"start": start, "end": end, "n": new, "bits": OFFSET_BITS})
        self._execute(_SAY_LESS)
        self._forget("SELECT id FROM temp.matched", {})
        self._execute("DELETE FROM temp.matched")
        self._execute("DELETE FROM skipped_lines WHERE id >= ? AND id < ?", (start, end))
        if not self._execute("SELECT 1 FROM records WHERE id >= ? AND id < ? LIMIT 1", (start, end)).fetchone():
            self._execute("DELETE FROM files WHERE id = ?", (old,))


_MATCHED = """
INSERT INTO temp.matched
WITH old AS (
  SELECT id, coalesce(uuid, digest) AS same, row_number() OVER (PARTITION BY uuid, digest ORDER BY id) AS n
  FROM records WHERE id >= :start AND id < :end
), new AS (
  SELECT id, coalesce(uuid, digest) AS same, row_number() OVER (PARTITION BY uuid, digest ORDER BY id) AS n
  FROM records WHERE id >= :n << :bits AND id < (:n + 1) << :bits
)
SELECT old.id, new.id FROM old JOIN new ON new.same = old.same AND new.n = old.n
"""

# A tool that prunes transcripts keeps a record's uuid and not all of its bytes: what they said was paid for. A newer
# parser may make less of the same bytes, and is believed.
_SAY_LESS = """
DELETE FROM temp.matched WHERE id IN (
  SELECT m.id
  FROM temp.matched AS m
  JOIN records AS o ON o.id = m.id
  JOIN records AS n ON n.id = m.new_id
  WHERE
    (
      o.length <> n.length
      OR (SELECT parser_version FROM files WHERE id = o.id >> 40)
      = (SELECT parser_version FROM files WHERE id = n.id >> 40)
    )
    AND (
      o.text IS NOT NULL AND o.text IS NOT n.text
      OR EXISTS (
        SELECT 1 FROM record_usage AS u
        WHERE u.record_id = o.id AND NOT EXISTS (
          SELECT 1 FROM record_usage AS v
          WHERE
            v.record_id = n.id AND v.part = u.part AND v.model_id = u.model_id
            AND v.input_tokens >= u.input_tokens AND v.output_tokens >= u.output_tokens
            AND v.cache_write_tokens >= u.cache_write_tokens AND v.cache_read_tokens >= u.cache_read_tokens
            AND v.cache_write_1h_tokens >= u.cache_write_1h_tokens AND v.web_searches >= u.web_searches
            AND v.flags & u.flags = u.flags AND coalesce(v.recorded_nano, 0) >= coalesce(u.recorded_nano, 0)
            AND (u.stop_reason IS NULL OR v.stop_reason IS NOT NULL)
        )
      )
      OR EXISTS (
        SELECT tool_use_id FROM tool_uses WHERE record_id = o.id
        EXCEPT SELECT tool_use_id FROM tool_uses WHERE record_id = n.id
      )
      OR EXISTS (
        SELECT web_searches, agent FROM tool_results WHERE record_id = o.id
        EXCEPT SELECT web_searches, agent FROM tool_results WHERE record_id = n.id
      )
    )
)
"""

# What is left of sessions that only stood in until the real one was known, and what these said of subagents.
_EMPTIED = (
    "DELETE FROM contexts WHERE session_id IN (SELECT id FROM temp.touched_sessions)"
    " AND NOT EXISTS (SELECT 1 FROM records WHERE context_id = contexts.id)",
    f"DELETE FROM agents WHERE source > {FROM_META} AND session_id IN (SELECT id FROM temp.touched_sessions)",
    "INSERT OR IGNORE INTO agents"
    f" SELECT session_id, agent, min(agent_type), NULL, {FROM_RECORD} FROM contexts"
    " WHERE session_id IN (SELECT id FROM temp.touched_sessions) AND agent_type IS NOT NULL AND agent IS NOT NULL"
    " GROUP BY session_id, agent",
    "INSERT OR IGNORE INTO temp.touched_calls"
    " SELECT u.call_id FROM tool_uses AS u JOIN records AS r ON r.id = u.record_id"
    " JOIN contexts AS c ON c.id = r.context_id WHERE c.session_id IN (SELECT id FROM temp.touched_sessions)"
    " AND u.subject IS NOT NULL",
    "DELETE FROM sessions WHERE id IN (SELECT id FROM temp.touched_sessions)"
    " AND NOT EXISTS (SELECT 1 FROM contexts WHERE session_id = sessions.id)"
    " AND NOT EXISTS (SELECT 1 FROM agents WHERE session_id = sessions.id)",
    # An earlier generation may have begun with records of it, and keep others.
    "UPDATE files SET session_id = NULL WHERE session_id IN (SELECT id FROM temp.touched_sessions)"
    " AND NOT EXISTS (SELECT 1 FROM sessions WHERE id = files.session_id)",
)


class _Moves:
    """Recognises transcripts that are gone in others that are new: by inode, else by the bytes around the offset."""

    def __init__(self, gone: dict[str, Checkpoint]) -> None:
        self._gone = gone
        self._inodes = {row.inode: path for path, row in gone.items()}
        self._heads: dict[tuple[int, int | None], list[str]] = {}
        for path, row in gone.items():
            if row.end:
                self._heads.setdefault((min(SAMPLE, row.end), row.head_hash), []).append(path)

    def find(self, found: Found) -> str | None:
        """The path a new transcript had before, if it only moved."""
        from .checkpoint import matches

        candidates = [self._inodes[found.inode]] if found.inode in self._inodes else []
        try:
            for path in candidates + self._same_head(found):
                row = self._gone.get(path)
                if row is not None and row.end and found.size >= row.size and matches(row, found.path):
                    return path
        except OSError:
            return None  # it is told when it is read
        return None

    def _same_head(self, found: Found) -> list[str]:
        if not self._heads:
            return []
        from .digest import digest

        with open(found.path, "rb", buffering=0) as file:
            head = file.read(SAMPLE)
        lengths = {length for length, _ in self._heads if length <= len(head)}
        return [path for length in lengths for path in self._heads.get((length, digest(head[:length])), [])]
