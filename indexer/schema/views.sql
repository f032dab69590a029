-- The index in plain words: text and numbers, UTC times in ISO 8601, USD. Created or replaced when this file differs.

-- One row per record of a transcript, of any type, copies included.
CREATE VIEW messages AS
SELECT
  r.id AS id,
  r.uuid AS uuid,
  r.parent_uuid AS parent_uuid,
  s.session_id AS session_id,
  t.type AS type,
  t.subtype AS subtype,
  strftime('%Y-%m-%dT%H:%M:%fZ', r.at / 1000.0, 'unixepoch') AS at,
  m.name AS model,
  r.text AS text,
  c.is_sidechain AS is_sidechain,
  c.agent AS agent,
  c.cwd AS cwd,
  c.branch AS branch,
  c.version AS version,
  r.message_id AS message_id,
  r.request_id AS request_id,
  r.stop_reason AS stop_reason,
  f.path AS file,
  r.offset AS offset,
  r.length AS length,
  r.line AS line,
  (
    SELECT o.id
    FROM records AS o
    JOIN contexts AS x ON x.id = o.context_id
    JOIN sessions AS y ON y.id = x.session_id
    JOIN files AS g ON g.id = o.id >> 40
    WHERE
      o.id IN (
        SELECT u.id FROM records AS u WHERE u.uuid = r.uuid
        UNION
        SELECT u.record_id
        FROM record_usage AS u
        JOIN records AS b ON b.id = u.record_id
        WHERE u.response_id = r.response_id AND b.block IS r.block AND b.text IS r.text
      )
      AND (x.is_sidechain, x.is_background, o.at, y.session_id, g.path, o.id)
      < (c.is_sidechain, c.is_background, r.at, s.session_id, f.path, r.id)
    ORDER BY x.is_sidechain, x.is_background, o.at, y.session_id, g.path, o.id
    LIMIT 1
  ) AS duplicate_of,
  f.replaced_at IS NOT NULL OR f.gone_at IS NOT NULL AS is_source_gone
FROM records AS r
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
JOIN record_types AS t ON t.id = r.type_id
JOIN files AS f ON f.id = r.id >> 40
LEFT JOIN models AS m ON m.id = r.model_id;

-- Responses with what they cost: whole nanodollars of each kind, rounded half to even from the exact product, NULL
-- where the model has no price. It begins with responses so that SQLite merges it into a query that reads it; joined
-- from the right it would be computed whole.
CREATE VIEW response_costs AS
WITH products AS (
  SELECT
    r.*,
    r.input_tokens * p.input_num AS i,
    p.input_den AS i_den,
    r.output_tokens * p.output_num AS o,
    p.output_den AS o_den,
    (r.cache_write_tokens - r.cache_write_1h_tokens) * p.cache_write_5m_num
    + r.cache_write_1h_tokens * p.cache_write_1h_num AS w,
    p.cache_write_den AS w_den,
    r.cache_read_tokens * p.cache_read_num AS c,
    p.cache_read_den AS c_den,
    r.web_searches * p.web_search AS web,
    p.id AS rate_id
  FROM responses AS r
  LEFT JOIN daily_prices AS d ON d.model_id = r.model_id AND d.day = r.at / 86400000
  LEFT JOIN rates AS p ON p.id =
    d.price_id * 16
    + 8 * coalesce(r.input_tokens + r.cache_write_tokens + r.cache_read_tokens > d.long_context_above, 0)
    + 4 * (r.flags & 1) + 2 * (r.flags >> 1 & 1) + (r.flags >> 2 & 1)
)
SELECT
  id, key, part, model_id, session_id, context_id, owner_id, at, is_sidechain,
  input_tokens, output_tokens, cache_write_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches,
  flags, stop_reason, is_undercounted, recorded_nano, record_count, rate_id,
  CASE i_den WHEN 1 THEN i ELSE
    (2 * i + i_den) / (2 * i_den) - ((2 * i + i_den) % (2 * i_den) = 0 AND (2 * i + i_den) / (2 * i_den) % 2)
  END AS input,
  CASE o_den WHEN 1 THEN o ELSE
    (2 * o + o_den) / (2 * o_den) - ((2 * o + o_den) % (2 * o_den) = 0 AND (2 * o + o_den) / (2 * o_den) % 2)
  END AS output,
  CASE w_den WHEN 1 THEN w ELSE
    (2 * w + w_den) / (2 * w_den) - ((2 * w + w_den) % (2 * w_den) = 0 AND (2 * w + w_den) / (2 * w_den) % 2)
  END AS cache_write,
  CASE c_den WHEN 1 THEN c ELSE
    (2 * c + c_den) / (2 * c_den) - ((2 * c + c_den) % (2 * c_den) = 0 AND (2 * c + c_den) / (2 * c_den) % 2)
  END AS cache_read,
  web AS web_search
FROM products;

-- One row per response and model: an advisor's call within a response is a row of its own.
CREATE VIEW usage AS
SELECT
  r.key AS response_key,
  CASE r.part WHEN 0 THEN 'response' ELSE 'advisor' END AS part,
  s.session_id AS session_id,
  p.path AS project,
  CASE WHEN r.is_sidechain
    THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown')
  END AS agent,
  m.name AS model,
  strftime('%Y-%m-%dT%H:%M:%fZ', r.at / 1000.0, 'unixepoch') AS at,
  r.input_tokens AS input_tokens,
  r.output_tokens AS output_tokens,
  r.cache_write_tokens AS cache_creation_tokens,
  r.cache_write_1h_tokens AS cache_creation_1h_tokens,
  r.cache_read_tokens AS cache_read_tokens,
  (r.input + r.output + r.cache_write + r.cache_read + r.web_search) / 1e9 AS cost_usd,
  r.is_undercounted AS is_undercounted,
  r.web_searches AS web_searches,
  r.recorded_nano / 1e9 AS recorded_cost_usd,
  r.flags & 1 AS is_fast,
  r.flags >> 1 & 1 AS is_us,
  r.flags >> 2 & 1 AS is_batch,
  r.flags >> 3 & 1 AS is_implausible,
  r.stop_reason AS stop_reason,
  r.record_count AS record_count,
  r.owner_id AS message_id
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN contexts AS x ON x.id = r.context_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent;

-- Responses with their local time, and what they cost in nanodollars: what every report sums.
CREATE VIEW local_usage AS
SELECT
  r.id AS id,
  r.at AS at,
  r.at + coalesce(
    (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= r.at ORDER BY z.from_at DESC LIMIT 1), 0
  ) AS local_at,
  r.session_id AS session_id,
  r.context_id AS context_id,
  r.model_id AS model_id,
  r.is_sidechain AS is_sidechain,
  r.part = 0 AS responses,
  r.input_tokens AS input_tokens,
  r.output_tokens AS output_tokens,
  r.cache_write_tokens AS cache_creation_tokens,
  r.cache_read_tokens AS cache_read_tokens,
  r.input + r.output + r.cache_write + r.cache_read + r.web_search AS cost_nano,
  r.recorded_nano AS recorded_nano,
  r.is_undercounted AS is_undercounted
FROM response_costs AS r;

-- Tool calls with their local time: what the report on tools counts.
CREATE VIEW local_calls AS
SELECT
  t.id AS id,
  t.started_at AS at,
  t.started_at + coalesce(
    (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= t.started_at ORDER BY z.from_at DESC LIMIT 1), 0
  ) AS local_at,
  t.session_id AS session_id,
  t.response_id AS response_id,
  r.model_id AS model_id,
  t.name AS name,
  t.mcp_server AS mcp_server,
  t.is_error AS is_error,
  t.result_bytes AS result_bytes,
  t.web_searches AS web_searches,
  max(t.ended_at - t.started_at, 0) AS duration_ms
FROM tool_calls AS t
LEFT JOIN responses AS r ON r.id = t.response_id;
