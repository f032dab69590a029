-- Responses that paid again for what the cache had held: it had expired, or what stands before it had changed.
-- :limit = 20
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', u.at / 1000.0, 'unixepoch') AS at,
  round((u.at - u.held_at) / 60000.0, 1) AS minutes_since_last,
  u.held_tokens,
  u.cache_read_tokens AS read_tokens,
  u.cache_write_tokens AS written_tokens,
  round(u.cache_write / 1e9, 4) AS cost_usd,
  m.name AS model,
  p.name AS project,
  s.session_id,
  s.title
FROM (
  SELECT
    r.*,
    lag(r.at) OVER conversation AS held_at,
    lag(r.cache_write_tokens + r.cache_read_tokens) OVER conversation AS held_tokens
  FROM response_costs AS r
  JOIN contexts AS c ON c.id = r.context_id
  WHERE r.part = 0
  WINDOW conversation AS (PARTITION BY r.session_id, c.agent, r.model_id ORDER BY r.at, r.id)
) AS u
JOIN models AS m ON m.id = u.model_id
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
-- A context that became much smaller was compacted: that is no miss.
WHERE u.cache_read_tokens < 0.5 * u.held_tokens AND u.cache_read_tokens + u.cache_write_tokens > 0.8 * u.held_tokens
ORDER BY u.cache_write DESC, u.cache_write_tokens DESC, u.at
LIMIT :limit
