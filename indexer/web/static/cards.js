// The cards of the page: each draws its part of the numbers, with the numbers as a table behind every chart.

import * as charts from "./charts.js";
import { h } from "./dom.js";
import * as format from "./format.js";

/** A table. A column has a name, and what it shows of a row; numbers stand to the right. */
export function table(columns, rows, caption) {
  const cell = (column, row, isFirst) => {
    const attributes = { class: column.kind ?? null };
    return isFirst && !column.isPlain
      ? h("th", { ...attributes, scope: "row" }, column.of(row))
      : h("td", attributes, column.of(row));
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.kind ?? null }, column.name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column, n) => cell(column, row, n === 0)))))));
}

function card(key, title, { wide = "", note = null, body, numbers = null, rows = null, rowsText = "Rows", tools = null }) {
  const details = numbers && h("details", { "data-key": key }, h("summary", {}, "Numbers", h("span", { class: "hidden" }, ` of ${title}`)));
  details?.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(numbers());
  });
  return h("section", { class: `card ${wide}`, "aria-labelledby": `${key}-title`, id: key },
    h("header", {}, h("h2", { id: `${key}-title` }, title), note && h("p", { class: "note" }, note), tools),
    body,
    (numbers || rows) && h("footer", {}, rows && link(rows, [rowsText, h("span", { class: "hidden" }, ` of ${title} in the tables`)], "rows"), details));
}

/** A link where there is somewhere to go; in a report file it is plain text. */
function link(address, content, className = null) {
  return address ? h("a", { href: address, class: className }, content) : className === "rows" ? null : h("span", {}, content);
}

const nothing = (text = "Nothing was used in these days.") => h("p", { class: "empty" }, text);

// Now: today, this week, this month, and the running block

const PERIODS = {
  day: { title: "Today", before: "yesterday", sofar: "by this time yesterday" },
  week: { title: "This week", before: "last week", sofar: "by this time last week" },
  month: { title: "This month", before: "last month", sofar: "by this time last month" },
};

export function periods(page) {
  return [...page.data.periods.map((period) => tile(page, period)), block(page)];
}

function tile({ measure }, row) {
  const words = PERIODS[row.period];
  const { so_far: soFar, whole } = row.before;
  return h("section", { class: "card tile", "aria-labelledby": `${row.period}-title`, id: row.period },
    h("h2", { id: `${row.period}-title` }, words.title),
    h("p", { class: "value" }, measure.text(row)),
    h("p", { class: "delta" }, measure.of(soFar)
      ? [change(measure.of(row) / measure.of(soFar) - 1), ` against ${measure.text(soFar)} ${words.sofar}`]
      : `nothing ${words.sofar}`),
    h("p", { class: "note" },
      `${words.before} in all ${measure.text(whole)}`, h("span", { class: "optional" }, ` · ${plural(row.responses, "response")}`)));
}

function change(ratio) {
  const arrow = ratio > 0.005 ? "▲" : ratio < -0.005 ? "▼" : "=";
  const spoken = ratio > 0 ? "up " : ratio < 0 ? "down " : "";
  return h("span", { class: "change" },
    h("span", { "aria-hidden": "true" }, `${arrow} `), h("span", { class: "hidden" }, spoken), format.percent(Math.abs(Math.min(ratio, 99))));
}

function plural(value, word) {
  return `${format.count(value)} ${word}${value === 1 ? "" : "s"}`;
}

function block({ data, now }) {
  const found = data.block;
  const end = found && new Date(found.end_at);
  const isOver = !found || end <= now;
  const heading = h("h2", { id: "block-title" }, "Five-hour block");
  const attributes = { class: "card tile", "aria-labelledby": "block-title", id: "block" };
  if (isOver) {
    return h("section", attributes, heading, h("p", { class: "value quiet" }, "None active"),
      h("p", { class: "note" }, "The next response starts one."));
  }
  const start = new Date(found.block);
  const left = end - now;
  const perHour = found.cost_usd_per_hour;
  const projected = perHour === null ? null : found.cost_usd + (perHour * left) / 3_600_000;
  return h("section", attributes, heading,
    h("p", { class: "value" }, format.cost(found), h("small", {}, ` ${format.short(found.total_tokens)} tokens`)),
    h("progress", { max: end - start, value: now - start, "aria-label": "time passed in the block" }),
    h("p", { class: "delta" }, `${format.duration(left)} left, until ${format.clock(end)}`),
    h("p", { class: "note" }, perHour === null ? "All projects and models." : `${format.usd(perHour)} an hour; ${format.usd(projected)} by its end at this rate. All projects and models.`));
}

// The range

export function totals({ data, measure, at }) {
  const row = data.totals;
  const stat = (name, value, title = null) => h("div", { title }, h("dt", {}, name), h("dd", {}, value));
  const { since, until, days } = data.range;
  return h("section", { class: "totals", "aria-labelledby": "totals-title", id: "totals" },
    h("h2", { id: "totals-title" },
      format.days(since, until),
      h("small", {}, ` ${plural(days, "day")}, ${format.count(row.days)} with use`)),
    h("dl", {},
      stat("Cost", format.cost({ ...row, total_tokens: row.total_tokens ?? 0 }), "at the API's prices; a subscription is not billed this way"),
      stat("Tokens", format.short(row.total_tokens), format.count(row.total_tokens)),
      stat("Responses", format.count(row.responses)),
      stat("Sessions", format.count(row.sessions)),
      stat("Cost a day of use", row.days && row.cost_usd !== null ? format.usd(row.cost_usd / row.days) : "–"),
      stat("From the cache", format.percent(charts.hits([row]))),
      stat("The cache saved", row.cache_saved_usd === null ? "–" : format.usd(row.cache_saved_usd), "against the price of plain input, what it cost to write to it taken off")));
}

export function daily(page, width) {
  const { data, measure, colours } = page;
  if (!data.daily.length) return card("daily", title("Daily", measure), { wide: "wide", body: nothing() });
  const unit = charts.bucketing(data.range.days, width, data.start_of_week);
  const order = data.models.map((row) => row.model);
  const chart = charts.stacked(data.daily, { range: data.range, order, colours, measure, width, unit });
  const names = { day: "Daily", week: "Weekly", month: "Monthly" };
  return card("daily", title(names[unit.name], measure), {
    wide: "wide",
    note: "by model",
    body: h("figure", {}, chart, legend(order, colours)),
    rows: page.links.responses(data.totals),
    numbers: () => table([
      { name: "Day", of: (row) => link(page.links.responses(row), row.day), kind: "nowrap" },
      { name: "Model", of: (row) => row.model },
      ...usageColumns(),
    ], data.daily.toReversed(), "usage by day and model, the newest first"),
  });
}

function title(word, measure) {
  return `${word} ${measure.name}`;
}

function legend(models, colours) {
  return h("ul", { class: "legend" }, models.map((model) =>
    h("li", { title: model }, h("span", { class: "swatch", style: { background: colours.get(model) }, "aria-hidden": "true" }), format.model(model))));
}

function usageColumns() {
  return [
    { name: "Cost", of: (row) => format.cost(row), kind: "number" },
    { name: "Tokens", of: (row) => format.count(row.total_tokens), kind: "number" },
    { name: "Input", of: (row) => format.count(row.input_tokens), kind: "number" },
    { name: "Output", of: (row) => format.count(row.output_tokens), kind: "number" },
    { name: "Cache write", of: (row) => format.count(row.cache_creation_tokens), kind: "number" },
    { name: "Cache read", of: (row) => format.count(row.cache_read_tokens), kind: "number" },
    { name: "Responses", of: (row) => format.count(row.responses), kind: "number" },
  ];
}

export function cumulative(page, width) {
  const { data, measure } = page;
  const current = data.today.slice(0, 7);
  const before = data.periods[2].before.since.slice(0, 7);
  const months = [
    { month: before, isCurrent: false, last: daysIn(before) },
    { month: current, isCurrent: true, last: Number(data.today.slice(8)) },
  ].map((month) => ({ ...month, name: format.month(`${month.month}-01`), days: summed(data.months, month, measure) }));
  const rows = months[0].days.length > months[1].days.length ? months[0].days : months[1].days;
  return card("cumulative", "This month against last", {
    note: `${measure.name}, added up`,
    body: h("figure", {}, charts.cumulative(months, { measure, width }),
      h("ul", { class: "legend" },
        h("li", {}, h("span", { class: "swatch line current", "aria-hidden": "true" }), months[1].name),
        h("li", {}, h("span", { class: "swatch line before", "aria-hidden": "true" }), months[0].name))),
    rows: page.links.table("monthly_usage", { _sort_desc: "month" }),
    numbers: () => table([
      { name: "Day", of: (row) => String(row.number) },
      { name: months[1].name, of: (row) => months[1].days[row.number - 1]?.text ?? "–", kind: "number" },
      { name: months[0].name, of: (row) => months[0].days[row.number - 1]?.text ?? "–", kind: "number" },
    ], rows, `${measure.name} added up by day of the month`),
  });
}

function daysIn(month) {
  const [year, number] = month.split("-").map(Number);
  return new Date(Date.UTC(year, number, 0)).getUTCDate();
}

function summed(rows, { month, last }, measure) {
  const byDay = new Map(rows.map((row) => [row.day, row]));
  const seen = [];
  return Array.from({ length: last }, (_, n) => {
    const day = `${month}-${String(n + 1).padStart(2, "0")}`;
    if (byDay.has(day)) seen.push(byDay.get(day));
    const total = measure.total(seen);
    const text = measure.text(total);
    return { number: n + 1, sum: measure.of(total), text, title: `${format.day(day)}\n${text} so far` };
  });
}

export function calendar(page, width) {
  const { data, measure } = page;
  return card("calendar", "Calendar", {
    wide: "wide",
    note: `${measure.name} by day, the year to ${format.day(data.range.until)}`,
    body: h("figure", {}, charts.calendar(data.calendar, { until: data.range.until, startOfWeek: data.start_of_week, measure, width }), scale()),
    rows: page.links.table("daily_usage", { _sort_desc: "day" }),
    numbers: () => table([
      { name: "Day", of: (row) => link(page.links.responses(row), row.day), kind: "nowrap" },
      { name: "Cost", of: (row) => format.cost(row), kind: "number" },
      { name: "Tokens", of: (row) => format.count(row.total_tokens), kind: "number" },
      { name: "Responses", of: (row) => format.count(row.responses), kind: "number" },
      { name: "Sessions", of: (row) => format.count(row.sessions), kind: "number" },
    ], data.calendar.toReversed(), "usage by day, the newest first"),
  });
}

function scale() {
  const boxes = [0, 1, 2, 3, 4, 5].map((level) => h("span", { class: "swatch", style: { background: `var(--heat-${level})` } }));
  return h("p", { class: "legend scale", "aria-hidden": "true" }, "less", boxes, "more");
}

export function hours(page, width) {
  const { data, measure } = page;
  const names = new Map(format.weekdays(data.start_of_week, "long").map(({ weekday, name }) => [weekday, name]));
  return card("hours", "When", {
    note: `${measure.name} by weekday and hour, ${data.zone}`,
    body: data.hours.length
      ? h("figure", {}, charts.weekdayHours(data.hours, { startOfWeek: data.start_of_week, measure, width }), scale())
      : nothing(),
    rows: page.links.table("hourly_usage", { _sort_desc: "hour" }),
    numbers: () => table([
      { name: "Weekday", of: (row) => names.get(row.weekday) },
      { name: "Hour", of: (row) => format.hour(row.hour), kind: "number" },
      { name: "Cost", of: (row) => format.cost(row), kind: "number" },
      { name: "Tokens", of: (row) => format.count(row.total_tokens), kind: "number" },
      { name: "Responses", of: (row) => format.count(row.responses), kind: "number" },
    ], data.hours, "usage by weekday and hour"),
  });
}

export function cache(page, width) {
  const { data } = page;
  const row = data.totals;
  const unit = charts.bucketing(data.range.days, width * 2, data.start_of_week);
  return card("cache", "Cache", {
    body: data.daily.length
      ? h("figure", {},
        h("dl", { class: "figures" },
          h("div", {}, h("dt", {}, "hit ratio"), h("dd", {}, format.percent(charts.hits([row])))),
          h("div", {}, h("dt", {}, "saved"), h("dd", {}, row.cache_saved_usd === null ? "unknown" : format.usd(row.cache_saved_usd, true))),
          h("div", {}, h("dt", {}, "read"), h("dd", {}, format.short(row.cache_read_tokens))),
          h("div", {}, h("dt", {}, "written"), h("dd", {}, format.short(row.cache_creation_tokens)))),
        charts.hitRatio(data.daily, { range: data.range, width, unit }),
        h("p", { class: "note" }, "Tokens read from the cache, of all that went in. Saved is against the price of plain input; what it cost to write to the cache is taken off."))
      : nothing(),
    rows: page.links.responses(row),
    numbers: () => table([
      { name: "Day", of: (day) => day.day, kind: "nowrap" },
      { name: "Hit ratio", of: (day) => format.percent(charts.hits([day])), kind: "number" },
      { name: "Saved", of: (day) => (day.cache_saved_usd === null ? "unknown" : format.usd(day.cache_saved_usd)), kind: "number" },
      { name: "Read", of: (day) => format.count(day.cache_read_tokens), kind: "number" },
      { name: "Written", of: (day) => format.count(day.cache_creation_tokens), kind: "number" },
      { name: "Input", of: (day) => format.count(day.input_tokens), kind: "number" },
      { name: "Model", of: (day) => day.model },
    ], data.daily.toReversed(), "the cache by day and model, the newest first"),
  });
}

// Rankings: tables that have their bars in them

export function models(page) {
  const { data, measure, colours } = page;
  return ranking(page, "models", "Models", data.models, {
    name: "Model",
    of: (row) => link(page.address({ models: [row.model] }), format.model(row.model)),
    colour: (row) => colours.get(row.model),
    more: [
      { name: "Share", of: (row) => format.percent(share(row, data.models, measure)), kind: "number" },
      { name: "Sessions", of: (row) => format.count(row.sessions), kind: "number optional" },
      { name: "Responses", of: (row) => format.count(row.responses), kind: "number optional" },
    ],
    rows: page.links.table("model_usage", { _sort_desc: "cost_usd" }),
  });
}

function share(row, rows, measure) {
  const all = rows.reduce((sum, other) => sum + measure.of(other), 0);
  return all ? measure.of(row) / all : 0;
}

export function projects(page) {
  return ranking(page, "projects", "Projects", page.data.projects, {
    name: "Project",
    of: (row) => link(page.address({ projects: [row.project] }), h("span", { title: row.project }, row.label)),
    more: [
      { name: "Sessions", of: (row) => format.count(row.sessions), kind: "number" },
      { name: "Last used", of: (row) => format.ago(row.last_at, page.now), kind: "number optional nowrap" },
      { name: "Rows", of: (row) => link(page.links.responses(row), "rows", "rows"), kind: "number optional", isLink: true },
    ],
    rows: page.links.table("project_usage", { _sort_desc: "cost_usd" }),
  });
}

export function sessions(page) {
  const isNewest = page.sessions === "newest";
  const rows = isNewest ? page.data.newest_sessions : page.data.sessions;
  const choose = (name, text) =>
    h("button", { type: "button", "aria-pressed": String((page.sessions === "newest") === (name === "newest")), "data-key": `sessions-${name}`, onclick: () => page.choose(name) }, text);
  return ranking(page, "sessions", "Sessions", rows, {
    isSorted: isNewest,
    tools: h("div", { class: "segments", role: "group", "aria-label": "which sessions" }, choose("dearest", "Dearest"), choose("newest", "Newest")),
    name: "Session",
    of: (row) => [
      link(page.session(row.session_id), h("span", { class: "clip" }, row.title || row.session_id.slice(0, 8))),
      h("small", { class: "under" }, `${row.label} · ${format.ago(row.last_at, page.now)}`),
    ],
    more: [{ name: "Prompts", of: (row) => format.count(row.prompts), kind: "number optional" }],
    rows: page.links.table("session_usage", { _sort_desc: isNewest ? "last_at" : "cost_usd" }),
  });
}

export function hosts(page) {
  return ranking(page, "hosts", "Hosts", page.data.hosts, {
    name: "Host",
    of: (row) => link(page.address({ hosts: [row.name] }), row.name),
    more: [
      { name: "Sessions", of: (row) => format.count(row.sessions), kind: "number" },
      { name: "Last used", of: (row) => format.ago(row.last_at, page.now), kind: "number optional nowrap" },
    ],
    rows: page.links.table("host_usage", { _sort_desc: "cost_usd" }),
  });
}

export function agents(page) {
  return ranking(page, "agents", "Agents", page.data.agents, {
    name: "Agent",
    of: (row) => (row.agent === null ? "main conversation" : link(page.links.agents(row.agent), row.agent)),
    more: [
      { name: "Runs", of: (row) => (row.agent === null ? "" : format.count(row.runs)), kind: "number" },
      { name: "Responses", of: (row) => format.count(row.responses), kind: "number optional" },
    ],
    rows: page.links.table("agent_usage", { _sort_desc: "cost_usd" }),
  });
}

function ranking(page, key, heading, found, { name, of, colour = () => "var(--accent)", more, rows: address, tools = null, isSorted = false }) {
  const { measure } = page;
  const rows = isSorted ? found : found.toSorted((a, b) => measure.of(b) - measure.of(a));
  const largest = Math.max(...rows.map(measure.of), 0);
  const columns = [
    { name, of, kind: "name" },
    { name: h("span", { class: "hidden" }, "bar"), of: (row) => charts.bar(measure.of(row) / largest, colour(row)), kind: "bars" },
    { name: measure.name === "cost" ? "Cost" : "Tokens", of: (row) => (measure.name === "cost" ? format.cost(row) : format.short(row.total_tokens)), kind: "number strong" },
    ...more.filter((column) => !column.isLink || page.links.table("x")),
  ];
  return card(key, heading, {
    body: rows.length ? table(columns, rows, `${heading} by ${measure.name}`) : nothing(),
    rows: address,
    rowsText: "All of them",
    tools,
  });
}

export function tools(page) {
  const { data } = page;
  const most = Math.max(...data.tools.map((row) => row.calls), 0);
  return card("tools", "Tools", {
    body: data.tools.length
      ? table([
        { name: "Tool", of: (row) => link(page.links.calls(data.totals, row.tool), h("span", { class: "clip", title: row.tool }, toolName(row))), kind: "name" },
        { name: h("span", { class: "hidden" }, "bar"), of: (row) => charts.bar(row.calls / most), kind: "bars" },
        { name: "Calls", of: (row) => format.count(row.calls), kind: "number strong" },
        { name: "Errors", of: errors, kind: "number" },
        { name: "Median", of: (row) => format.duration(row.median_ms), kind: "number optional nowrap" },
        { name: "p95", of: (row) => format.duration(row.p95_ms), kind: "number optional nowrap" },
        { name: "Results", of: (row) => format.bytes(row.result_bytes), kind: "number optional nowrap" },
      ], data.tools, "Tools by calls")
      : nothing("No tool was called in these days."),
    rows: page.links.table("tool_usage", { _sort_desc: "calls" }),
    rowsText: "All of them",
  });
}

function toolName(row) {
  return row.mcp_server ? `${row.mcp_server}: ${row.tool.split("__").at(-1)}` : row.tool;
}

function errors(row) {
  if (!row.errors) return h("span", { class: "quiet" }, "0");
  return h("span", { class: row.error_rate >= 0.05 ? "bad" : null, title: `${format.count(row.errors)} of ${format.count(row.calls)}` },
    `${format.count(row.errors)} · ${format.percent(row.error_rate)}`);
}

// What to know before relying on the numbers

export function notices({ data }) {
  const found = [];
  if (data.is_loading) found.push("The first refresh has not completed: these are not all numbers yet, and they grow by themselves.");
  if (data.range.is_past) found.push(`Nothing was used in the last ${data.range.days} days. Shown are those up to ${format.day(data.range.until)}, the last day with use.`);
  for (const row of data.unpriced) {
    const tokens = row.input_tokens + row.output_tokens + row.cache_creation_tokens + row.cache_read_tokens;
    found.push(h("span", {}, `${row.model} has no price: ${plural(tokens, "token")} are in no cost here. `, h("code", {}, `cm prices set ${row.model}`), " gives it one."));
  }
  const low = data.totals.undercounted_responses;
  if (low) found.push(`${plural(low, "response")} of these days never got their final output count from Claude Code, so their output is too low.`);
  return found.length ? [h("ul", { class: "notices" }, found.map((text) => h("li", {}, text)))] : [];
}
