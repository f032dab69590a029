-- When work is done: usage by weekday, Monday first, and local hour.
SELECT
  substr('MonTueWedThuFriSatSun', (u.local_day + 3) % 7 * 3 + 1, 3) AS weekday,
  u.local_at / 3600000 % 24 AS hour,
  sum(u.responses) AS responses,
  sum(u.output_tokens) AS output_tokens,
  round(sum(u.cost_nano) / 1e9, 4) AS cost_usd
FROM local_quarters AS u
GROUP BY (u.local_day + 3) % 7, hour
ORDER BY (u.local_day + 3) % 7, hour
