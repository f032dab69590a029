// The charts: each takes rows and a width, and gives an SVG. Colours are CSS variables, so that themes need no redraw.

/* global d3, Plot */
import { s } from "./dom.js";
import * as format from "./format.js";

const LEVELS = 5;
const HEIGHT = 260;
const MOST_LANES = 12;
const SECOND = 1000, MINUTE = 60_000, DAY = 86_400_000;
const WEEKS = [d3.utcMonday, d3.utcTuesday, d3.utcWednesday, d3.utcThursday, d3.utcFriday, d3.utcSaturday, d3.utcSunday];

/** What is drawn: costs or tokens. */
export const MEASURES = {
  cost: {
    name: "cost",
    of: (row) => row.cost_usd ?? 0,
    text: (row) => format.cost(row),
    tick: (value) => format.usd(value, true),
    total: (rows) => ({
      cost_usd: rows.some((row) => row.cost_usd !== null) ? d3.sum(rows, (row) => row.cost_usd) : null,
      unpriced_tokens: d3.sum(rows, (row) => row.unpriced_tokens),
      total_tokens: d3.sum(rows, (row) => row.total_tokens),
    }),
  },
  tokens: {
    name: "tokens",
    of: (row) => row.total_tokens,
    text: (row) => `${format.short(row.total_tokens)} tokens`,
    tick: format.short,
    total: (rows) => ({ total_tokens: d3.sum(rows, (row) => row.total_tokens) }),
  },
};

/** Colours of models: a hue for each family, paler the older a model is; the same whatever is filtered. */
export function palette(models) {
  const families = d3.group(d3.sort(models, (a, b) => d3.descending(version(a), version(b))), format.family);
  const colours = new Map();
  for (const [family, members] of families) {
    members.forEach((model, age) => {
      const share = Math.max(100 - age * 17, 40);
      colours.set(model, `color-mix(in oklab, var(--${family}) ${share}%, var(--faded))`);
    });
  }
  return colours;
}

function version(model) {
  const [, major, minor] = /(\d{1,2})(?:-(\d{1,2}))?(?!\d)/.exec(model) ?? [0, 0, 0];
  return Number(major) * 100 + Number(minor ?? 0);
}

/** Days, weeks or months, so that no bar is thinner than a few pixels. */
export function bucketing(days, width, startOfWeek) {
  if (days * 5 <= width) return { name: "day", interval: d3.utcDay };
  if ((days / 7) * 5 <= width) return { name: "week", interval: WEEKS[startOfWeek] };
  return { name: "month", interval: d3.utcMonth };
}

export function bucketName(date, unit) {
  const day = format.toDay(date);
  if (unit === "month") return format.month(day);
  return unit === "week" ? `Week of ${format.day(day)}` : format.day(day);
}

/** Bars by day, week or month, stacked by model; the dearest model at the bottom. */
export function stacked(rows, { range, order, colours, measure, width, unit }) {
  const { interval } = unit;
  const bars = d3.flatRollup(
    rows,
    (group) => ({ value: d3.sum(group, measure.of), ...measure.total(group) }),
    (row) => +interval.floor(format.toDate(row.day)),
    (row) => row.model,
  ).map(([at, model, total]) => ({ at: new Date(at), model, ...total }));
  const stacks = d3.groups(bars, (bar) => +bar.at).map(([at, parts]) => ({
    at: new Date(at),
    middle: new Date((at + +interval.offset(new Date(at), 1)) / 2),
    value: d3.sum(parts, (part) => part.value),
    title: [
      `${bucketName(new Date(at), unit.name)}: ${measure.text(measure.total(parts))}`,
      ...d3.sort(parts, (part) => -part.value).map((part) => `${format.model(part.model)}  ${measure.text(part)}`),
    ].join("\n"),
  }));
  return plot({
    width,
    height: HEIGHT,
    marginBottom: 34,
    ariaLabel: `${measure.name} by ${unit.name}, stacked by model`,
    x: { type: "utc", domain: [interval.floor(format.toDate(range.since)), afterwards(range.until, interval)], label: null },
    y: { label: null, tickFormat: measure.tick, ticks: 4, nice: true, domain: [0, d3.max(stacks, (stack) => stack.value) || 1] },
    color: { domain: order, range: order.map((model) => colours.get(model)) },
    marks: [
      Plot.gridY({ ticks: 4 }),
      Plot.rectY(bars, Plot.stackY({ x: "at", y: "value", fill: "model", order, interval, insetLeft: 0.5, insetRight: 0.5 })),
      Plot.ruleY([0]),
      tip(stacks, { x: "middle", y: "value", title: "title" }),
    ],
  });
}

function afterwards(day, interval) {
  return interval.ceil(new Date(+format.toDate(day) + DAY));
}

/** A year of days, a column for each week; as many weeks as the width has room for. */
export function calendar(rows, { until, startOfWeek, measure, width }) {
  const week = WEEKS[startOfWeek];
  const size = width > 900 ? 18 : 14;
  const left = 32;
  const last = week.floor(format.toDate(until));
  const count = Math.min(53, Math.floor((width - left) / size));
  const first = week.offset(last, 1 - count);
  const byDay = new Map(rows.map((row) => [row.day, row]));
  const level = levels(rows, measure);
  const days = d3.utcDays(first, new Date(+format.toDate(until) + DAY)).map((date) => {
    const row = byDay.get(format.toDay(date));
    return {
      week: +week.floor(date),
      weekday: (date.getUTCDay() + 6) % 7,
      fill: `var(--heat-${row ? level(row) : 0})`,
      title: `${format.day(format.toDay(date))}\n${row ? measure.text(row) : "nothing"}`,
    };
  });
  const weeks = d3.range(count).map((n) => +week.offset(first, n));
  const months = d3.utcMonths(first, new Date(+last + 7 * DAY)).map((month) => ({
    week: +week.ceil(month),
    text: month.toLocaleDateString(document.documentElement.lang, { month: "short", timeZone: "UTC" }),
  }));
  return plot({
    width: left + count * size,
    height: 7 * size + 20,
    marginLeft: left,
    marginTop: 20,
    marginRight: 0,
    marginBottom: 0,
    ariaLabel: `calendar of ${measure.name} by day`,
    x: { type: "band", domain: weeks, axis: null, padding: 0 },
    y: weekdayAxis(startOfWeek),
    marks: [
      Plot.cell(days, { x: "week", y: "weekday", fill: "fill", inset: 1.25, rx: 3 }),
      Plot.text(months.filter((month) => weeks.includes(month.week)), {
        x: "week", text: "text", frameAnchor: "top", dy: -16, textAnchor: "start", dx: -size / 2,
      }),
      tip(days, { x: "week", y: "weekday", title: "title" }, Plot.pointer),
    ],
  });
}

/** Hours of the day by days of the week. */
export function weekdayHours(rows, { startOfWeek, measure, width }) {
  const level = levels(rows, measure);
  const byHour = new Map(rows.map((row) => [row.weekday * 24 + row.hour, row]));
  const names = new Map(format.weekdays(startOfWeek, "long").map(({ weekday, name }) => [weekday, name]));
  const cells = d3.cross(d3.range(7), d3.range(24)).map(([weekday, hour]) => {
    const row = byHour.get(weekday * 24 + hour);
    return {
      weekday,
      hour,
      fill: `var(--heat-${row ? level(row) : 0})`,
      title: `${names.get(weekday)} ${format.hour(hour)}–${format.hour((hour + 1) % 24)}\n${row ? measure.text(row) : "nothing"}`,
    };
  });
  return plot({
    width,
    height: 7 * Math.min(24, Math.max(16, width / 26)) + 24,
    marginLeft: 32,
    marginRight: 0,
    marginTop: 4,
    marginBottom: 20,
    ariaLabel: `${measure.name} by weekday and hour`,
    x: { type: "band", domain: d3.range(24), ticks: [0, 6, 12, 18], tickFormat: format.hour, label: null, tickSize: 0, padding: 0 },
    y: weekdayAxis(startOfWeek),
    marks: [
      Plot.cell(cells, { x: "hour", y: "weekday", fill: "fill", inset: 1.25, rx: 3 }),
      tip(cells, { x: "hour", y: "weekday", title: "title" }, Plot.pointer),
    ],
  });
}

function weekdayAxis(startOfWeek) {
  const names = format.weekdays(startOfWeek);
  const byNumber = new Map(names.map(({ weekday, name }) => [weekday, name]));
  return {
    type: "band", domain: names.map(({ weekday }) => weekday), tickFormat: (weekday) => byNumber.get(weekday), label: null, tickSize: 0, padding: 0,
  };
}

/** Fifths of the days or hours on which something was used; a row without a cost is in the lowest. */
function levels(rows, measure) {
  const scale = d3.scaleQuantile(rows.map(measure.of).filter((value) => value > 0), d3.range(1, LEVELS + 1));
  return (row) => scale(measure.of(row)) ?? 1;
}

/** What each of two months came to, day by day. */
export function cumulative(months, { measure, width }) {
  const points = months.flatMap(({ name, isCurrent, days }) => days.map((day) => ({ name, isCurrent, ...day })));
  const [current, before] = [points.filter((point) => point.isCurrent), points.filter((point) => !point.isCurrent)];
  const line = { x: "number", y: "sum", curve: "step-after" };
  return plot({
    width,
    height: HEIGHT,
    ariaLabel: `${measure.name} of this month and of last month, added up day by day`,
    x: { domain: [1, 31], ticks: [1, 8, 15, 22, 29], tickFormat: (number) => `${number}.`, label: null },
    y: { label: null, tickFormat: measure.tick, ticks: 4, nice: true, zero: true, domain: [0, d3.max(points, (point) => point.sum) || 1] },
    marks: [
      Plot.gridY({ ticks: 4 }),
      Plot.lineY(before, { ...line, stroke: "var(--muted)", strokeDasharray: "4 3", strokeWidth: 1.5 }),
      Plot.areaY(current, { ...line, fill: "var(--accent)", fillOpacity: 0.12 }),
      Plot.lineY(current, { ...line, stroke: "var(--accent)", strokeWidth: 2 }),
      Plot.dot(current.slice(-1), { x: "number", y: "sum", fill: "var(--accent)", r: 3.5 }),
      Plot.ruleY([0]),
      tip(points, { x: "number", y: "sum", title: "title" }, Plot.pointer),
    ],
  });
}

/** The share of the prompts that came from the cache, by day, week or month. */
export function hitRatio(rows, { range, width, unit }) {
  const points = d3.rollups(
    rows,
    (group) => hits(group),
    (row) => +unit.interval.floor(format.toDate(row.day)),
  ).map(([at, ratio]) => ({
    at: new Date(at), ratio, title: `${bucketName(new Date(at), unit.name)}\n${format.percent(ratio)} from the cache`,
  }));
  return plot({
    width,
    height: 160,
    marginBottom: 34,
    ariaLabel: `share of the prompts read from the cache, by ${unit.name}`,
    x: { type: "utc", domain: [format.toDate(range.since), format.toDate(range.until)], label: null },
    y: { domain: [0, 1], ticks: [0, 0.5, 1], tickFormat: format.percent, label: null },
    marks: [
      Plot.gridY({ ticks: [0, 0.5, 1] }),
      Plot.areaY(points, { x: "at", y: "ratio", fill: "var(--good)", fillOpacity: 0.15, curve: "monotone-x" }),
      Plot.lineY(points, { x: "at", y: "ratio", stroke: "var(--good)", strokeWidth: 2, curve: "monotone-x" }),
      Plot.dot(points.length < 3 ? points : [], { x: "at", y: "ratio", fill: "var(--good)" }),
      tip(points, { x: "at", y: "ratio", title: "title" }),
    ],
  });
}

/** Of all tokens that went in, those that were read from the cache; null where none went in. */
export function hits(rows) {
  const read = d3.sum(rows, (row) => row.cache_read_tokens);
  const all = read + d3.sum(rows, (row) => row.input_tokens + row.cache_creation_tokens);
  return all ? read / all : null;
}

/** What happened when in a session: a lane for the conversation and one for each of the first subagents. */
export function timeline(events, { width, lanes }) {
  const shown = lanes.slice(0, MOST_LANES);
  const rows = events.filter((event) => shown.includes(event.lane));
  const [first, last] = d3.extent(rows.flatMap((event) => [event.at, event.until ?? event.at]));
  const domain = first === last ? [first - 30_000, last + 30_000] : [first, last];
  const span = domain[1] - domain[0];
  const most = Math.floor(width / 110);
  const [unit, named] = span >= 2 * DAY ? [DAY, "%b %-d"] : span >= most * MINUTE ? [MINUTE, "%H:%M"] : [SECOND, "%H:%M:%S"];
  // Never more ticks than there are of what they name: two of them would say the same.
  const ticks = Math.max(1, Math.min(most, Math.floor(span / unit)));
  const [prompts, others] = [rows.filter((row) => row.kind === "prompt"), rows.filter((row) => row.kind !== "prompt")];
  return plot({
    width,
    height: shown.length * 26 + 40,
    marginLeft: Math.min(150, width / 4),
    ariaLabel: "prompts, answers and tool calls by time, a lane for each subagent",
    x: { type: "utc", domain, label: null, ticks, tickFormat: d3.utcFormat(named) },
    y: {
      type: "band", domain: shown, label: null, tickSize: 0,
      tickFormat: (lane) => (lane.length > width / 40 ? `${lane.slice(0, width / 40)}…` : lane),
    },
    color: { domain: ["prompt", "answer", "tool", "error"], range: ["var(--accent)", "var(--haiku)", "var(--muted)", "var(--bad)"] },
    marks: [
      Plot.ruleY(shown, { stroke: "var(--line)" }),
      Plot.link(others.filter((event) => event.until > event.at), {
        x1: "at", x2: "until", y: "lane", stroke: "kind", strokeWidth: 5, strokeOpacity: 0.5,
      }),
      Plot.dot(others, { x: "at", y: "lane", fill: "kind", r: 3 }),
      Plot.tickX(prompts, { x: "at", y: "lane", stroke: "kind", strokeWidth: 2.5, insetTop: 3, insetBottom: 3 }),
      tip(rows, { x: "at", y: "lane", title: "title" }, Plot.pointer),
    ],
  });
}

function tip(rows, channels, pointer = Plot.pointerX) {
  return Plot.tip(rows, pointer({ ...channels, className: "tip", fontSize: 12, lineHeight: 1.35, textPadding: 8, pathFilter: null }));
}

function plot(options) {
  const svg = Plot.plot({ marginLeft: 48, marginRight: 8, marginTop: 12, marginBottom: 24, className: "plot", ...options });
  // The page's policy allows no style element: what Plot puts into one stands in cm.css.
  svg.querySelectorAll("style").forEach((style) => style.remove());
  // The chart as a whole has a name; names of its parts would be read as elements of unknown kind.
  svg.querySelectorAll("[aria-label]").forEach((part) => part.removeAttribute("aria-label"));
  svg.setAttribute("role", "img");
  return svg;
}

/** A bar of one value among others, for a table. */
export function bar(share, colour = "var(--accent)") {
  const width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`;
  return s("svg", { class: "bar", "aria-hidden": "true", height: 8, width: "100%" },
    s("rect", { width: "100%", height: 8, rx: 4, fill: "var(--track)" }),
    s("rect", { width, height: 8, rx: 4, fill: colour }));
}
