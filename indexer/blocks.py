"""Blocks: the windows of five hours in which a subscription's limits are counted.

A block starts with the full hour, UTC, of its first response; the next one with the first response more than five
hours after that. A pause of more than five hours always lies between two blocks: it is shown as a gap.
"""

from __future__ import annotations

HOUR = 3_600_000
HOURS = 5

# One look into the index of times for each block there ever was. The windows are those of all usage, whatever is
# asked for: a limit knows no projects.
FORM = """
WITH RECURSIVE starts AS (
  SELECT min(at) AS first_at FROM responses
  UNION ALL
  SELECT (SELECT min(r.at) FROM responses AS r WHERE r.at > s.first_at / 3600000 * 3600000 + {length})
  FROM starts AS s
  WHERE s.first_at IS NOT NULL
), windows AS (
  SELECT
    s.first_at / 3600000 * 3600000 AS at,
    s.first_at / 3600000 * 3600000 + {length} AS end_at,
    s.first_at AS first_at,
    (SELECT max(r.at) FROM responses AS r WHERE r.at <= s.first_at / 3600000 * 3600000 + {length}) AS last_at,
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
    {sums}{columns}
  FROM windows AS w
  CROSS JOIN local_quarters AS u ON
    u.quarter >= w.first_at / 900000 AND u.quarter <= w.end_at / 900000 AND u.at >= w.first_at AND u.at <= w.end_at
  JOIN models AS m ON m.id = u.model_id
  {joins}
  {where}
  GROUP BY {group}
), clock AS (
  SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
), told AS (
  SELECT
    u.*,
    c.now - u.last_at < {length} AND c.now < u.end_at AS is_active,
    round((u.end_at - c.now) / 60000.0) AS minutes_to_go
  FROM used AS u
  CROSS JOIN clock AS c
)
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS block{names},
  strftime('%Y-%m-%dT%H:%M:%fZ', end_at / 1000.0, 'unixepoch') AS end_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', first_at / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', last_at / 1000.0, 'unixepoch') AS last_at,
  is_active,
  0 AS is_gap,
  {sum_names},
  CASE WHEN minutes > 0 THEN total_tokens / minutes END AS tokens_per_minute,
  CASE WHEN minutes > 0 THEN cost_usd / minutes * 60 END AS cost_usd_per_hour,
  CASE WHEN is_active THEN CAST(minutes_to_go AS INTEGER) END AS minutes_left,
  CASE WHEN is_active AND minutes > 0
    THEN CAST(round(total_tokens + total_tokens / minutes * minutes_to_go) AS INTEGER)
  END AS projected_total_tokens,
  CASE WHEN is_active AND minutes > 0 THEN cost_usd + cost_usd / minutes * minutes_to_go END AS projected_cost_usd
FROM told
"""

# What lies between two blocks: it has the columns of a block, and nothing in them.
GAPS = """
UNION ALL
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch'),
  strftime('%Y-%m-%dT%H:%M:%fZ', end_at / 1000.0, 'unixepoch'),
  NULL, NULL, 0, 1, {nothing}, NULL, NULL, NULL, NULL, NULL
FROM (
  SELECT w.last_at + {length} AS at, w.next_at AS end_at, w.last_at + {length} + w.local_at - w.at AS local_at
  FROM windows AS w
  WHERE w.next_at - w.last_at > {length}
) AS g
{where}
"""
