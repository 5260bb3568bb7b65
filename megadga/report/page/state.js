"use strict";
// What the reader has chosen; kept when the page loads itself again. The theme is kept for all pages.

const STATE_KEY = `megadga-report:${REPORT.runs.map((run) => run.folder).join("|")}`;

const STATE = {
  hidden: [], // names of runs
  average: true,
  detail: REPORT.runs[0].name, // the run whose mixture is shown
  search: "",
  order: "peak",
  descending: true,
  most: 12,
  by: "",
  quantity: "value", // of heat maps
  rows: 50, // of the table of domains
};

/** Return a stored text; null without, or where the browser does not let files store any. */
function stored(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

function store(storage, key, text) {
  try {
    window[storage].setItem(key, text);
  } catch {
    // The choice lasts as long as the page.
  }
}

function restoreState() {
  Object.assign(STATE, JSON.parse(stored("sessionStorage", STATE_KEY) ?? "{}"));
  if (!REPORT.runs.some((run) => run.name === STATE.detail)) STATE.detail = REPORT.runs[0].name;
}

function saveState() {
  store("sessionStorage", STATE_KEY, JSON.stringify(STATE));
}

const PREFERS_DARK = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return stored("localStorage", "megadga-theme") ?? document.documentElement.dataset.chosen ?? "auto";
}

function isDark() {
  return theme() === "auto" ? PREFERS_DARK.matches : theme() === "dark";
}

function applyTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
}

/** Return the next theme of the button. */
function nextTheme() {
  return { auto: "light", light: "dark", dark: "auto" }[theme()];
}

function chooseTheme(chosen) {
  document.documentElement.dataset.chosen = chosen;
  store("localStorage", "megadga-theme", chosen);
  applyTheme();
}

const DASHES = ["solid", "dash", "dot", "dashdot"];

function palette() {
  return REPORT.colours[isDark() ? "dark" : "light"];
}

function styleAt(place) {
  const colours = palette();
  const cycle = Math.floor(place / colours.length) % DASHES.length;
  return { colour: colours[place % colours.length], dash: DASHES[cycle], cycle };
}

function detailRun() {
  return REPORT.runs.findIndex((run) => run.name === STATE.detail);
}

/** Return what is drawn as a line of its own: a run, or the visible runs of a group as their mean. */
function entries() {
  return REPORT.groups.flatMap((group, place) => {
    const visible = group.members.filter((run) => !STATE.hidden.includes(REPORT.runs[run].name));
    const { colour } = styleAt(place);
    if (STATE.average && visible.length > 1) {
      const name = `${group.name} (mean of ${visible.length} seeds)`;
      return [{ name, members: visible, colour, dash: "solid", place }];
    }
    return visible.map((run) => {
      const dash = DASHES[group.members.indexOf(run) % DASHES.length];
      return { name: REPORT.runs[run].name, members: [run], colour, dash, place };
    });
  });
}

/** Return a layer, over groups of domains if these are chosen. */
function layerOf(key) {
  return (STATE.by === "groups" && REPORT.layers[key + REPORT.grouped]) || REPORT.layers[key];
}

function matchesSearch(space, index) {
  const terms = STATE.search.toLowerCase().split(",").map((term) => term.trim()).filter(Boolean);
  const text = labelled(space, index).toLowerCase();
  return terms.some((term) => text.includes(term));
}

/** Return the columns of the domains' table: how each is named, and its value of a domain. */
function columns(space) {
  const by = REPORT.spaces[space];
  const run = detailRun();
  const of = (key) => {
    const series = layerOf(key)?.by === space ? layerOf(key).runs[run] : null;
    return series ?? { first: () => NaN, last: () => NaN };
  };
  const start = (i) => of("weights").first(i);
  const now = (i) => of("weights").last(i);
  return [
    { key: "name", title: "Domain", value: (i) => by.names[i] },
    { key: "start", title: "Weight at start", value: start },
    { key: "weight", title: "Weight now", value: now },
    { key: "change", title: "Change", value: (i) => now(i) - start(i) },
    { key: "alignment", title: "Alignment", value: (i) => of("alignment0").last(i) },
    { key: "error", title: "± error", value: (i) => of("error0").last(i) },
    { key: "epochs", title: "Epochs", value: (i) => of("epochs").last(i) },
    { key: "validation", title: "Validation loss", value: (i) => of("validation").last(i) },
    { key: "trained", title: "Training loss", value: (i) => of("trained").last(i) },
    { key: "tokens", title: "Tokens trained", value: (i) => of("tokens").last(i) },
  ];
}

/** Return all indices of a space in the chosen order; what has no value is last. */
function ordering(space) {
  const { names, leading } = REPORT.spaces[space];
  if (STATE.order === "peak") return STATE.descending ? [...leading] : [...leading].reverse();
  const column = columns(space).find((each) => each.key === STATE.order);
  const values = names.map((_, index) => column.value(index));
  const sign = STATE.descending ? -1 : 1;
  const known = (value) => typeof value === "string" || Number.isFinite(value);
  return [...leading].sort((a, b) => {
    if (!known(values[a]) || !known(values[b])) return known(values[b]) - known(values[a]);
    if (values[a] === values[b]) return 0;
    return values[a] < values[b] ? -sign : sign;
  });
}

/** Return which indices of a space are shown by themselves: what is searched for first. */
function selection(space, most) {
  const order = ordering(space);
  const matches = new Set(STATE.search.trim() ? order.filter((i) => matchesSearch(REPORT.spaces[space], i)) : []);
  const chosen = [...order.filter((i) => matches.has(i)), ...order.filter((i) => !matches.has(i))];
  const own = chosen.slice(0, most);
  const faded = (index) => matches.size > 0 && !matches.has(index);
  return { own, rest: chosen.slice(most), matches, faded };
}
