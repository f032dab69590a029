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
    JOIN hosts AS k ON k.id = g.host_id
    WHERE
      o.id IN (
        SELECT u.id FROM records AS u WHERE u.uuid = r.uuid
        UNION
        SELECT u.record_id
        FROM record_usage AS u
        JOIN records AS b ON b.id = u.record_id
        WHERE u.response_id = r.response_id AND b.block IS r.block AND b.text IS r.text
      )
      AND (x.is_sidechain, x.is_background, o.at, y.session_id, k.name, k.user, g.path, o.id)
      < (c.is_sidechain, c.is_background, r.at, s.session_id, h.name, h.user, f.path, r.id)
    ORDER BY x.is_sidechain, x.is_background, o.at, y.session_id, k.name, k.user, g.path, o.id
    LIMIT 1
  ) AS duplicate_of,
  f.replaced_at IS NOT NULL OR f.gone_at IS NOT NULL AS is_source_gone,
  h.name AS host,
  h.user AS user
FROM records AS r
JOIN contexts AS c ON c.id = r.context_id
JOIN sessions AS s ON s.id = c.session_id
JOIN record_types AS t ON t.id = r.type_id
JOIN files AS f ON f.id = r.id >> 40
JOIN hosts AS h ON h.id = f.host_id
LEFT JOIN models AS m ON m.id = r.model_id;

-- Responses with the machine they are of, and of which kind they are: what is priced alike has the same one, and kind 64
-- is exactly on a full hour, with which a block of five hours may end.
CREATE VIEW response_kinds AS
SELECT
  r.*,
  f.host_id,
  (r.flags & 7)
  + 8 * (r.input_tokens + r.cache_write_tokens + r.cache_read_tokens > 200000)
  + 16 * (r.recorded_nano IS NOT NULL)
  + 32 * (r.is_sidechain <> 0)
  + 64 * (r.at % 3600000 = 0) AS kind
FROM responses AS r
LEFT JOIN files AS f ON f.id = r.owner_id >> 40;

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
    (r.cache_write_tokens + r.cache_read_tokens) * p.input_num AS uncached,
    r.web_searches * p.web_search AS web,
    p.id AS rate_id
  FROM response_kinds AS r
  LEFT JOIN daily_prices AS d ON d.model_id = r.model_id AND d.day = r.at / 86400000
  LEFT JOIN rates AS p ON p.id =
    d.price_id * 16
    + 8 * coalesce(r.input_tokens + r.cache_write_tokens + r.cache_read_tokens > d.long_context_above, 0)
    + 4 * (r.flags & 1) + 2 * (r.flags >> 1 & 1) + (r.flags >> 2 & 1)
)
SELECT
  id, key, part, model_id, session_id, context_id, owner_id, at, is_sidechain,
  input_tokens, output_tokens, cache_write_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches,
  flags, stop_reason, is_undercounted, recorded_nano, record_count, host_id, kind, rate_id,
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
  web AS web_search,
  uncached / i_den - w / w_den - c / c_den AS cache_saved
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
  r.owner_id AS message_id,
  h.name AS host,
  h.user AS user
FROM response_costs AS r
JOIN sessions AS s ON s.id = r.session_id
JOIN projects AS p ON p.id = s.project_id
JOIN models AS m ON m.id = r.model_id
JOIN contexts AS x ON x.id = r.context_id
LEFT JOIN hosts AS h ON h.id = r.host_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent;

-- The reports. Their SQL stands in reports.py, where it is used with filters, too: `cog -r` writes it anew.
-- [[[cog
-- from indexer import reports
-- cog.out("\n" + "\n".join(reports.views()) + "\n")
-- ]]]

-- One row per local day.
CREATE VIEW daily_usage AS
SELECT
  date(u.local_day * 86400, 'unixepoch') AS day,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
GROUP BY u.local_day;

-- One row per local week, by its first day.
CREATE VIEW weekly_usage AS
SELECT
  date((u.local_day - (
    u.local_day + 10 - coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'start_of_week'), 0)
  ) % 7) * 86400, 'unixepoch') AS week,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
GROUP BY u.local_day - (
    u.local_day + 10 - coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'start_of_week'), 0)
  ) % 7;

-- One row per local month.
CREATE VIEW monthly_usage AS
SELECT
  strftime('%Y-%m', u.local_day * 86400, 'unixepoch') AS month,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
GROUP BY strftime('%Y-%m', u.local_day * 86400, 'unixepoch');

-- One row per local hour.
CREATE VIEW hourly_usage AS
SELECT
  strftime('%Y-%m-%dT%H:00', u.local_at / 1000, 'unixepoch')
  || printf(
    '%s%02d:%02d', CASE WHEN u.local_at < u.at THEN '-' ELSE '+' END,
    abs(u.local_at - u.at) / 3600000, abs(u.local_at - u.at) / 60000 % 60
  ) AS hour,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_quarters AS u
JOIN models AS m ON m.id = u.model_id
GROUP BY u.local_at / 3600000, u.local_at - u.at;

-- One row per session, its subagents included.
CREATE VIEW session_usage AS
SELECT
  s.session_id AS session_id,
  p.path AS project,
  s.title AS title,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(u.at) / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(u.last_at) / 1000.0, 'unixepoch') AS last_at,
  (
    SELECT w.parent
    FROM session_relations AS w
    WHERE w.session_id = u.session_id AND w.kind <> 'shared'
    ORDER BY w.kind = 'continued', w.shared_until DESC, w.parent
    LIMIT 1
  ) AS parent,
  (
    SELECT w.kind
    FROM session_relations AS w
    WHERE w.session_id = u.session_id AND w.kind <> 'shared'
    ORDER BY w.kind = 'continued', w.shared_until DESC, w.parent
    LIMIT 1
  ) AS relation,
  k.shared_count AS shared_responses,
  (
    SELECT json_group_array(x.other)
    FROM (
      SELECT w.parent AS other FROM session_relations AS w WHERE w.session_id = u.session_id AND w.response_count > 0
      UNION ALL
      SELECT e.session_id
      FROM session_relations AS w JOIN sessions AS e ON e.id = w.session_id
      WHERE w.parent_id = u.session_id AND w.response_count > 0
    ) AS x
  ) AS shared_with,
  (
    SELECT json_group_array(w.parent) FROM session_relations AS w WHERE w.session_id = u.session_id AND w.kind = 'fork'
  ) AS forked_from,
  k.turn_count AS turns,
  k.tool_count AS tools,
  k.tool_error_count AS tool_errors,
  k.file_count AS files,
  k.pull_request_count AS pull_requests,
  k.compaction_count AS compactions,
  k.interruption_count AS interruptions,
  k.api_error_count AS api_errors,
  k.model_change_count AS model_changes,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
LEFT JOIN session_facts AS k ON k.session_id = u.session_id
GROUP BY u.session_id;

-- One row per project.
CREATE VIEW project_usage AS
SELECT
  p.path AS project,
  p.name AS name,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(u.at) / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(u.last_at) / 1000.0, 'unixepoch') AS last_at,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
GROUP BY p.id;

-- One row per machine and user whose history is in the index.
CREATE VIEW host_usage AS
SELECT
  o.name AS host,
  o.user AS user,
  strftime('%Y-%m-%dT%H:%M:%fZ', min(u.at) / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(u.last_at) / 1000.0, 'unixepoch') AS last_at,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
JOIN hosts AS o ON o.id = u.host_id
GROUP BY o.id;

-- One row per model.
CREATE VIEW model_usage AS
SELECT
  m.name AS model,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_days AS u
JOIN models AS m ON m.id = u.model_id
GROUP BY m.id;

-- One row per type of subagent; NULL: the main conversation.
CREATE VIEW agent_usage AS
SELECT
  CASE WHEN u.is_sidechain
    THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown')
  END AS agent,
  count(DISTINCT CASE WHEN u.is_sidechain THEN u.session_id || ' ' || x.agent END) AS runs,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_quarters AS u
JOIN models AS m ON m.id = u.model_id
JOIN contexts AS x ON x.id = u.context_id
LEFT JOIN agents AS a ON a.session_id = x.session_id AND a.agent = x.agent
GROUP BY CASE WHEN u.is_sidechain
    THEN coalesce(a.type, CASE WHEN x.agent LIKE 'acompact%' THEN 'compact' END, 'unknown')
  END;

-- One row per skill that responses are attributed to; NULL: none.
CREATE VIEW skill_usage AS
SELECT
  x.skill AS skill,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_quarters AS u
JOIN models AS m ON m.id = u.model_id
JOIN contexts AS x ON x.id = u.context_id
GROUP BY x.skill;

-- One row per mcp_server that responses are attributed to; NULL: none.
CREATE VIEW mcp_server_usage AS
SELECT
  x.mcp_server AS mcp_server,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_quarters AS u
JOIN models AS m ON m.id = u.model_id
JOIN contexts AS x ON x.id = u.context_id
GROUP BY x.mcp_server;

-- One row per plugin that responses are attributed to; NULL: none.
CREATE VIEW plugin_usage AS
SELECT
  x.plugin AS plugin,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_quarters AS u
JOIN models AS m ON m.id = u.model_id
JOIN contexts AS x ON x.id = u.context_id
GROUP BY x.plugin;

-- One row per tool: its calls, and the usage of the responses that call it.
CREATE VIEW tool_usage AS
WITH durations AS MATERIALIZED (
  SELECT
    n.name AS tool,
    (
      SELECT json_group_array(c.duration_ms)
      FROM (
        SELECT max(t.ended_at - t.started_at, 0) AS duration_ms
        FROM tool_calls AS t
        WHERE t.name = n.name AND max(t.ended_at - t.started_at, 0) IS NOT NULL
        ORDER BY max(t.ended_at - t.started_at, 0)
      ) AS c
    ) AS sorted
  FROM (SELECT DISTINCT name FROM usage_tools) AS n
), percentiles AS MATERIALIZED (
  SELECT
    tool,
    json_extract(sorted, '$[' || ((json_array_length(sorted) + 1) / 2 - 1) || ']') AS median_ms,
    json_extract(sorted, '$[' || ((json_array_length(sorted) * 95 + 99) / 100 - 1) || ']') AS p95_ms
  FROM durations
  WHERE sorted <> '[]'
)
SELECT
  u.name AS tool,
  max(u.mcp_server) AS mcp_server,
  sum(u.calls) AS calls,
  sum(u.errors) AS errors,
  1.0 * sum(u.errors) / nullif(sum(u.results), 0) AS error_rate,
  (SELECT d.median_ms FROM percentiles AS d WHERE d.tool IS u.name) AS median_ms,
  (SELECT d.p95_ms FROM percentiles AS d WHERE d.tool IS u.name) AS p95_ms,
  sum(u.result_bytes) AS result_bytes,
  sum(u.searches) AS web_searches,
  coalesce(sum(u.search_fee_nano), 0) / 1e9 AS web_search_cost_usd,
  sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT CASE WHEN u.parts > 0 THEN u.session_id END) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
FROM local_tools AS u
LEFT JOIN models AS m ON m.id = u.model_id
GROUP BY u.name;

-- One row per window of five hours in which something was used, and per gap between two.
CREATE VIEW blocks AS
WITH RECURSIVE starts AS (
  SELECT min(at) AS first_at FROM responses
  UNION ALL
  SELECT (SELECT min(r.at) FROM responses AS r WHERE r.at > s.first_at / 3600000 * 3600000 + 18000000)
  FROM starts AS s
  WHERE s.first_at IS NOT NULL
), windows AS (
  SELECT
    s.first_at / 3600000 * 3600000 AS at,
    s.first_at / 3600000 * 3600000 + 18000000 AS end_at,
    s.first_at AS first_at,
    (SELECT max(r.at) FROM responses AS r WHERE r.at <= s.first_at / 3600000 * 3600000 + 18000000) AS last_at,
    lead(s.first_at) OVER (ORDER BY s.first_at) AS next_at,
    s.first_at / 3600000 * 3600000 + coalesce(
      (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= s.first_at ORDER BY z.from_at DESC LIMIT 1), 0
    ) AS local_at
  FROM starts AS s
  WHERE s.first_at IS NOT NULL
), used AS (
  SELECT
    w.at, w.end_at, w.first_at, w.last_at,
    (w.last_at - w.first_at) / 60000.0 AS minutes,
    sum(u.input_tokens) AS input_tokens,
  sum(u.output_tokens) AS output_tokens,
  sum(u.cache_creation_tokens) AS cache_creation_tokens,
  sum(u.cache_read_tokens) AS cache_read_tokens,
  sum(u.total_tokens) AS total_tokens,
  sum(u.cost_nano) / 1e9 AS cost_usd,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  json_group_array(DISTINCT m.name) FILTER (WHERE m.name IS NOT NULL) AS models,
  sum(CASE WHEN u.cost_nano IS NULL THEN u.total_tokens ELSE 0 END) AS unpriced_tokens,
  sum(u.undercounted_responses) AS undercounted_responses
  FROM windows AS w
  CROSS JOIN local_quarters AS u ON
    u.quarter >= w.first_at / 900000 AND u.quarter <= w.end_at / 900000 AND u.at >= w.first_at AND u.at <= w.end_at
  JOIN models AS m ON m.id = u.model_id
  GROUP BY w.at
), clock AS (
  SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
), told AS (
  SELECT
    u.*,
    c.now - u.last_at < 18000000 AND c.now < u.end_at AS is_active,
    round((u.end_at - c.now) / 60000.0) AS minutes_to_go
  FROM used AS u
  CROSS JOIN clock AS c
)
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS block,
  strftime('%Y-%m-%dT%H:%M:%fZ', end_at / 1000.0, 'unixepoch') AS end_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', first_at / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', last_at / 1000.0, 'unixepoch') AS last_at,
  is_active,
  0 AS is_gap,
  input_tokens,
  output_tokens,
  cache_creation_tokens,
  cache_read_tokens,
  total_tokens,
  cost_usd,
  responses,
  sessions,
  models,
  unpriced_tokens,
  undercounted_responses,
  CASE WHEN minutes > 0 THEN total_tokens / minutes END AS tokens_per_minute,
  CASE WHEN minutes > 0 THEN cost_usd / minutes * 60 END AS cost_usd_per_hour,
  CASE WHEN is_active THEN CAST(minutes_to_go AS INTEGER) END AS minutes_left,
  CASE WHEN is_active AND minutes > 0
    THEN CAST(round(total_tokens + total_tokens / minutes * minutes_to_go) AS INTEGER)
  END AS projected_total_tokens,
  CASE WHEN is_active AND minutes > 0 THEN cost_usd + cost_usd / minutes * minutes_to_go END AS projected_cost_usd
FROM told
UNION ALL
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch'),
  strftime('%Y-%m-%dT%H:%M:%fZ', end_at / 1000.0, 'unixepoch'),
  NULL, NULL, 0, 1, 0, 0, 0, 0, 0, NULL, 0, 0, '[]', 0, 0, NULL, NULL, NULL, NULL, NULL
FROM (
  SELECT w.last_at + 18000000 AS at, w.next_at AS end_at, w.last_at + 18000000 + w.local_at - w.at AS local_at
  FROM windows AS w
  WHERE w.next_at - w.last_at > 18000000
) AS g;

-- [[[end]]]

-- Responses with their local time, and what they cost in nanodollars.
CREATE VIEW local_usage AS
SELECT
  r.id AS id,
  r.at AS at,
  r.at AS last_at,
  r.local_at AS local_at,
  r.local_at / 86400000 AS local_day,
  r.session_id AS session_id,
  r.context_id AS context_id,
  r.model_id AS model_id,
  r.host_id AS host_id,
  r.kind AS kind,
  r.is_sidechain AS is_sidechain,
  1 AS parts,
  r.part = 0 AS responses,
  r.is_undercounted AS undercounted_responses,
  r.input_tokens AS input_tokens,
  r.output_tokens AS output_tokens,
  r.cache_write_tokens AS cache_creation_tokens,
  r.cache_write_1h_tokens AS cache_creation_1h_tokens,
  r.cache_read_tokens AS cache_read_tokens,
  r.input_tokens + r.output_tokens + r.cache_write_tokens + r.cache_read_tokens AS total_tokens,
  r.web_searches AS web_searches,
  r.recorded_nano AS recorded_nano,
  r.input AS input_nano,
  r.output AS output_nano,
  r.cache_write AS cache_write_nano,
  r.cache_read AS cache_read_nano,
  r.web_search AS web_search_nano,
  r.input + r.output + r.cache_write + r.cache_read + r.web_search AS cost_nano,
  r.cache_saved AS cache_saved_nano,
  r.is_undercounted AS is_undercounted
FROM (
  SELECT
    c.*,
    c.at + coalesce(
      (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= c.at ORDER BY z.from_at DESC LIMIT 1), 0
    ) AS local_at
  FROM response_costs AS c
) AS r;

-- Sums of responses by quarter of an hour, with the local time of the first: what reports sum that look within days.
CREATE VIEW local_quarters AS
SELECT
  q.first_at AS at,
  q.last_at AS last_at,
  q.first_at + q.offset_ms AS local_at,
  (q.first_at + q.offset_ms) / 86400000 AS local_day,
  q.quarter AS quarter,
  q.session_id AS session_id,
  q.context_id AS context_id,
  q.model_id AS model_id,
  q.host_id AS host_id,
  q.kind AS kind,
  q.kind >> 5 & 1 AS is_sidechain,
  q.parts AS parts,
  q.responses AS responses,
  q.undercounted_responses AS undercounted_responses,
  q.input_tokens AS input_tokens,
  q.output_tokens AS output_tokens,
  q.cache_write_tokens AS cache_creation_tokens,
  q.cache_write_1h_tokens AS cache_creation_1h_tokens,
  q.cache_read_tokens AS cache_read_tokens,
  q.input_tokens + q.output_tokens + q.cache_write_tokens + q.cache_read_tokens AS total_tokens,
  q.web_searches AS web_searches,
  q.recorded_nano AS recorded_nano,
  q.input AS input_nano,
  q.output AS output_nano,
  q.cache_write AS cache_write_nano,
  q.cache_read AS cache_read_nano,
  q.web_search AS web_search_nano,
  q.input + q.output + q.cache_write + q.cache_read + q.web_search AS cost_nano,
  q.cache_saved AS cache_saved_nano
FROM (
  SELECT
    u.*,
    coalesce(
      (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= u.first_at ORDER BY z.from_at DESC LIMIT 1), 0
    ) AS offset_ms
  FROM usage_quarters AS u
) AS q;

-- Sums of responses by local day: what most reports sum.
CREATE VIEW local_days AS
SELECT
  d.first_at AS at,
  d.last_at AS last_at,
  d.day AS local_day,
  d.session_id AS session_id,
  d.model_id AS model_id,
  d.host_id AS host_id,
  d.kind AS kind,
  d.parts AS parts,
  d.responses AS responses,
  d.undercounted_responses AS undercounted_responses,
  d.input_tokens AS input_tokens,
  d.output_tokens AS output_tokens,
  d.cache_write_tokens AS cache_creation_tokens,
  d.cache_write_1h_tokens AS cache_creation_1h_tokens,
  d.cache_read_tokens AS cache_read_tokens,
  d.input_tokens + d.output_tokens + d.cache_write_tokens + d.cache_read_tokens AS total_tokens,
  d.web_searches AS web_searches,
  d.recorded_nano AS recorded_nano,
  d.input AS input_nano,
  d.output AS output_nano,
  d.cache_write AS cache_write_nano,
  d.cache_read AS cache_read_nano,
  d.web_search AS web_search_nano,
  d.input + d.output + d.cache_write + d.cache_read + d.web_search AS cost_nano,
  d.cache_saved AS cache_saved_nano
FROM usage_days AS d;

-- Sums of tool calls by quarter of an hour, with its local time; a response counts with its first call of the tool.
CREATE VIEW local_tools AS
SELECT
  t.quarter AS quarter,
  t.quarter * 900000 + coalesce(
    (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= t.quarter * 900000 ORDER BY z.from_at DESC LIMIT 1), 0
  ) AS local_at,
  t.session_id AS session_id,
  t.name AS name,
  nullif(t.model_id, 0) AS model_id,
  t.host_id AS host_id,
  t.kind AS kind,
  t.mcp_server AS mcp_server,
  t.calls AS calls,
  t.results AS results,
  t.errors AS errors,
  t.result_bytes AS result_bytes,
  t.searches AS searches,
  t.search_fee AS search_fee_nano,
  t.parts AS parts,
  t.responses AS responses,
  t.undercounted_responses AS undercounted_responses,
  t.input_tokens AS input_tokens,
  t.output_tokens AS output_tokens,
  t.cache_write_tokens AS cache_creation_tokens,
  t.cache_read_tokens AS cache_read_tokens,
  t.input_tokens + t.output_tokens + t.cache_write_tokens + t.cache_read_tokens AS total_tokens,
  t.recorded_nano AS recorded_nano,
  t.input + t.output + t.cache_write + t.cache_read + t.web_search AS cost_nano
FROM usage_tools AS t;

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
  max(t.ended_at - t.started_at, 0) AS duration_ms,
  f.host_id AS host_id
FROM tool_calls AS t
LEFT JOIN responses AS r ON r.id = t.response_id
LEFT JOIN files AS f ON f.id = t.record_id >> 40;

-- What the full-text index `search` is over: the text of passages, and in `about` words that filters look for.
CREATE VIEW searchable AS
SELECT
  p.id AS id,
  coalesce(p.text, r.text) AS text,
  's' || c.session_id || ' m' || strftime('%Y%m', r.at / 1000, 'unixepoch')
  || ' k' || CASE
    WHEN p.kind = 1 THEN 'tool' WHEN p.kind = 2 THEN 'result' WHEN p.kind = 3 THEN 'thinking'
    WHEN t.type = 'assistant' THEN 'answer'
    WHEN t.type = 'attachment' OR t.type = 'user' AND t.subtype IN ('prompt', 'command')
      THEN CASE WHEN c.is_sidechain THEN 'task' ELSE 'prompt' END
    ELSE 'note'
  END
  || coalesce(' t ' || p.tool, '') AS about
FROM passages AS p
JOIN records AS r ON r.id = p.record_id
JOIN contexts AS c ON c.id = r.context_id
JOIN record_types AS t ON t.id = r.type_id;

-- One row per session and session that it goes on from, or has responses in common with; the nearest has `rank` 1.
CREATE VIEW relations AS
SELECT
  s.session_id AS session_id,
  v.parent AS parent,
  v.kind AS relation,
  row_number() OVER (
    PARTITION BY v.session_id ORDER BY v.kind = 'shared', v.kind = 'continued', v.shared_until DESC, v.parent
  ) AS rank,
  v.response_count AS shared_responses,
  strftime('%Y-%m-%dT%H:%M:%fZ', v.shared_until / 1000.0, 'unixepoch') AS shared_until,
  p.title AS parent_title,
  p.id IS NOT NULL AS is_indexed
FROM session_relations AS v
JOIN sessions AS s ON s.id = v.session_id
LEFT JOIN sessions AS p ON p.id = v.parent_id;

-- One row per session: what it was, in plain words, also where nothing of it is billed to it.
CREATE VIEW conversations AS
SELECT
  s.session_id AS session_id,
  p.path AS project,
  s.title AS title,
  strftime('%Y-%m-%dT%H:%M:%fZ', s.first_at / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', s.last_at / 1000.0, 'unixepoch') AS last_at,
  s.record_count AS records,
  f.turn_count AS turns,
  f.tool_count AS tools,
  f.tool_error_count AS tool_errors,
  f.file_count AS files,
  f.pull_request_count AS pull_requests,
  f.compaction_count AS compactions,
  f.interruption_count AS interruptions,
  f.api_error_count AS api_errors,
  f.model_change_count AS model_changes,
  v.parent AS parent,
  v.relation AS relation
FROM sessions AS s
LEFT JOIN projects AS p ON p.id = s.project_id
LEFT JOIN session_facts AS f ON f.session_id = s.id
LEFT JOIN relations AS v ON v.session_id = s.session_id AND v.rank = 1 AND v.relation <> 'shared';

-- One row per session and file that its tools changed.
CREATE VIEW changed_files AS
SELECT
  s.session_id AS session_id,
  u.subject AS path,
  count(*) AS changes,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(t.started_at) / 1000.0, 'unixepoch') AS last_at
FROM sessions AS s
JOIN tool_calls AS t ON t.session_id = s.id
JOIN tool_uses AS u ON u.call_id = t.id AND u.record_id = t.record_id
WHERE t.name IN ('Edit', 'MultiEdit', 'Write', 'NotebookEdit') AND u.subject IS NOT NULL
GROUP BY s.id, u.subject;
