-- What other engines are given of this machine's part of the index: `cm export` and `cm push` make these views for
-- themselves. A column that stands in a table as it is has the type it has there; what is worked out is a whole number.
-- `…_at` are milliseconds since 1970 UTC, `…_usd` nanodollars here: both are written as what they are. No column is named
-- `at`: that is a keyword of DuckDB.

-- One row per record of a transcript, of any type, copies included; its text only where that was asked for.
CREATE TEMP VIEW fact_messages AS
SELECT
  r.file_id AS file_id,
  r.offset AS byte_offset,
  r.line AS line,
  r.length AS length,
  r.uuid AS uuid,
  r.parent_uuid AS parent_uuid,
  s.session_id AS session_id,
  t.type AS type,
  t.subtype AS subtype,
  r.at AS occurred_at,
  m.name AS model,
  c.is_sidechain AS is_sidechain,
  c.agent AS agent,
  c.cwd AS cwd,
  c.branch AS branch,
  c.version AS version,
  c.entrypoint AS entrypoint,
  r.message_id AS message_id,
  r.request_id AS request_id,
  r.stop_reason AS stop_reason,
  r.text AS text
FROM records AS r
JOIN files AS f ON f.id = r.id >> 40
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
JOIN record_types AS t ON t.id = r.type_id
LEFT JOIN models AS m ON m.id = r.model_id
WHERE f.host_id = 1;

-- The numbers each record gives for a response, or for an advisor's call within it: what the accounting starts from.
CREATE TEMP VIEW fact_records AS
SELECT
  u.response_id AS response_id,
  r.file_id AS file_id,
  r.offset AS byte_offset,
  u.part AS part,
  u.advised_id AS advised_id,
  r.at AS occurred_at,
  s.session_id AS session_id,
  m.name AS model,
  c.agent AS agent,
  u.owner_rank AS owner_rank,
  u.input_tokens AS input_tokens,
  u.output_tokens AS output_tokens,
  u.cache_write_tokens AS cache_creation_tokens,
  u.cache_write_1h_tokens AS cache_creation_1h_tokens,
  u.cache_read_tokens AS cache_read_tokens,
  u.web_searches AS web_searches,
  u.flags AS flags,
  u.stop_reason AS stop_reason,
  u.recorded_nano AS recorded_cost_usd
FROM records AS r
JOIN files AS f ON f.id = r.id >> 40
JOIN record_usage AS u ON u.record_id = r.id
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
JOIN models AS m ON m.id = u.model_id
WHERE f.host_id = 1;

-- Each record that calls a tool.
CREATE TEMP VIEW fact_tool_calls AS
SELECT
  u.call_id AS call_id,
  r.file_id AS file_id,
  r.offset AS byte_offset,
  u.tool_use_id AS tool_use_id,
  u.name AS name,
  u.subject AS subject,
  r.at AS occurred_at,
  s.session_id AS session_id,
  u.owner_rank AS owner_rank,
  coalesce(
    r.response_id, (SELECT e.response_id FROM record_usage AS e WHERE e.record_id = r.id AND e.part = 0)
  ) AS response_id
FROM records AS r
JOIN files AS f ON f.id = r.id >> 40
JOIN tool_uses AS u ON u.record_id = r.id
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
WHERE f.host_id = 1;

-- Each record that carries a tool's result.
CREATE TEMP VIEW fact_tool_results AS
SELECT
  x.call_id AS call_id,
  r.file_id AS file_id,
  r.offset AS byte_offset,
  r.at AS occurred_at,
  x.is_error AS is_error,
  x.bytes AS bytes,
  x.web_searches AS web_searches,
  x.agent AS agent
FROM records AS r
JOIN files AS f ON f.id = r.id >> 40
JOIN tool_results AS x ON x.record_id = r.id
WHERE f.host_id = 1;

-- Responses that a record of this machine owns, each with its cost, as this index alone knows them: a response that
-- stands on two machines stands in both their exports.
CREATE TEMP VIEW fact_responses AS
SELECT
  r.id AS response_id,
  r.key AS key,
  r.part AS part,
  r.at AS occurred_at,
  s.session_id AS session_id,
  p.path AS project,
  m.name AS model,
  x.agent AS agent,
  r.is_sidechain AS is_sidechain,
  r.input_tokens AS input_tokens,
  r.output_tokens AS output_tokens,
  r.cache_write_tokens AS cache_creation_tokens,
  r.cache_write_1h_tokens AS cache_creation_1h_tokens,
  r.cache_read_tokens AS cache_read_tokens,
  r.web_searches AS web_searches,
  r.flags AS flags,
  r.stop_reason AS stop_reason,
  r.is_undercounted AS is_undercounted,
  r.record_count AS record_count,
  r.input AS input_cost_usd,
  r.output AS output_cost_usd,
  r.cache_write AS cache_write_cost_usd,
  r.cache_read AS cache_read_cost_usd,
  r.web_search AS web_search_cost_usd,
  r.input + r.output + r.cache_write + r.cache_read + r.web_search AS cost_usd,
  r.recorded_nano AS recorded_cost_usd
FROM response_costs AS r
JOIN files AS f ON f.id = r.owner_id >> 40
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN contexts AS x ON x.id = r.context_id
WHERE f.host_id = 1;

-- Sessions with their project, and by which record that is known: of several machines' the first in this order is right.
CREATE TEMP VIEW fact_sessions AS
SELECT
  s.session_id AS session_id,
  p.path AS project,
  p.name AS project_name,
  d.directory_rank AS directory_rank,
  d.at AS directory_at,
  d.path AS directory_path,
  d.offset AS directory_offset,
  s.title AS title
FROM (
  SELECT
    c.session_id AS session_id,
    2 * (c.cwd IS NULL) + c.is_sidechain AS directory_rank,
    r.at AS at,
    f.path AS path,
    r.offset AS offset,
    row_number() OVER (
      PARTITION BY c.session_id
      ORDER BY c.cwd IS NULL, c.is_sidechain, r.at, f.path, r.id & 1099511627775, r.id
    ) AS n
  FROM contexts AS c
  JOIN records AS r ON r.id = (
    SELECT x.id
    FROM records AS x
    JOIN files AS g ON g.id = x.id >> 40
    WHERE x.context_id = c.id AND g.host_id = 1
    ORDER BY x.at, g.path, x.id & 1099511627775, x.id
    LIMIT 1
  )
  JOIN files AS f ON f.id = r.id >> 40
) AS d
JOIN sessions AS s ON s.id = d.session_id
JOIN projects AS p ON p.id = s.project_id
WHERE d.n = 1;

-- Transcripts: where a record stands decides between copies that agree in all else.
CREATE TEMP VIEW fact_files AS
SELECT f.id AS file_id, f.root AS root, f.path AS path FROM files AS f WHERE f.host_id = 1;

-- Model ids as they stand in the transcripts, and what prices are looked up by.
CREATE TEMP VIEW fact_models AS
SELECT m.name AS model, m.canonical AS canonical FROM models AS m;

-- What a model costs, USD per million tokens, by period.
CREATE TEMP VIEW fact_prices AS
SELECT * FROM prices;

-- Prices with their factors, as exact fractions of nanodollars per token.
CREATE TEMP VIEW fact_rates AS
SELECT * FROM rates;

-- Local time of the zone that this machine's reports are in.
CREATE TEMP VIEW fact_zone_offsets AS
SELECT * FROM zone_offsets;
