// The session page: it stands complete in its HTML; this draws the timeline, and folds and unfolds.

import { table } from "./cards.js";
import { timeline } from "./charts.js";
import * as format from "./format.js";

const WORDS = { prompt: "prompt", answer: "answer", tool: "tool call", error: "failed tool call" };
const source = document.getElementById("events");
const events = source ? JSON.parse(source.textContent) : [];

const card = document.getElementById("timeline");
const figure = document.getElementById("timeline-chart");
if (events.length) {
  card.hidden = false;
  const rows = events.map((event) => ({ ...event, title: title(event) }));
  const lanes = [...new Set(["main", ...rows.map((row) => row.lane)])];
  const draw = () => figure.replaceChildren(timeline(rows, { width: figure.clientWidth, lanes }));
  draw();
  let width = figure.clientWidth;
  new ResizeObserver(() => {
    if (figure.clientWidth === width) return;
    width = figure.clientWidth;
    draw();
  }).observe(figure);
  const details = document.getElementById("timeline-numbers");
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(numbers(rows));
  });
}

const unfold = document.getElementById("unfold");
if (unfold) {
  unfold.hidden = false;
  unfold.addEventListener("click", () => {
    const isOpen = unfold.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll(".conversation details").forEach((details) => (details.open = isOpen));
    unfold.setAttribute("aria-pressed", String(isOpen));
    unfold.textContent = isOpen ? "Fold all" : "Unfold all";
  });
}

addEventListener("hashchange", reveal);
reveal();

/** Opens whatever the message that the address names is folded into. */
function reveal() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let details = target.closest("details"); details; details = details.parentElement.closest("details")) details.open = true;
  target.scrollIntoView();
}

function title(event) {
  const lines = [`${time(event.at)}  ${WORDS[event.kind]}`, event.about];
  if (event.until > event.at) lines.push(format.duration(event.until - event.at));
  if (event.total_tokens !== null) lines.push(`${format.count(event.total_tokens)} tokens, ${format.usd(event.cost_usd)}`);
  return lines.filter(Boolean).join("\n");
}

/** Local times come as if they were UTC. */
function time(at) {
  return new Date(at).toISOString().slice(11, 19);
}

function numbers(rows) {
  return table([
    { name: "Time", of: (row) => `${format.toDay(new Date(row.at))} ${time(row.at)}`, kind: "nowrap" },
    { name: "Lane", of: (row) => row.lane },
    { name: "What", of: (row) => WORDS[row.kind] },
    { name: "About", of: (row) => row.about },
    { name: "Took", of: (row) => (row.until === null ? "" : format.duration(row.until - row.at)), kind: "number nowrap" },
    { name: "Tokens", of: (row) => (row.total_tokens === null ? "" : format.count(row.total_tokens)), kind: "number" },
    { name: "Cost", of: (row) => (row.total_tokens === null ? "" : format.usd(row.cost_usd)), kind: "number" },
  ], rows, "what happened when");
}
