-- The accounting over the records of many hosts, for engines that have the tables of facts.sql from each of them.
-- Standard SQL but for what `indexer/across.py` puts in each engine's words: `//` divides whole numbers, instant(ms) is a
-- time, day_of(n) the date n days after 1970-01-01, names_of(x) the sorted list of what x is, usd(n) an amount,
-- earliest(condition, columns…) a value of those columns: the first, in their order, of the rows that meet the condition.
-- Every number is exact: costs are decimals of whole nanodollars.

-- The host whose prices, time zone and days hold in these views, as if all had been merged there: the one whose prices
-- reach farthest. To take another, replace this view.
CREATE VIEW reference_host AS
SELECT host, user_name
FROM prices
GROUP BY host, user_name
ORDER BY max(valid_from) DESC, count(*) DESC, host, user_name
LIMIT 1;

-- The project of each session: the first directory that any of its records names.
CREATE VIEW session_projects AS
SELECT session_id, project, project_name
FROM (
  SELECT
    session_id, project, project_name,
    row_number() OVER (
      PARTITION BY session_id
      ORDER BY directory_rank, directory_at, host, user_name, directory_path, directory_offset
    ) AS n
  FROM sessions
) AS s
WHERE n = 1;

-- Web searches of each response, by the results of its tool calls: each call once, at the earliest original that makes it.
CREATE VIEW response_searches AS
SELECT response_id, sum(web_searches) AS web_searches
FROM (
  SELECT
    c.response_id, x.web_searches,
    row_number() OVER (
      PARTITION BY c.call_id
      ORDER BY c.owner_rank, c.session_id, c.host, c.user_name, f.path, c.byte_offset
    ) AS n
  FROM (
    SELECT call_id, max(web_searches) AS web_searches
    FROM tool_results
    GROUP BY call_id
    HAVING max(web_searches) > 0
  ) AS x
  JOIN tool_calls AS c ON c.call_id = x.call_id
  JOIN files AS f ON f.host = c.host AND f.user_name = c.user_name AND f.file_id = c.file_id
) AS s
WHERE n = 1 AND response_id IS NOT NULL
GROUP BY response_id;

-- What each record says of a response, or of an advisor's call; and for each of these calls, the records of the response
-- that it was made for: by these it is decided whose it is, and whether it was fast.
CREATE VIEW charged_records AS
SELECT
  response_id, part, host, user_name, file_id, byte_offset, session_id, model, agent, owner_rank, input_tokens,
  output_tokens, cache_creation_tokens, cache_creation_1h_tokens, cache_read_tokens, web_searches, flags,
  CASE WHEN stop_reason IS NULL THEN 0 ELSE 1 END AS is_final, recorded_cost_usd, 1 AS records,
  CASE part WHEN 0 THEN 1 ELSE 0 END AS decides
FROM records
UNION ALL
SELECT
  a.response_id, a.part, o.host, o.user_name, o.file_id, o.byte_offset, o.session_id, o.model, o.agent, o.owner_rank, 0,
  0, 0, 0, 0, 0, o.flags, 0, NULL, 0, 1
FROM (SELECT DISTINCT response_id, part, advised_id FROM records WHERE part > 0) AS a
JOIN records AS o ON o.response_id = a.advised_id;

-- One row per response, and per advisor's call within it: of each count the maximum over all records, and its earliest
-- original, which owns it. The model of an advisor's call is that of its own earliest record.
CREATE VIEW merged_records AS
SELECT
  c.response_id AS response_id,
  max(c.part) AS part,
  max(c.input_tokens) AS input_tokens,
  max(c.output_tokens) AS output_tokens,
  max(c.cache_creation_tokens) AS cache_creation_tokens,
  max(c.cache_creation_1h_tokens) AS cache_creation_1h_tokens,
  max(c.cache_read_tokens) AS cache_read_tokens,
  max(c.web_searches) AS web_searches,
  max(c.flags & 1) AS is_fast,
  max(c.flags & 2) // 2 AS is_us,
  max(c.flags & 4) // 4 AS is_batch,
  max(c.is_final) AS is_final,
  max(c.recorded_cost_usd) AS recorded_cost_usd,
  sum(c.records) AS record_count,
  earliest(decides = 1, owner_rank, session_id, host, user_name, path, byte_offset, model, agent) AS owner,
  earliest(decides = 0, owner_rank, session_id, host, user_name, path, byte_offset, model, agent) AS advice
FROM (
  SELECT r.*, f.path
  FROM charged_records AS r
  JOIN files AS f ON f.host = r.host AND f.user_name = r.user_name AND f.file_id = r.file_id
) AS c
GROUP BY c.response_id;

-- The same, with what its owner says as columns.
CREATE VIEW owned_responses AS
SELECT
  m.*,
  (m.owner).owner_rank AS owner_rank,
  (m.owner).session_id AS session_id,
  (m.owner).host AS host,
  (m.owner).user_name AS user_name,
  (m.owner).agent AS agent,
  coalesce((m.advice).model, (m.owner).model) AS model
FROM merged_records AS m;

-- Responses with their rates, as fractions of nanodollars; without a price they have none.
CREATE VIEW rated_responses AS
SELECT
  o.response_id, o.part, o.model, o.session_id, o.host, o.user_name, o.agent, o.owner_rank,
  o.owner_rank % 17592186044416 AS at_ms,
  o.input_tokens, o.output_tokens, o.cache_creation_tokens, o.cache_creation_1h_tokens, o.cache_read_tokens,
  greatest(o.web_searches, coalesce(s.web_searches, 0)) AS web_searches,
  o.is_fast, o.is_us, o.is_batch, o.is_final, o.recorded_cost_usd, o.record_count,
  r.input_num, r.input_den, r.output_num, r.output_den, r.cache_write_5m_num, r.cache_write_1h_num, r.cache_write_den,
  r.cache_read_num, r.cache_read_den, r.web_search
FROM owned_responses AS o
LEFT JOIN response_searches AS s ON s.response_id = o.response_id
LEFT JOIN (SELECT model, max(canonical) AS canonical FROM models GROUP BY model) AS m ON m.model = o.model
LEFT JOIN (
  SELECT q.*
  FROM prices AS q
  JOIN reference_host AS h ON h.host = q.host AND h.user_name = q.user_name
) AS p ON
  p.model = m.canonical
  AND o.owner_rank % 17592186044416 >= p.valid_from AND o.owner_rank % 17592186044416 < p.valid_until
LEFT JOIN (
  SELECT q.*
  FROM rates AS q
  JOIN reference_host AS h ON h.host = q.host AND h.user_name = q.user_name
) AS r ON r.id =
  p.id * 16
  + CASE WHEN o.input_tokens + o.cache_creation_tokens + o.cache_read_tokens > p.long_context_above THEN 8 ELSE 0 END
  + 4 * o.is_fast + 2 * o.is_us + o.is_batch;

-- Their products, still to be divided, and their local time.
CREATE VIEW cost_products AS
SELECT
  r.*,
  r.input_tokens * r.input_num AS i,
  r.output_tokens * r.output_num AS o,
  (r.cache_creation_tokens - r.cache_creation_1h_tokens) * r.cache_write_5m_num
  + r.cache_creation_1h_tokens * r.cache_write_1h_num AS w,
  r.cache_read_tokens * r.cache_read_num AS c,
  r.web_searches * r.web_search AS web,
  r.at_ms + coalesce(z.offset_ms, 0) AS local_ms
FROM rated_responses AS r
LEFT JOIN (
  SELECT
    q.from_at, q.offset_ms,
    lead(q.from_at, 1, 253402300800000) OVER (PARTITION BY q.host, q.user_name ORDER BY q.from_at) AS until_at
  FROM zone_offsets AS q
  JOIN reference_host AS h ON h.host = q.host AND h.user_name = q.user_name
) AS z ON r.at_ms >= z.from_at AND r.at_ms < z.until_at;

-- Whole nanodollars of each kind, rounded half to even from the exact product; NULL without a price.
CREATE VIEW response_costs AS
SELECT
  p.response_id, p.part, p.model, p.session_id, p.host, p.user_name, p.agent, p.owner_rank, p.at_ms, p.local_ms,
  p.input_tokens, p.output_tokens, p.cache_creation_tokens, p.cache_creation_1h_tokens, p.cache_read_tokens,
  p.web_searches, p.is_fast, p.is_us, p.is_batch, p.is_final, p.recorded_cost_usd, p.record_count,
  (2 * i + input_den) // (2 * input_den) - CASE
    WHEN (2 * i + input_den) % (2 * input_den) = 0 THEN (2 * i + input_den) // (2 * input_den) % 2 ELSE 0
  END AS input,
  (2 * o + output_den) // (2 * output_den) - CASE
    WHEN (2 * o + output_den) % (2 * output_den) = 0 THEN (2 * o + output_den) // (2 * output_den) % 2 ELSE 0
  END AS output,
  (2 * w + cache_write_den) // (2 * cache_write_den) - CASE
    WHEN (2 * w + cache_write_den) % (2 * cache_write_den) = 0
      THEN (2 * w + cache_write_den) // (2 * cache_write_den) % 2
    ELSE 0
  END AS cache_write,
  (2 * c + cache_read_den) // (2 * cache_read_den) - CASE
    WHEN (2 * c + cache_read_den) % (2 * cache_read_den) = 0
      THEN (2 * c + cache_read_den) // (2 * cache_read_den) % 2
    ELSE 0
  END AS cache_read,
  web AS web_search
FROM cost_products AS p;

-- One row per response and model, whichever hosts have it: what every report sums.
CREATE VIEW usage AS
SELECT
  c.response_id AS response_id,
  CASE c.part WHEN 0 THEN 'response' ELSE 'advisor' END AS part,
  c.session_id AS session_id,
  p.project AS project,
  p.project_name AS project_name,
  c.host AS host,
  c.user_name AS user_name,
  c.model AS model,
  c.agent AS agent,
  c.owner_rank // 70368744177664 AS is_sidechain,
  instant(c.at_ms) AS occurred_at,
  day_of(c.at_ms // 86400000) AS day_utc,
  day_of(c.local_ms // 86400000) AS day,
  c.input_tokens AS input_tokens,
  c.output_tokens AS output_tokens,
  c.cache_creation_tokens AS cache_creation_tokens,
  c.cache_creation_1h_tokens AS cache_creation_1h_tokens,
  c.cache_read_tokens AS cache_read_tokens,
  c.input_tokens + c.output_tokens + c.cache_creation_tokens + c.cache_read_tokens AS total_tokens,
  c.web_searches AS web_searches,
  usd(c.input) AS input_cost_usd,
  usd(c.output) AS output_cost_usd,
  usd(c.cache_write) AS cache_write_cost_usd,
  usd(c.cache_read) AS cache_read_cost_usd,
  usd(c.web_search) AS web_search_cost_usd,
  usd(c.input + c.output + c.cache_write + c.cache_read + c.web_search) AS cost_usd,
  c.recorded_cost_usd AS recorded_cost_usd,
  CASE WHEN c.part = 0 AND c.output_tokens <= 10 AND c.is_final = 0 THEN 1 ELSE 0 END AS is_undercounted,
  CASE c.part WHEN 0 THEN 1 ELSE 0 END AS responses,
  c.record_count AS record_count
FROM response_costs AS c
JOIN session_projects AS p ON p.session_id = c.session_id;
