// The form of choices: days, projects, models and machines. What is chosen stands in the page's address.

import { h } from "./dom.js";
import { choices, query } from "./links.js";

const RANGES = [
  ["Today", { since: "today", until: null }],
  ["7 days", { since: "7d", until: null }],
  ["30 days", { since: "30d", until: null }],
  ["90 days", { since: "90d", until: null }],
  ["This month", { since: "this-month", until: null }],
  ["Last month", { since: "last-month", until: "last-month" }],
  ["Year", { since: "365d", until: null }],
  ["All", { since: "all", until: null }],
];
const form = document.getElementById("filters");

let change;

/** Calls back with the new choices whenever one is made. */
export function start(whenChanged) {
  change = whenChanged;
  form.addEventListener("change", (event) => event.target.matches("input") && change(read(event.target)));
  form.addEventListener("submit", (event) => event.preventDefault());
  // A menu closes when something else is used, and with Escape.
  document.addEventListener("click", (event) => {
    menus().forEach((menu) => menu.contains(event.target) || (menu.open = false));
  });
  form.addEventListener("keydown", (event) => {
    const menu = event.target.closest("details");
    if (event.key !== "Escape" || !menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

const menus = () => [...form.querySelectorAll("details")];

function read(changed) {
  const values = (name) => [...form.querySelectorAll(`input[name="${name}"]:checked`)].map((input) => input.value);
  const now = choices();
  const days = changed.type === "date" ? { since: form.since.value || null, until: form.until.value || null } : {};
  return { ...now, projects: values("project"), models: values("model"), hosts: values("host"), ...days };
}

/** Shows what is chosen and what else there is. */
export function show(data, chosen) {
  const presets = document.getElementById("presets");
  const current = chosen.since || chosen.until || data.range.is_past ? chosen : { ...chosen, since: "30d" };
  presets.replaceChildren(...RANGES.map(([name, days]) => h("a", {
    href: query({ ...chosen, ...days }),
    "aria-current": current.since === days.since && current.until === days.until ? "true" : null,
    onclick: (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      change({ ...choices(), ...days });
    },
  }, name)));
  if (document.activeElement !== form.since) form.since.value = data.range.since;
  if (document.activeElement !== form.until) form.until.value = data.range.until;
  menu("project", "projects", data.choices.projects.map((row) => [row.project, row.label]), chosen.projects);
  menu("model", "models", data.choices.models.map((name) => [name, name]), chosen.models);
  document.getElementById("host-menu").hidden = !data.choices.hosts.length;
  menu("host", "hosts", data.choices.hosts.map((name) => [name, name]), chosen.hosts);
}

function menu(name, plural, options, chosen) {
  const details = document.getElementById(`${name}-menu`);
  const words = chosen.length === 0 ? `All ${plural}` : chosen.length === 1 ? labelOf(options, chosen[0]) : `${chosen.length} ${plural}`;
  details.querySelector("summary").textContent = words;
  details.classList.toggle("is-limited", chosen.length > 0);
  const box = details.querySelector("div");
  const focused = document.activeElement?.closest(`#${name}-menu`) ? document.activeElement.value : null;
  box.replaceChildren(
    chosen.length > 0 && h("button", { type: "button", onclick: () => clear(name) }, `All ${plural}`),
    ...options.map(([value, label]) => h("label", { title: value },
      h("input", { type: "checkbox", name, value, checked: chosen.includes(value) }), label)));
  if (focused !== null) box.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
}

function labelOf(options, value) {
  return options.find(([known]) => known === value)?.[1] ?? value;
}

function clear(name) {
  change({ ...choices(), [`${name}s`]: [] });
  document.querySelector(`#${name}-menu summary`).focus();
}
