-- Transcripts that Claude Code deletes next, with the days it keeps them after their last change (cleanupPeriodDays).
-- :days = 30
-- :within = 7
SELECT
  date(f.mtime_ns / 1000000000 + :days * 86400, 'unixepoch') AS deleted_on,
  round(f.mtime_ns / 86400e9 + :days - strftime('%s', 'now') / 86400.0, 1) AS days_left,
  f.path,
  f.size AS bytes,
  f.offset >= f.size OR f.tail IN ('indexed', 'skipped') AS is_indexed,
  p.name AS project,
  s.title
FROM files AS f
LEFT JOIN sessions AS s ON s.id = f.session_id
LEFT JOIN projects AS p ON p.id = s.project_id
WHERE f.replaced_at IS NULL AND f.gone_at IS NULL AND days_left <= :within
ORDER BY f.mtime_ns, f.path
