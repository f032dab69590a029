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

-- What each response costs, in whole nanodollars of each kind, rounded half to even from the exact product.
CREATE VIEW response_costs AS
WITH products AS (
  SELECT
    r.id AS id,
    r.input_tokens * p.input_num AS i,
    p.input_den AS i_den,
    r.output_tokens * p.output_num AS o,
    p.output_den AS o_den,
    (r.cache_write_tokens - r.cache_write_1h_tokens) * p.cache_write_5m_num
    + r.cache_write_1h_tokens * p.cache_write_1h_num AS w,
    p.cache_write_den AS w_den,
    r.cache_read_tokens * p.cache_read_num AS c,
    p.cache_read_den AS c_den,
    r.web_searches * p.web_search AS web
  FROM responses AS r
  JOIN rates AS p ON p.id = r.rate_id
)
SELECT
  id,
  (2 * i + i_den) / (2 * i_den) - ((2 * i + i_den) % (2 * i_den) = 0 AND (2 * i + i_den) / (2 * i_den) % 2) AS input,
  (2 * o + o_den) / (2 * o_den) - ((2 * o + o_den) % (2 * o_den) = 0 AND (2 * o + o_den) / (2 * o_den) % 2) AS output,
  (2 * w + w_den) / (2 * w_den)
  - ((2 * w + w_den) % (2 * w_den) = 0 AND (2 * w + w_den) / (2 * w_den) % 2) AS cache_write,
  (2 * c + c_den) / (2 * c_den)
  - ((2 * c + c_den) % (2 * c_den) = 0 AND (2 * c + c_den) / (2 * c_den) % 2) AS cache_read,
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
  (c.input + c.output + c.cache_write + c.cache_read + c.web_search) / 1e9 AS cost_usd,
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
FROM responses AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN contexts AS x ON x.id = r.context_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent
LEFT JOIN response_costs AS c ON c.id = r.id;
