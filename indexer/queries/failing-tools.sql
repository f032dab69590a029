-- Which tools fail: calls, errors, and the last time that one failed; with so many calls or more.
-- :calls = 1
SELECT
  t.name AS tool,
  count(*) AS calls,
  sum(t.is_error) AS errors,
  round(1.0 * sum(t.is_error) / count(t.is_error), 4) AS error_rate,
  count(DISTINCT CASE WHEN t.is_error THEN t.session_id END) AS sessions,
  strftime('%Y-%m-%dT%H:%M:%fZ', max(CASE WHEN t.is_error THEN t.started_at END) / 1000.0, 'unixepoch') AS last_error_at
FROM tool_calls AS t
GROUP BY t.name
HAVING errors > 0 AND calls >= :calls
ORDER BY errors DESC, error_rate DESC
