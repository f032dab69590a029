// The page: what is chosen, what is shown, and how it keeps itself up to date.

import * as cards from "./cards.js";
import { MEASURES, palette } from "./charts.js";
import { h } from "./dom.js";
import * as format from "./format.js";
import * as filters from "./filters.js";
import { choices, query, tables } from "./links.js";

const POLL_MS = 5000;
const SHARE_OF_TIME = 0.1; // that the server may spend on a page that stays open
const main = document.getElementById("main");
const status = document.getElementById("status");
const measure = document.getElementById("measure");
const embedded = document.getElementById("data");
const { page: pageUrl, json: jsonUrl, session: sessionUrl, tables: tablesUrl } = main.dataset;

let chosen = choices();
let data = null;
let etag = null;
let sessions = "dearest";
let attempt = 0;
let drawnWidth = 0;

if (embedded) {
  show(JSON.parse(embedded.textContent));
} else {
  filters.start(change);
  addEventListener("popstate", () => {
    chosen = choices();
    load();
  });
  document.addEventListener("visibilitychange", () => document.hidden || load());
  load();
}
new ResizeObserver(debounced(() => data && main.clientWidth !== drawnWidth && draw(), 150)).observe(main);
measure.addEventListener("change", (event) => {
  change({ ...chosen, measure: event.target.value });
});

/** Goes to other choices: the address first, so that it can be kept and sent. */
function change(wanted) {
  const isSame = query({ ...wanted, measure: "cost" }) === query({ ...chosen, measure: "cost" });
  chosen = wanted;
  if (!embedded) history.pushState(null, "", pageUrl + query(chosen));
  if (isSame && data) draw();
  else load();
}

/** Asks for the numbers, and again after a while; only what has changed is drawn anew. */
async function load() {
  clearTimeout(load.timer);
  const mine = ++attempt;
  const start = performance.now();
  main.setAttribute("aria-busy", String(data === null));
  try {
    const response = await fetch(jsonUrl + query({ ...chosen, measure: "cost" }), { cache: "no-cache" });
    const answer = await response.json().catch(() => ({}));
    if (mine !== attempt) return; // something else was chosen meanwhile
    if (!response.ok) throw new Error(answer.error ?? `The server answers ${response.status}; load the page again.`);
    const tag = response.headers.get("etag") ?? JSON.stringify(answer);
    if (tag !== etag || !data) show(answer, tag);
    else live();
  } catch (error) {
    if (mine === attempt) fail(error);
  }
  if (mine === attempt && !document.hidden) {
    load.timer = setTimeout(load, Math.max(POLL_MS, (performance.now() - start) / SHARE_OF_TIME));
  }
}

function show(answer, tag = null) {
  [data, etag] = [answer, tag];
  if (!embedded) filters.show(data, chosen);
  live();
  draw();
}

function live() {
  status.className = "live";
  const refreshed = data.last_refresh ? `refreshed ${format.ago(data.last_refresh)}` : "not refreshed yet";
  const text = embedded ? `as of ${format.clock(data.now)}, ${format.day(data.now.slice(0, 10))}` : refreshed;
  if (status.textContent !== text) status.textContent = text;
}

function fail(error) {
  const isOffline = error instanceof TypeError;
  const text = isOffline ? "The server does not answer; trying again." : error.message;
  status.className = "failed";
  status.textContent = text;
  if (data && isOffline) return; // what is shown still holds
  data = null;
  main.replaceChildren(h("div", { class: "state", role: "alert" },
    h("h2", {}, isOffline ? "No connection" : "That did not work"), h("p", {}, text),
    h("p", {}, isOffline ? h("span", {}, "Is ", h("code", {}, "cm serve"), " still running?") : h("a", { href: pageUrl }, "Back to the last 30 days"))));
  main.setAttribute("aria-busy", "false");
}

function draw() {
  if (data.is_empty) {
    main.replaceChildren(h("div", { class: "state" }, h("h2", {}, "No history yet"),
      h("p", {}, "The index holds no response. Use Claude Code, then run ", h("code", {}, "cm refresh"), ", or keep ", h("code", {}, "cm watch"), " running: this page fills by itself.")));
    main.setAttribute("aria-busy", "false");
    return;
  }
  const kept = remember();
  drawnWidth = main.clientWidth;
  measure.querySelector(`[value="${chosen.measure}"]`).checked = true;
  const page = {
    data,
    now: embedded ? new Date(data.now) : new Date(),
    measure: MEASURES[chosen.measure],
    colours: palette(data.choices.models),
    links: tables(tablesUrl, data.wanted),
    address: (wanted) => (embedded ? null : pageUrl + query({ ...chosen, ...wanted })),
    session: (id) => (sessionUrl ? `${sessionUrl}/${encodeURIComponent(id)}` : null),
    sessions,
    choose(name) {
      sessions = name;
      draw();
    },
  };
  const [wide, narrow, half] = widths();
  main.replaceChildren(
    ...cards.notices(page),
    h("div", { class: "tiles" }, cards.periods(page)),
    cards.totals(page),
    h("div", { class: "grid" },
      cards.daily(page, wide), cards.cumulative(page, narrow),
      cards.calendar(page, wide), cards.hours(page, narrow),
      h("div", { class: "column" }, cards.models(page), cards.projects(page), data.choices.hosts.length > 0 && cards.hosts(page), cards.agents(page)),
      h("div", { class: "column" }, cards.cache(page, half), cards.sessions(page)),
      cards.tools(page)));
  main.setAttribute("aria-busy", "false");
  recall(kept);
}

/** Widths of charts: in a wide card, in a narrow one, and in one of two equal ones, as cm.css lays them out. */
function widths() {
  const style = getComputedStyle(document.documentElement);
  const [gap, padding] = ["--gap", "--padding"].map((name) => parseFloat(style.getPropertyValue(name)));
  const full = main.clientWidth;
  const inner = (share) => Math.floor((full - gap) * share - 2 * padding - 2);
  const alone = full - 2 * padding - 2;
  return full < 900 ? [alone, alone, alone] : [inner(2 / 3), inner(1 / 3), inner(1 / 2)];
}

/** What the reader has opened and where the focus is, so that an update changes neither. */
function remember() {
  return {
    open: [...main.querySelectorAll("details[open]")].map((details) => details.dataset.key),
    focus: main.contains(document.activeElement) ? path(document.activeElement) : null,
  };
}

function path(element) {
  const section = element.closest("section[id]");
  if (!section) return null;
  return [section.id, [...section.querySelectorAll("a, button, summary, [tabindex]")].indexOf(element)];
}

function recall({ open, focus }) {
  open.forEach((key) => {
    const details = main.querySelector(`details[data-key="${key}"]`);
    if (details) details.open = true;
  });
  if (focus) document.getElementById(focus[0])?.querySelectorAll("a, button, summary, [tabindex]")[focus[1]]?.focus({ preventScroll: true });
}

function debounced(action, ms) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, ms);
  };
}
