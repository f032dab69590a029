-- The sessions that cost most, with their project and title.
-- :limit = 20
SELECT
  s.session_id,
  p.name AS project,
  count(DISTINCT u.response_key) AS responses,
  sum(u.output_tokens) AS output_tokens,
  round(sum(u.cost_usd), 4) AS cost_usd,
  s.title
FROM usage AS u
JOIN sessions AS s ON s.session_id = u.session_id
JOIN projects AS p ON p.id = s.project_id
GROUP BY s.id
ORDER BY cost_usd DESC
LIMIT :limit
