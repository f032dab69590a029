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
), ends AS (
  SELECT
    s.first_at / 3600000 * 3600000 AS start_at,
    s.first_at / 3600000 * 3600000 + {length} AS end_at,
    s.first_at AS first_at,
    (SELECT max(r.at) FROM responses AS r WHERE r.at <= s.first_at / 3600000 * 3600000 + {length}) AS last_at,
    lead(s.first_at) OVER (ORDER BY s.first_at) AS next_at
  FROM starts AS s
  WHERE s.first_at IS NOT NULL
), stretches AS (
  SELECT start_at, end_at, first_at, last_at, 0 AS is_gap FROM ends
  UNION ALL
  SELECT last_at + {length}, next_at, NULL, NULL, 1 FROM ends WHERE next_at - last_at > {length}
), windows AS (
  SELECT
    s.*,
    s.start_at + coalesce(
      (SELECT z.offset_ms FROM zone_offsets AS z WHERE z.from_at <= s.start_at ORDER BY z.from_at DESC LIMIT 1), 0
    ) AS local_at,
    CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now
  FROM stretches AS s
), used AS (
  SELECT
    w.start_at, w.end_at, w.first_at, w.last_at, w.is_gap,
    w.now - w.last_at < {length} AND w.now < w.end_at AS is_active,
    (w.last_at - w.first_at) / 60000.0 AS minutes,
    round((w.end_at - w.now) / 60000.0) AS minutes_to_go,
    {sums}{columns}
  FROM windows AS w
  {join} local_usage AS u ON u.at >= w.first_at AND u.at <= w.end_at
  LEFT JOIN models AS m ON m.id = u.model_id
  {where}
  GROUP BY {group}
)
SELECT
  strftime('%Y-%m-%dT%H:%M:%fZ', start_at / 1000.0, 'unixepoch') AS block{names},
  strftime('%Y-%m-%dT%H:%M:%fZ', end_at / 1000.0, 'unixepoch') AS end_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', first_at / 1000.0, 'unixepoch') AS first_at,
  strftime('%Y-%m-%dT%H:%M:%fZ', last_at / 1000.0, 'unixepoch') AS last_at,
  coalesce(is_active, 0) AS is_active,
  is_gap,
  {sum_names},
  CASE WHEN minutes > 0 THEN total_tokens / minutes END AS tokens_per_minute,
  CASE WHEN minutes > 0 THEN cost_usd / minutes * 60 END AS cost_usd_per_hour,
  CASE WHEN is_active THEN CAST(minutes_to_go AS INTEGER) END AS minutes_left,
  CASE WHEN is_active AND minutes > 0
    THEN CAST(round(total_tokens + total_tokens / minutes * minutes_to_go) AS INTEGER)
  END AS projected_total_tokens,
  CASE WHEN is_active AND minutes > 0 THEN cost_usd + cost_usd / minutes * minutes_to_go END AS projected_cost_usd
FROM used
"""
