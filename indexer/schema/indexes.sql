-- Secondary indexes. Each names the question it answers; a new index is filled after its first load.

-- What was said in a session, in order; its first and last record.
CREATE INDEX IF NOT EXISTS records_context ON records (context_id, at, type_id);
-- Rewritten transcripts that are not compared with what they were yet: asked at every refresh.
CREATE INDEX IF NOT EXISTS files_replaces ON files (replaces) WHERE replaces IS NOT NULL;
-- A record by its id, and its copies in other files.
CREATE INDEX IF NOT EXISTS records_uuid ON records (uuid) WHERE uuid IS NOT NULL;
-- The newest records.
CREATE INDEX IF NOT EXISTS records_at ON records (at);
-- Which records a response or a tool call is derived from.
CREATE INDEX IF NOT EXISTS record_usage_response ON record_usage (response_id);
CREATE INDEX IF NOT EXISTS tool_uses_call ON tool_uses (call_id);
CREATE INDEX IF NOT EXISTS tool_results_call ON tool_results (call_id);
-- An advisor's calls, when their response changes.
CREATE INDEX IF NOT EXISTS record_usage_advised ON record_usage (advised_id) WHERE advised_id IS NOT NULL;
-- Usage by time, and of a session.
CREATE INDEX IF NOT EXISTS responses_at ON responses (at);
CREATE INDEX IF NOT EXISTS responses_session ON responses (session_id, at);
CREATE INDEX IF NOT EXISTS responses_model ON responses (model_id, at);
-- Responses with a count that cannot be.
CREATE INDEX IF NOT EXISTS responses_implausible ON responses (id) WHERE flags & 8;
-- Searches a response is charged for.
CREATE INDEX IF NOT EXISTS tool_calls_response ON tool_calls (response_id) WHERE web_searches > 0;
-- Which calls a response makes; the first of them of each tool.
CREATE INDEX IF NOT EXISTS tool_calls_caller ON tool_calls (response_id, name, started_at);
-- How long calls of a tool take; with what that is of, or SQLite would look it up in the table.
CREATE INDEX IF NOT EXISTS tool_calls_duration ON tool_calls (name, max(ended_at - started_at, 0), ended_at, started_at);
-- Tool calls of a session, of a tool, and the newest.
CREATE INDEX IF NOT EXISTS tool_calls_started_at ON tool_calls (started_at);
CREATE INDEX IF NOT EXISTS tool_calls_session ON tool_calls (session_id, started_at);
CREATE INDEX IF NOT EXISTS tool_calls_name ON tool_calls (name, started_at);
CREATE INDEX IF NOT EXISTS contexts_session ON contexts (session_id);
-- Which sessions say that they go on from others, and which others go on from one.
CREATE INDEX IF NOT EXISTS contexts_origin ON contexts (session_id, forked_from, continued_from)
  WHERE coalesce(forked_from, continued_from) IS NOT NULL;
CREATE INDEX IF NOT EXISTS session_relations_parent ON session_relations (parent_id);
-- Sessions of a project, the newest, and one by its id, as people ask views for it; the code asks by the digest.
CREATE INDEX IF NOT EXISTS sessions_project ON sessions (project_id);
CREATE INDEX IF NOT EXISTS sessions_last_at ON sessions (last_at);
CREATE INDEX IF NOT EXISTS sessions_session_id ON sessions (session_id);
-- The price of a model at a time.
CREATE INDEX IF NOT EXISTS prices_model ON prices (model, valid_from);
