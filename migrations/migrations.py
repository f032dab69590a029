"""Every change of the index's tables, in order. A migration that has shipped is never edited.

Comments inside the CREATE statements are the documentation: SQLite keeps them, and the README and the web page read
them back from the schema. Repeated text stands once, in tables whose ids are digests of their content
(`indexer.digest`), so that two machines give the same thing the same id and merging needs no renumbering.
"""

from hashlib import blake2b

from sqlite_utils import Database, Migrations

migrations = Migrations("cm")


@migrations()
def create_index(db: Database) -> None:
    """The facts read from transcripts, and what is derived from them."""
    for statement in (
        """
CREATE TABLE meta ( -- settings the index was built with
  key TEXT PRIMARY KEY, -- name
  value TEXT -- its value
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE hosts ( -- machines whose transcripts are indexed here
  id INTEGER PRIMARY KEY, -- 1 is this machine
  name TEXT NOT NULL, -- host name
  user TEXT NOT NULL, -- user name
  UNIQUE (name, user)
) STRICT""",
        """
CREATE TABLE projects ( -- directories that sessions worked in, worktrees folded into their project
  id INTEGER PRIMARY KEY, -- digest of path
  path TEXT NOT NULL, -- absolute path; the transcript directory's name where no record has a cwd
  name TEXT NOT NULL -- last part of the path
) STRICT""",
        """
CREATE TABLE sessions ( -- conversations, subagents included
  id INTEGER PRIMARY KEY, -- digest of session_id
  session_id TEXT NOT NULL, -- Claude Code's id of it
  project_id INTEGER REFERENCES projects (id), -- from the first cwd of its records
  first_at INTEGER, -- first record, milliseconds since 1970 UTC
  last_at INTEGER, -- last record
  record_count INTEGER NOT NULL DEFAULT 0, -- records of any type
  prompt_count INTEGER NOT NULL DEFAULT 0, -- what a human typed
  title TEXT -- last title given to it, else its first prompt
) STRICT""",
        """
CREATE TABLE models ( -- model ids as they stand in the transcripts
  id INTEGER PRIMARY KEY, -- digest of name
  name TEXT NOT NULL, -- as written
  canonical TEXT NOT NULL -- without date, region and provider: what prices are looked up by
) STRICT""",
        """
CREATE TABLE record_types ( -- kinds of records
  id INTEGER PRIMARY KEY, -- digest of both
  type TEXT NOT NULL, -- the record's type
  subtype TEXT -- its subtype, operation or kind; of user records: prompt, tool_result, meta, command, …
) STRICT""",
        """
CREATE TABLE files ( -- transcripts, one row per generation: a rewritten file starts a new one
  id INTEGER PRIMARY KEY, -- records.id starts with it
  host_id INTEGER NOT NULL REFERENCES hosts (id), -- machine it is on
  root TEXT NOT NULL, -- Claude config directory it was found under
  path TEXT NOT NULL, -- absolute path; bytes that are not UTF-8 as \\xNN
  device INTEGER, -- st_dev
  inode INTEGER, -- st_ino
  size INTEGER NOT NULL, -- bytes when it was last read; below the real size while a load is unfinished
  mtime_ns INTEGER NOT NULL, -- st_mtime_ns when it was last read; -1 while a load is unfinished
  checked_ns INTEGER NOT NULL, -- when that was looked at
  offset INTEGER NOT NULL DEFAULT 0, -- first byte not yet committed, always after a newline
  head_hash INTEGER, -- digest of the first 4 KiB of what was used: to the offset, or the size if the tail was used
  tail_hash INTEGER, -- digest of the last 4 KiB of it
  line_count INTEGER NOT NULL DEFAULT 0, -- whole lines before the offset
  indexed_lines INTEGER NOT NULL DEFAULT 0, -- of these, lines that gave a record
  tail TEXT, -- the final line without a newline: indexed (and read again next time), skipped or pending
  session_id INTEGER REFERENCES sessions (id), -- first session named in it; NULL: none is
  first_at INTEGER, -- first valid timestamp in it; NULL: there is none
  last_at INTEGER, -- last valid timestamp before the offset
  parser_version INTEGER NOT NULL, -- parser that read it
  replaces INTEGER, -- earlier generation to be matched when this one is read to its end; NULL when done
  replaced_at INTEGER, -- when a newer generation began; NULL: this is the current one
  gone_at INTEGER, -- when it was found missing; NULL: present
  error TEXT -- why it could not be read last time
) STRICT""",
        "CREATE UNIQUE INDEX files_path ON files (host_id, path) WHERE replaced_at IS NULL",
        """
CREATE TABLE contexts ( -- what many records share: session, directory, version, agent
  id INTEGER PRIMARY KEY, -- digest of the rest
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  cwd TEXT, -- working directory
  branch TEXT, -- git branch
  version TEXT, -- version of Claude Code
  entrypoint TEXT, -- cli, sdk-py, claude-vscode, …
  agent TEXT, -- id of the subagent
  agent_type TEXT, -- its type, where the record names it
  skill TEXT, -- skill the response is attributed to
  plugin TEXT, -- plugin it is attributed to
  mcp_server TEXT, -- MCP server it is attributed to
  mcp_tool TEXT, -- MCP tool it is attributed to
  is_sidechain INTEGER NOT NULL, -- 1: said by or to a subagent
  is_background INTEGER NOT NULL -- 1: a background copy of a session
) STRICT""",
        """
CREATE TABLE agents ( -- subagents, and of what type they are
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session they worked for
  agent TEXT NOT NULL, -- id of the subagent
  type TEXT NOT NULL, -- subagent type
  description TEXT, -- what it was started for
  source INTEGER NOT NULL, -- how the type is known: 0 .meta.json beside its file, 1 its records, 2 the call
  PRIMARY KEY (session_id, agent)
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE records ( -- one row per record of a transcript; the view messages shows it readably
  id INTEGER PRIMARY KEY, -- file id * 2^40 + byte offset where its JSON begins
  line INTEGER NOT NULL, -- line number, from 1
  length INTEGER NOT NULL, -- bytes of its JSON
  type_id INTEGER NOT NULL REFERENCES record_types (id), -- kind of record
  context_id INTEGER NOT NULL REFERENCES contexts (id), -- session, directory, agent
  at INTEGER NOT NULL, -- its time, milliseconds since 1970 UTC
  flags INTEGER NOT NULL, -- 1 time borrowed, 2 session borrowed, 4 recovered from a broken line, 8 text dropped
  uuid TEXT, -- its own id
  parent_uuid TEXT, -- id of the record before it in the conversation
  digest INTEGER, -- of its bytes, where it has no uuid
  block INTEGER, -- digest of its content block, of assistant records; of others, of what counts of a text not kept
  model_id INTEGER REFERENCES models (id), -- model, of assistant records
  response_id INTEGER, -- API response it is part of
  message_id TEXT, -- the API's id of the response
  request_id TEXT, -- the API's id of the request
  stop_reason TEXT, -- why the response ended, if this record knows
  text TEXT, -- visible text: prompts, answers, titles, summaries
  file_id INTEGER GENERATED ALWAYS AS (id >> 40) VIRTUAL REFERENCES files (id), -- transcript
  offset INTEGER GENERATED ALWAYS AS (id & 1099511627775) VIRTUAL -- byte where its JSON begins
) STRICT""",
        """
CREATE TABLE record_usage ( -- the numbers each record gives for an API response
  response_id INTEGER NOT NULL, -- response they belong to
  record_id INTEGER NOT NULL REFERENCES records (id), -- record that gives them
  key TEXT NOT NULL, -- what identifies the response
  part INTEGER NOT NULL, -- 0 the response, n the nth call of an advisor within it
  advised_id INTEGER, -- of an advisor's call: the response it was made for
  model_id INTEGER NOT NULL REFERENCES models (id), -- model
  owner_rank INTEGER NOT NULL, -- main before sidechain, foreground before background, own before embedded, then time
  input_tokens INTEGER NOT NULL, -- input, without cache
  output_tokens INTEGER NOT NULL, -- output, thinking included
  cache_write_tokens INTEGER NOT NULL, -- cache writes, both lifetimes
  cache_write_1h_tokens INTEGER NOT NULL, -- of these, with a lifetime of an hour
  cache_read_tokens INTEGER NOT NULL, -- cache reads
  web_searches INTEGER NOT NULL, -- searches the API counted
  flags INTEGER NOT NULL, -- 1 fast mode, 2 US inference, 4 batch, 8 an implausible count was set to 0, 16 fallback
  stop_reason TEXT, -- stop reason
  recorded_nano INTEGER, -- costUSD of very old transcripts, in nanodollars
  PRIMARY KEY (response_id, record_id)
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE responses ( -- one row per API response, and one per advisor's call within it; derived from record_usage
  id INTEGER PRIMARY KEY, -- digest of key and part
  key TEXT NOT NULL, -- what identifies the response
  part INTEGER NOT NULL, -- 0 the response, n the nth call of an advisor within it
  model_id INTEGER NOT NULL REFERENCES models (id), -- the owner's model
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- the owner's session
  context_id INTEGER NOT NULL REFERENCES contexts (id), -- the owner's context
  owner_id INTEGER NOT NULL REFERENCES records (id), -- record that owns it: its earliest original
  at INTEGER NOT NULL, -- the owner's time, milliseconds since 1970 UTC
  is_sidechain INTEGER NOT NULL, -- 1: a subagent's
  input_tokens INTEGER NOT NULL, -- maximum over its records
  output_tokens INTEGER NOT NULL, -- maximum over its records
  cache_write_tokens INTEGER NOT NULL, -- maximum over its records
  cache_write_1h_tokens INTEGER NOT NULL, -- maximum over its records
  cache_read_tokens INTEGER NOT NULL, -- maximum over its records
  web_searches INTEGER NOT NULL, -- larger of the API's count and what its tool results say
  flags INTEGER NOT NULL, -- as in record_usage; any record says so
  stop_reason TEXT, -- final stop reason
  is_undercounted INTEGER NOT NULL, -- 1: the final output count was never written
  recorded_nano INTEGER, -- costUSD where recorded, in nanodollars
  record_count INTEGER NOT NULL -- records it was derived from
) STRICT""",
        """
CREATE TABLE tool_uses ( -- each record that calls a tool
  call_id INTEGER NOT NULL, -- digest of the tool use's id
  record_id INTEGER NOT NULL REFERENCES records (id), -- record
  tool_use_id TEXT NOT NULL, -- the API's id of the call
  name TEXT NOT NULL, -- tool
  subject TEXT, -- subagent type, or skill, it was called for
  owner_rank INTEGER NOT NULL, -- as in record_usage
  PRIMARY KEY (call_id, record_id)
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE tool_results ( -- each record that carries a tool's result
  call_id INTEGER NOT NULL, -- digest of the tool use's id
  record_id INTEGER NOT NULL REFERENCES records (id), -- record
  is_error INTEGER NOT NULL, -- 1: the tool failed
  bytes INTEGER NOT NULL, -- bytes of text in the result
  web_searches INTEGER NOT NULL, -- searches made
  agent TEXT, -- id of the subagent that was started
  PRIMARY KEY (call_id, record_id)
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE tool_calls ( -- one row per call of a tool; derived from tool_uses and tool_results
  id INTEGER PRIMARY KEY, -- digest of tool_use_id
  tool_use_id TEXT NOT NULL, -- the API's id of the call
  name TEXT NOT NULL, -- tool
  mcp_server TEXT, -- MCP server it belongs to
  skill TEXT, -- skill it was called for
  agent TEXT, -- type of the subagent it started
  agent_id TEXT, -- id of that subagent
  record_id INTEGER NOT NULL REFERENCES records (id), -- record that calls
  response_id INTEGER REFERENCES responses (id), -- response that calls
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  is_error INTEGER, -- 1: it failed; NULL: no result was written
  result_bytes INTEGER, -- bytes of text in the result
  web_searches INTEGER NOT NULL, -- searches made
  started_at INTEGER NOT NULL, -- time of the call, milliseconds since 1970 UTC
  ended_at INTEGER -- time of its result
) STRICT""",
        """
CREATE TABLE prices ( -- what a model costs, USD per million tokens, by period
  id INTEGER PRIMARY KEY, -- digest of model and valid_from
  model TEXT NOT NULL, -- canonical model id
  valid_from INTEGER NOT NULL, -- from then, milliseconds since 1970 UTC
  valid_until INTEGER NOT NULL, -- until before then
  input REAL NOT NULL, -- input
  output REAL NOT NULL, -- output
  cache_write_5m REAL NOT NULL, -- cache write, five minutes
  cache_write_1h REAL NOT NULL, -- cache write, an hour
  cache_read REAL NOT NULL, -- cache read
  long_context_above INTEGER, -- input and cache tokens above which the long rates hold
  long_input REAL, -- input, long context
  long_output REAL, -- output, long context
  long_cache_write_5m REAL, -- cache write of five minutes, long context
  long_cache_write_1h REAL, -- cache write of an hour, long context
  long_cache_read REAL, -- cache read, long context
  fast REAL NOT NULL, -- multiplier in fast mode
  us REAL NOT NULL, -- multiplier for US inference
  batch REAL NOT NULL, -- multiplier for batches
  web_search REAL NOT NULL, -- USD per 1,000 searches
  source TEXT NOT NULL -- where the price is from
) STRICT""",
        """
CREATE TABLE rates ( -- prices with their factors, as exact fractions of nanodollars per token
  id INTEGER PRIMARY KEY, -- price id * 16 + 8 long context + 4 fast + 2 US + 1 batch
  price_id INTEGER NOT NULL REFERENCES prices (id), -- price
  input_num INTEGER NOT NULL, -- input, numerator
  input_den INTEGER NOT NULL, -- input, denominator
  output_num INTEGER NOT NULL, -- output, numerator
  output_den INTEGER NOT NULL, -- output, denominator
  cache_write_5m_num INTEGER NOT NULL, -- cache write of five minutes, numerator
  cache_write_1h_num INTEGER NOT NULL, -- cache write of an hour, numerator
  cache_write_den INTEGER NOT NULL, -- cache writes, denominator
  cache_read_num INTEGER NOT NULL, -- cache read, numerator
  cache_read_den INTEGER NOT NULL, -- cache read, denominator
  web_search INTEGER NOT NULL -- nanodollars per search
) STRICT""",
        """
CREATE TABLE daily_prices ( -- the price of a model on a day that it was used; no response knows what it cost
  model_id INTEGER NOT NULL REFERENCES models (id), -- model
  day INTEGER NOT NULL, -- days since 1970 UTC: periods begin and end at midnight
  price_id INTEGER REFERENCES prices (id), -- price; NULL: it has none
  long_context_above INTEGER, -- as in prices
  PRIMARY KEY (model_id, day)
) STRICT, WITHOUT ROWID""",
        """
CREATE TABLE skipped_lines ( -- lines, or parts of lines, that could not be used
  id INTEGER PRIMARY KEY, -- file id * 2^40 + byte offset
  line INTEGER NOT NULL, -- line number, from 1
  length INTEGER NOT NULL, -- bytes
  reason TEXT NOT NULL, -- blank, broken JSON, not an object, …
  is_partial INTEGER NOT NULL, -- 1: its line counts already, by a record on it or by an earlier row
  file_id INTEGER GENERATED ALWAYS AS (id >> 40) VIRTUAL REFERENCES files (id), -- transcript
  offset INTEGER GENERATED ALWAYS AS (id & 1099511627775) VIRTUAL -- byte where it begins
) STRICT""",
        """
CREATE TABLE refreshes ( -- the log of runs
  id INTEGER PRIMARY KEY, -- number of the run
  started_at INTEGER NOT NULL, -- milliseconds since 1970 UTC
  seconds REAL NOT NULL, -- how long it took
  pid INTEGER NOT NULL, -- process
  command TEXT NOT NULL, -- what ran it
  files_seen INTEGER NOT NULL, -- transcripts found
  files_parsed INTEGER NOT NULL, -- transcripts read
  files_failed INTEGER NOT NULL, -- transcripts that could not be read
  files_gone INTEGER NOT NULL, -- transcripts found missing
  bytes_read INTEGER NOT NULL, -- bytes given to the parser
  records_added INTEGER NOT NULL, -- records stored
  responses_added INTEGER NOT NULL, -- responses not known before
  lines_skipped INTEGER NOT NULL -- lines that could not be used
) STRICT""",
        """
CREATE TABLE zone_offsets ( -- local time of the configured zone
  from_at INTEGER PRIMARY KEY, -- from then, milliseconds since 1970 UTC
  offset_ms INTEGER NOT NULL -- milliseconds to add to UTC
) STRICT""",
    ):
        db.execute(statement)


@migrations()
def order_by_record(db: Database) -> None:
    """What single records say stands in the order of the records: a load appends to it.

    By response or call, rows of a load went to random places, which took longer than to sort them once for an index.
    """
    for table, key in (("record_usage", "response_id"), ("tool_uses", "call_id"), ("tool_results", "call_id")):
        (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", [table]).fetchone()
        db.execute(f"CREATE TABLE before AS SELECT * FROM {table} ORDER BY record_id")
        db.execute(f"DROP TABLE {table}")
        # A table that was renamed would have its name in quotation marks for ever.
        db.execute(sql.replace(f"PRIMARY KEY ({key}, record_id)", f"PRIMARY KEY (record_id, {key})"))
        db.execute(f"INSERT INTO {table} SELECT * FROM before")
        db.execute("DROP TABLE before")


@migrations()
def name_generations(db: Database) -> None:
    """An index that is merged again must know the files it already brought, wherever they were moved meanwhile."""
    # SQLite keeps a comment only if something of the column comes after it.
    db.execute(
        """
ALTER TABLE files ADD COLUMN
  identity INTEGER -- what this generation is known by in every index that has it
  CHECK (identity > 0)"""
    )
    # The same in every copy of the index, so that an old copy can be merged before its original is brought up to date.
    rows = db.execute(
        "SELECT h.name, h.user, f.id, f.path FROM files AS f JOIN hosts AS h ON h.id = f.host_id"
    ).fetchall()
    for name, user, file_id, path in rows:
        digest = blake2b(f"{name}\x1f{user}\x1f{file_id}\x1f{path}".encode(), digest_size=8).digest()
        db.execute("UPDATE files SET identity = ? WHERE id = ?", [int.from_bytes(digest) >> 1 or 1, file_id])
    db.execute("CREATE UNIQUE INDEX files_identity ON files (identity)")


@migrations()
def remember_what_is_forgotten(db: Database) -> None:
    """Tombstones: without them the next reading of a transcript would bring a forgotten session back."""
    db.execute("""
CREATE TABLE forgotten ( -- sessions whose text was removed for good: no refresh and no merge brings it back
  id INTEGER PRIMARY KEY, -- digest of session_id
  session_id TEXT NOT NULL, -- Claude Code's id of it
  at INTEGER NOT NULL, -- when it was forgotten, milliseconds since 1970 UTC
  is_all INTEGER NOT NULL -- 1: its numbers are not wanted either
) STRICT""")


@migrations()
def keep_what_is_searched(db: Database) -> None:
    """What the full-text index is over; empty until the first search."""
    db.execute("""
CREATE TABLE passages ( -- what can be searched: messages and, from the first search on, what tools were given
  id INTEGER PRIMARY KEY, -- row of `search`, the full-text index; newer ones are larger
  record_id INTEGER NOT NULL REFERENCES records (id), -- record it is of
  kind INTEGER NOT NULL, -- 0 a message, 1 a tool's input, 2 a tool's result, 3 thinking
  tool TEXT, -- tool, of an input
  text TEXT -- what it says; NULL: what the record's text says
) STRICT""")
    db.execute("CREATE INDEX passages_record ON passages (record_id)")
    db.execute("CREATE INDEX files_session ON files (session_id)")  # where a session can be resumed


@migrations()
def count_what_happened(db: Database) -> None:
    """What people ask of a session beside its usage; the parser that gives the files reads transcripts anew."""
    db.execute("""
CREATE TABLE session_facts ( -- what happened in a session; derived
  session_id INTEGER PRIMARY KEY REFERENCES sessions (id), -- session
  turn_count INTEGER NOT NULL, -- prompts and slash commands that a human typed
  tool_count INTEGER NOT NULL, -- calls of tools, by subagents too
  tool_error_count INTEGER NOT NULL, -- of these, failed
  file_count INTEGER NOT NULL, -- files that were changed by Edit, MultiEdit, Write or NotebookEdit
  pull_request_count INTEGER NOT NULL, -- pull requests
  compaction_count INTEGER NOT NULL, -- times the conversation was compacted
  interruption_count INTEGER NOT NULL, -- times a human stopped it
  api_error_count INTEGER NOT NULL, -- answers that were an error of the API
  model_change_count INTEGER NOT NULL -- times the main conversation went on with another model
) STRICT""")
    # Of transcripts that are gone there is no other reading. Which files they changed, the index was not told.
    db.execute("""
INSERT INTO session_facts
SELECT
  s.id, coalesce(r.turns, 0), coalesce(t.tools, 0), coalesce(t.errors, 0), 0, coalesce(r.pull_requests, 0),
  coalesce(r.compactions, 0), coalesce(r.interruptions, 0), coalesce(r.api_errors, 0), 0
FROM sessions AS s
LEFT JOIN (
  SELECT
    c.session_id, sum(
      k.type = 'user' AND NOT c.is_sidechain
      AND (k.subtype = 'prompt' OR k.subtype = 'command' AND r.text LIKE '%<command-name>%')
    ) AS turns,
    count(DISTINCT CASE k.type WHEN 'pr-link' THEN r.text END) AS pull_requests,
    sum(k.subtype IS 'compact_boundary' AND NOT c.is_sidechain) AS compactions,
    sum(k.subtype IS 'interruption') AS interruptions,
    sum(k.type = 'assistant' AND k.subtype IS 'api_error') AS api_errors
  FROM contexts AS c JOIN records AS r ON r.context_id = c.id JOIN record_types AS k ON k.id = r.type_id
  GROUP BY c.session_id
) AS r ON r.session_id = s.id
LEFT JOIN (
  SELECT session_id, count(*) AS tools, sum(is_error) AS errors FROM tool_calls GROUP BY session_id
) AS t ON t.session_id = s.id""")


@migrations()
def index_tool_calls_by_time(db: Database) -> None:
    """The newest tool calls first. An index without any gets this one as all others: after its first load."""
    if db.execute("SELECT 1 FROM tool_calls LIMIT 1").fetchone():
        db.execute("CREATE INDEX IF NOT EXISTS tool_calls_started_at ON tool_calls (started_at)")


@migrations()
def relate_sessions(db: Database) -> None:
    """What goes on from what is asked of every session: to find it anew took longer than all the rest of the report.

    The parser that gives the columns of contexts reads transcripts anew; of those that are gone, what they share tells.
    """
    db.execute("CREATE TABLE before AS SELECT * FROM contexts")
    db.execute("DROP TABLE contexts")
    db.execute("""
CREATE TABLE contexts ( -- what many records share: session, directory, version, agent
  id INTEGER PRIMARY KEY, -- digest of the rest
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  cwd TEXT, -- working directory
  branch TEXT, -- git branch
  version TEXT, -- version of Claude Code
  entrypoint TEXT, -- cli, sdk-py, claude-vscode, …
  agent TEXT, -- id of the subagent
  agent_type TEXT, -- its type, where the record names it
  skill TEXT, -- skill the response is attributed to
  plugin TEXT, -- plugin it is attributed to
  mcp_server TEXT, -- MCP server it is attributed to
  mcp_tool TEXT, -- MCP tool it is attributed to
  is_sidechain INTEGER NOT NULL, -- 1: said by or to a subagent
  is_background INTEGER NOT NULL, -- 1: a background copy of a session
  forked_from TEXT, -- session that the records were copied from
  continued_from TEXT -- session whose transcript the records name as what came before
) STRICT""")
    db.execute("INSERT INTO contexts SELECT *, NULL, NULL FROM before")
    db.execute("DROP TABLE before")
    # SQLite keeps a comment only if something of the column comes after it.
    db.execute("""
ALTER TABLE session_facts ADD COLUMN
  shared_count INTEGER NOT NULL -- responses that stand in another session, too
  DEFAULT 0""")
    db.execute("""
CREATE TABLE session_relations ( -- which session goes on from which; derived
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  parent_id INTEGER NOT NULL, -- digest of parent
  parent TEXT NOT NULL, -- Claude Code's id of the session before it, which the index may not have
  kind TEXT NOT NULL, -- fork: it repeats its parent; continued: it names it; shared: both repeat the same
  response_count INTEGER NOT NULL, -- responses that stand in both
  shared_until INTEGER, -- the last of these, milliseconds since 1970 UTC
  PRIMARY KEY (session_id, parent_id)
) STRICT, WITHOUT ROWID""")
    db.execute("""
CREATE TEMP TABLE shared AS
SELECT DISTINCT o.id, o.at, o.session_id AS owner_id, c.session_id AS other_id
FROM (SELECT response_id AS id FROM record_usage GROUP BY 1 HAVING min(record_id >> 40) < max(record_id >> 40)) AS d
CROSS JOIN responses AS o ON o.id = d.id AND o.part = 0
CROSS JOIN record_usage AS u ON u.response_id = o.id
CROSS JOIN records AS r ON r.id = u.record_id
CROSS JOIN contexts AS c ON c.id = r.context_id AND c.session_id <> o.session_id""")
    db.execute("""
INSERT INTO session_relations
SELECT
  iif(n.lower_owns * 2 >= n.total, n.higher_id, n.lower_id), p.id, p.session_id, 'fork', n.total, n.until
FROM (
  SELECT
    min(owner_id, other_id) AS lower_id, max(owner_id, other_id) AS higher_id,
    count(*) AS total, max(at) AS until, sum(owner_id < other_id) AS lower_owns
  FROM temp.shared GROUP BY 1, 2
) AS n
JOIN sessions AS p ON p.id = iif(n.lower_owns * 2 >= n.total, n.lower_id, n.higher_id)""")
    db.execute("""
UPDATE session_facts SET shared_count = n.total
FROM (
  SELECT session_id, count(DISTINCT id) AS total
  FROM (SELECT id, owner_id AS session_id FROM temp.shared UNION ALL SELECT id, other_id FROM temp.shared)
  GROUP BY 1
) AS n
WHERE n.session_id = session_facts.session_id""")
    db.execute("DROP TABLE temp.shared")


@migrations()
def index_files(db: Database) -> None:
    """What is asked of all transcripts at every refresh and every report, for which what is gone only grows.

    A year of transcripts that Claude Code deleted would take a refresh that finds nothing new half as long again.
    """
    db.execute("CREATE INDEX files_root ON files (host_id, root)")
    # SQLite reads the columns of the condition, too, and only then nothing but the index.
    db.execute(
        "CREATE INDEX files_present ON files"
        " (host_id, path, size, mtime_ns, inode, checked_ns, parser_version, error, replaced_at, gone_at)"
        " WHERE replaced_at IS NULL AND gone_at IS NULL"
    )


@migrations()
def sum_usage(db: Database) -> None:
    """Rollups: reports sum some thousand rows where they summed each response. They are filled when views are made."""
    sums = """
  first_at INTEGER NOT NULL, -- first of them, milliseconds since 1970 UTC
  last_at INTEGER NOT NULL, -- last of them
  parts INTEGER NOT NULL, -- rows of responses: an advisor's call within one counts
  responses INTEGER NOT NULL, -- responses
  undercounted_responses INTEGER NOT NULL, -- of these, those whose final output count was never written
  input_tokens INTEGER NOT NULL, -- input, without cache
  output_tokens INTEGER NOT NULL, -- output, thinking included
  cache_write_tokens INTEGER NOT NULL, -- cache writes, both lifetimes
  cache_write_1h_tokens INTEGER NOT NULL, -- of these, with a lifetime of an hour
  cache_read_tokens INTEGER NOT NULL, -- cache reads
  web_searches INTEGER NOT NULL, -- searches
  recorded_nano INTEGER, -- cost that old transcripts tell, nanodollars; NULL: they tell none
  input INTEGER, -- cost of input, nanodollars; NULL: no price is known
  output INTEGER, -- cost of output
  cache_write INTEGER, -- cost of cache writes
  cache_read INTEGER, -- cost of cache reads
  web_search INTEGER, -- cost of searches
  cache_saved INTEGER, -- what caching saved
"""
    db.execute(f"""
CREATE TABLE usage_quarters ( -- sums of responses, by quarter of an hour; derived
  quarter INTEGER NOT NULL, -- quarters of an hour since 1970 UTC
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  context_id INTEGER NOT NULL REFERENCES contexts (id), -- context
  model_id INTEGER NOT NULL REFERENCES models (id), -- model
  host_id INTEGER NOT NULL REFERENCES hosts (id), -- machine
  kind INTEGER NOT NULL, -- 1 fast, 2 US, 4 batch, 8 long context, 16 cost recorded, 32 a subagent's, 64 at a full hour
{sums.strip(chr(10))}
  PRIMARY KEY (quarter, session_id, context_id, model_id, host_id, kind)
) STRICT, WITHOUT ROWID""")
    db.execute(f"""
CREATE TABLE usage_days ( -- sums of responses, by day in the configured zone; derived
  day INTEGER NOT NULL, -- local days since 1970
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  model_id INTEGER NOT NULL REFERENCES models (id), -- model
  host_id INTEGER NOT NULL REFERENCES hosts (id), -- machine
  kind INTEGER NOT NULL, -- 16 cost recorded, 128 no price is known
{sums.strip(chr(10))}
  PRIMARY KEY (day, session_id, model_id, host_id, kind)
) STRICT, WITHOUT ROWID""")
    db.execute(f"""
CREATE TABLE usage_tools ( -- sums of tool calls, by quarter of an hour, with the responses that call; derived
  quarter INTEGER NOT NULL, -- quarters of an hour since 1970 UTC
  session_id INTEGER NOT NULL REFERENCES sessions (id), -- session
  name TEXT NOT NULL, -- tool
  model_id INTEGER NOT NULL, -- model that calls; 0: not known
  host_id INTEGER NOT NULL REFERENCES hosts (id), -- machine
  day INTEGER NOT NULL, -- days since 1970 UTC, of the responses: by which they are priced
  kind INTEGER NOT NULL, -- of the responses, as in usage_quarters
  mcp_server TEXT, -- MCP server the tool belongs to
  calls INTEGER NOT NULL, -- calls
  results INTEGER NOT NULL, -- of these, those with a result
  errors INTEGER NOT NULL, -- of these, errors
  result_bytes INTEGER NOT NULL, -- bytes of text in the results
  searches INTEGER NOT NULL, -- searches of the web that the calls made
  search_fee INTEGER, -- what these cost, nanodollars; NULL: no price is known
{sums[sums.index("  parts") :].rstrip(chr(10))}
  PRIMARY KEY (quarter, session_id, name, model_id, host_id, day, kind)
) STRICT, WITHOUT ROWID""")
    db.execute("DROP INDEX IF EXISTS tool_calls_session")  # made again, with the time of the calls
    db.execute("DELETE FROM meta WHERE key = 'rollups'")


@migrations()
def sum_projects(db: Database) -> None:
    """The totals of many sessions: by day they are as many rows as sessions, by project few, however long it goes on.

    They are filled when views are made.
    """
    db.execute("""
CREATE TABLE usage_projects ( -- sums of responses, by project and 64 days in the configured zone; derived
  project_id INTEGER NOT NULL REFERENCES projects (id), -- project
  model_id INTEGER NOT NULL REFERENCES models (id), -- model
  span INTEGER NOT NULL, -- times 64 local days since 1970
  responses INTEGER NOT NULL, -- responses
  input_tokens INTEGER NOT NULL, -- input, without cache
  output_tokens INTEGER NOT NULL, -- output, thinking included
  cache_write_tokens INTEGER NOT NULL, -- cache writes, both lifetimes
  cache_read_tokens INTEGER NOT NULL, -- cache reads
  unpriced_tokens INTEGER NOT NULL, -- of all these tokens, those whose price is not known
  input INTEGER, -- cost of input, nanodollars; NULL: no price is known of any of them
  output INTEGER, -- cost of output
  cache_write INTEGER, -- cost of cache writes
  cache_read INTEGER, -- cost of cache reads
  web_search INTEGER, -- cost of searches
  PRIMARY KEY (project_id, model_id, span)
) STRICT, WITHOUT ROWID""")
    db.execute("CREATE INDEX usage_days_session ON usage_days (session_id)")  # which sessions own a response
    db.execute("DELETE FROM meta WHERE key = 'rollups'")


@migrations()
def fold_worktrees(db: Database) -> None:
    """Worktrees that a repository has in `.worktrees` are of its project, too."""
    for project_id, path in db.execute("SELECT id, path FROM projects").fetchall():
        found = path
        for separator in ("/", "\\"):
            found = found.partition(f"{separator}.worktrees{separator}")[0]
        if found == path:
            continue
        found = found or "/"
        known = int.from_bytes(blake2b(found.encode("utf-8", "replace"), digest_size=8).digest()) >> 1
        name = found.replace("\\", "/").rpartition("/")[2] or found
        db.execute("INSERT OR IGNORE INTO projects VALUES (?, ?, ?)", [known, found, name])
        db.execute("UPDATE sessions SET project_id = ? WHERE project_id = ?", [known, project_id])
        db.execute("DELETE FROM projects WHERE id = ?", [project_id])
        db.execute("DELETE FROM meta WHERE key = 'rollups'")


@migrations()
def index_sessions_by_id(db: Database) -> None:
    """What views say of one session is looked up. An index without any gets this one as all others."""
    if db.execute("SELECT 1 FROM sessions LIMIT 1").fetchone():
        db.execute("CREATE INDEX IF NOT EXISTS sessions_session_id ON sessions (session_id)")


@migrations()
def count_turns_once(db: Database) -> None:
    """What stands in two transcripts of a session happened once: such sessions are counted anew."""
    db.execute("""
CREATE TEMP TABLE seen AS
SELECT
  c.session_id, c.is_sidechain, k.type, k.subtype, coalesce(r.uuid, r.id) AS once,
  k.subtype = 'prompt' OR r.text LIKE '%<command-name>%' AS is_turn
FROM records AS r
JOIN record_types AS k ON k.id = r.type_id
JOIN contexts AS c ON c.id = r.context_id
WHERE
  k.type = 'user' AND k.subtype IN ('prompt', 'command', 'interruption')
  OR k.type = 'system' AND k.subtype = 'compact_boundary' OR k.type = 'assistant' AND k.subtype = 'api_error'""")
    db.execute("""
CREATE TEMP TABLE recounted AS
SELECT
  session_id AS id,
  count(DISTINCT CASE WHEN type = 'user' AND subtype = 'prompt' AND NOT is_sidechain THEN once END) AS prompts,
  count(DISTINCT CASE WHEN subtype IN ('prompt', 'command') AND is_turn AND NOT is_sidechain THEN once END) AS turns,
  count(DISTINCT CASE WHEN subtype = 'compact_boundary' AND NOT is_sidechain THEN once END) AS compactions,
  count(DISTINCT CASE WHEN subtype = 'interruption' THEN once END) AS interruptions,
  count(DISTINCT CASE WHEN subtype = 'api_error' THEN once END) AS api_errors
FROM temp.seen
GROUP BY session_id
HAVING count(DISTINCT once) < count(*)""")
    db.execute("""
UPDATE sessions SET prompt_count = n.prompts FROM temp.recounted AS n WHERE n.id = sessions.id""")
    db.execute("""
UPDATE session_facts SET
  turn_count = n.turns, compaction_count = n.compactions, interruption_count = n.interruptions,
  api_error_count = n.api_errors
FROM temp.recounted AS n WHERE n.id = session_facts.session_id""")
    db.execute("DROP TABLE temp.seen")
    db.execute("DROP TABLE temp.recounted")
