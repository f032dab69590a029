-- What a human typed that cost most: all that was answered until the next prompt of the session, subagents included.
-- :limit = 20
WITH prompts AS (
  SELECT
    r.id, c.session_id, r.at, r.text,
    lead(r.at, 1, 1 << 62) OVER (PARTITION BY c.session_id ORDER BY r.at, r.id) AS next_at
  FROM records AS r
  JOIN contexts AS c ON c.id = r.context_id
  JOIN record_types AS t ON t.id = r.type_id
  WHERE t.type = 'user' AND t.subtype = 'prompt' AND NOT c.is_sidechain
)
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', q.at / 1000.0, 'unixepoch') AS at,
  round(sum(u.input + u.output + u.cache_write + u.cache_read + u.web_search) / 1e9, 4) AS cost_usd,
  sum(u.part = 0) AS responses,
  sum(u.output_tokens) AS output_tokens,
  p.name AS project,
  s.session_id,
  substr(q.text, 1, 200) AS prompt
FROM prompts AS q
JOIN response_costs AS u ON u.session_id = q.session_id AND u.at >= q.at AND u.at < q.next_at
JOIN sessions AS s ON s.id = q.session_id
JOIN projects AS p ON p.id = s.project_id
GROUP BY q.id
ORDER BY cost_usd DESC, q.at
LIMIT :limit
