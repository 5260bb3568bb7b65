"use strict";
// Tables: runs, domains, configuration.

/** Return an element with attributes and children; text is never taken as markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Return the last value of a layer of a run, its lowest, and the step of that; NaN without. */
function losses(key, run) {
  const series = REPORT.layers[key]?.runs[run];
  if (!series) return [];
  return series.names.map((name, column) => {
    const values = series.column(column);
    const known = values.filter(Number.isFinite);
    const best = Math.min(...known);
    return { name, last: known.at(-1) ?? NaN, best, step: series.steps[values.indexOf(best)] };
  });
}

function lastOf(key, run) {
  return REPORT.layers[key]?.runs[run]?.last(0) ?? NaN;
}

function runColumns(run) {
  const { rule, seed, step, steps, tokens_per_step: tokens } = REPORT.runs[run];
  const specific = losses("specific", run);
  const text = (of) => specific.map(of).join("; ") || "–";
  const name = ({ name: set }) => (specific.length > 1 ? `${set} ` : "");
  return {
    Rule: rule,
    Seed: String(seed),
    Step: step === steps ? step.toLocaleString("en") : `${step.toLocaleString("en")} of ${steps.toLocaleString("en")}`,
    Tokens: short(step * tokens),
    "Specific loss": text((each) => `${name(each)}${short(each.last)}`),
    "Best, at step": text((each) => `${name(each)}${short(each.best)}, ${each.step.toLocaleString("en")}`),
    "General loss": short(lastOf("general", run)),
    "Effective domains": short(lastOf("effective", run)),
    Overhead: percent(lastOf("overhead_mean", run)),
  };
}

function percent(share) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(2)} %` : "–";
}

function fillRuns(changed) {
  const titles = Object.keys(runColumns(0));
  const head = element("tr", {}, ...["Run", ...titles].map((title) => element("th", { scope: "col" }, title)));
  const rows = REPORT.runs.map((run, number) => {
    const box = element("input", { type: "checkbox", checked: !STATE.hidden.includes(run.name) });
    box.addEventListener("change", () => {
      STATE.hidden = STATE.hidden.filter((name) => name !== run.name);
      if (!box.checked) STATE.hidden.push(run.name);
      changed();
    });
    const group = REPORT.groups.findIndex((each) => each.members.includes(number));
    const swatch = element("span", { class: "swatch" });
    swatch.style.borderTopColor = styleAt(group).colour;
    const title = element("th", { scope: "row" }, element("label", {}, box, swatch, run.name));
    return element("tr", {}, title, ...Object.values(runColumns(number)).map((text) => element("td", {}, text)));
  });
  document.getElementById("runs").replaceChildren(
    element("thead", {}, head), element("tbody", {}, ...rows));
}

/** Return the space that the table of domains is of: what weights are by. */
function tableSpace() {
  return layerOf("weights")?.by ?? layerOf("tokens")?.by ?? "domains";
}

function fillDomains(changed) {
  const by = tableSpace();
  const space = REPORT.spaces[by];
  const all = columns(by);
  const used = all.filter(({ key, value }) => key === "name" || space.names.some((_, i) => Number.isFinite(value(i))));
  const { matches } = selection(by, 0);
  const order = ordering(by).filter((i) => !matches.size || matches.has(i));
  const rows = order.slice(0, STATE.rows).map((i) => domainRow(space, i, used, changed));
  const heads = used.map(({ key, title }) => headCell(key, title, changed));
  document.getElementById("domains").replaceChildren(
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  const left = order.length - rows.length;
  const more = document.getElementById("more");
  more.hidden = left <= 0;
  more.textContent = `Show ${Math.min(left, 500).toLocaleString("en")} more of ${left.toLocaleString("en")}`;
  const kind = { domains: "Domains", basis: "Basis distributions", groups: "Groups of domains" }[by];
  document.getElementById("domains-title").textContent = `${kind}: ${space.names.length.toLocaleString("en")}`;
  document.getElementById("domains-help").textContent =
    `As they are at the last step of ${STATE.detail}. A heading sorts the table and the figures; a name searches for it.`;
  return { found: matches.size, all: space.names.length };
}

function headCell(key, title, changed) {
  const button = element("button", { type: "button" }, title);
  button.addEventListener("click", () => {
    STATE.descending = STATE.order === key ? !STATE.descending : key !== "name";
    STATE.order = key;
    changed();
    const again = document.querySelector(`#domains [data-key="${key}"] button`);
    again?.focus({ preventScroll: true });
  });
  const sorted = STATE.order === key ? (STATE.descending ? "descending" : "ascending") : "none";
  return element("th", { scope: "col", "aria-sort": sorted, "data-key": key }, button);
}

function domainRow(space, index, used, changed) {
  const name = space.names[index];
  const button = element("button", { type: "button" }, name);
  button.addEventListener("click", () => {
    document.getElementById("search").value = name;
    STATE.search = name;
    changed();
  });
  const swatch = element("span", { class: "swatch" });
  swatch.style.borderTopColor = styleAt(space.styles[index]).colour;
  const label = space.labels[name] ? [element("span", { class: "label" }, ` ${space.labels[name]}`)] : [];
  const cells = used.slice(1).map(({ key, value }) => {
    const number = value(index);
    const moved = key === "change" && Number.isFinite(number) && Math.abs(number) > 5e-5;
    return element("td", moved ? { class: number > 0 ? "up" : "down" } : {}, short(number));
  });
  return element("tr", {}, element("th", { scope: "row" }, swatch, button, ...label), ...cells);
}

function keyRows(config) {
  return Object.entries(config).map(([key, values]) =>
    element("tr", {}, element("th", { scope: "row" }, key), ...[values].flat().map((value) => element("td", {}, value))));
}

function fillConfig() {
  const place = document.getElementById("config");
  const parts = [];
  if (REPORT.runs.length > 1) {
    const names = REPORT.runs.map((run) => element("th", { scope: "col" }, run.name));
    parts.push(
      element("p", {}, "Keys in which the runs differ:"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Differences of configurations" },
        element("table", { id: "differences" },
          element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Key"), ...names)),
          element("tbody", {}, ...keyRows(REPORT.differences)))));
  }
  for (const run of REPORT.runs) {
    const table = element("table", {}, element("tbody", {}, ...keyRows(run.config)));
    for (const row of table.rows) row.className = row.cells[0].textContent in REPORT.differences ? "differs" : "";
    parts.push(element("details", {}, element("summary", {}, `All of ${run.name}`), table));
  }
  place.replaceChildren(...parts);
}
