-- Lines, or parts of lines, that could not be used: where they are and why.
SELECT f.path, s.line, s.offset, s.length, s.reason, s.is_partial
FROM skipped_lines AS s
JOIN files AS f ON f.id = s.id >> 40
ORDER BY f.path, s.offset
