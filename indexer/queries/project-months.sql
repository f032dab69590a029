-- What each project cost in each local month; of one project if you name it.
-- :project =
SELECT
  strftime('%Y-%m', u.local_day * 86400, 'unixepoch') AS month,
  p.path AS project,
  sum(u.responses) AS responses,
  count(DISTINCT u.session_id) AS sessions,
  sum(u.output_tokens) AS output_tokens,
  round(sum(u.cost_nano) / 1e9, 4) AS cost_usd
FROM local_days AS u
JOIN sessions AS s ON s.id = u.session_id
JOIN projects AS p ON p.id = s.project_id
WHERE :project IS NULL OR :project IN (p.path, p.name)
GROUP BY month, p.id
ORDER BY month DESC, cost_usd DESC
