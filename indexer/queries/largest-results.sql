-- Tool results that filled the context most, and what called them.
-- :limit = 20
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', t.started_at / 1000.0, 'unixepoch') AS at,
  t.name AS tool,
  t.result_bytes,
  p.name AS project,
  s.session_id,
  s.title,
  t.tool_use_id
FROM tool_calls AS t
JOIN sessions AS s ON s.id = t.session_id
LEFT JOIN projects AS p ON p.id = s.project_id
WHERE t.result_bytes > 0
ORDER BY t.result_bytes DESC, t.started_at
LIMIT :limit
