// Numbers, days and names as people read them. Days come as text, localised by SQL, and are never put through a zone.

const LOCALE = document.documentElement.lang || "en";
const formats = new Map();

function number(value, options) {
  const key = JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(LOCALE, options));
  return formats.get(key).format(value);
}

export const count = (value) => number(value ?? 0, {});
export const short = (value) => number(value ?? 0, { notation: "compact", maximumSignificantDigits: 3 });
export const percent = (value) =>
  value === null || value === undefined ? "–" : number(value, { style: "percent", maximumFractionDigits: 1 });

/** USD; what has no price has no cost, which is not the same as none. */
export function usd(value, isShort = false) {
  if (value === null || value === undefined) return "unknown";
  const size = Math.abs(value);
  if (isShort && size >= 10_000) return number(value, { style: "currency", currency: "USD", notation: "compact", maximumSignificantDigits: 3 });
  const digits = isShort && size >= 1000 ? 0 : size > 0 && size < 0.01 ? 4 : 2;
  return number(value, { style: "currency", currency: "USD", minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** The cost of a row: with a mark where part of it has no price, and 0 where nothing was used. */
export function cost(row, isShort = false) {
  if (!row.total_tokens) return usd(0, isShort);
  return usd(row.cost_usd, isShort) + (row.cost_usd !== null && row.unpriced_tokens ? " +" : "");
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let rank = 0;
  let size = value ?? 0;
  while (size >= 1000 && rank < units.length - 1) {
    size /= 1000;
    rank += 1;
  }
  return `${number(size, { maximumFractionDigits: rank && size < 10 ? 1 : 0 })} ${units[rank]}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${number(ms / 1000, { maximumFractionDigits: 1 })} s`;
  const minutes = Math.round(ms / 60_000);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A local day, as text, as the date that stands for it in charts: midnight UTC. */
export const toDate = (day) => new Date(`${day}T00:00:00Z`);
export const toDay = (date) => date.toISOString().slice(0, 10);

function dated(date, options) {
  return new Intl.DateTimeFormat(LOCALE, { timeZone: "UTC", ...options }).format(date);
}

export const day = (text) => dated(toDate(text), { weekday: "short", day: "numeric", month: "short", year: "numeric" });
export const days = (since, until) =>
  since === until
    ? day(since)
    : new Intl.DateTimeFormat(LOCALE, { timeZone: "UTC", dateStyle: "medium" }).formatRange(toDate(since), toDate(until));
export const month = (text) => dated(toDate(text), { month: "long", year: "numeric" });
export const weekdays = (start, style = "short") =>
  [0, 1, 2, 3, 4, 5, 6].map((n) => {
    const weekday = (start + n) % 7;
    return { weekday, name: dated(new Date(Date.UTC(2024, 0, 1 + weekday)), { weekday: style }) };
  });
export const hour = (value) => `${String(value).padStart(2, "0")}:00`;

/** A moment, in the reader's own zone: for what is about now, not about days. */
export const clock = (time) =>
  new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(new Date(time));

export function ago(time, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - new Date(time)) / 1000));
  const relative = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto" });
  if (seconds < 60) return "just now";
  if (seconds < 3600) return relative.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86_400) return relative.format(-Math.floor(seconds / 3600), "hour");
  return relative.format(-Math.floor(seconds / 86_400), "day");
}

/** A model's id without what every one of them has: `claude-opus-4-5-20251101` is Opus 4.5. */
export function model(id) {
  const found = /^(?:.*[/.])?claude-(?:(\d+(?:-\d+)?)-)?([a-z]+)(?:-(\d{1,2}(?:-\d{1,2})?))?(?=[-@:[]|$)/.exec(id);
  if (!found) return id;
  const [, before, family, after] = found;
  const version = (before ?? after ?? "").replace("-", ".");
  return `${family[0].toUpperCase()}${family.slice(1)}${version ? ` ${version}` : ""}`;
}

/** The family of a model, by which it is coloured. */
export function family(id) {
  return ["opus", "sonnet", "haiku", "fable", "mythos"].find((name) => id.includes(name)) ?? "other";
}
