"use strict";
// Puts the page together, and draws again what a choice changes.

const PLOT_OPTIONS = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  toImageButtonOptions: { scale: 2 },
};

const ORDERS = {
  peak: "largest weight in any run",
  weight: "weight now",
  change: "change of weight",
  alignment: "alignment",
  epochs: "epochs",
  validation: "validation loss",
  tokens: "tokens trained",
  name: "name",
};

const WHOLE = new Set(["panels", "heat_map", "events"]);

let drawing = 0; // number of the drawing in progress, so that a later one ends it
let touched = 0; // when the reader last did something, in ms

function byId(id) {
  return document.getElementById(id);
}

function makeFigure(figure) {
  const title = element("h2", { id: `title-${figure.key}` }, figure.title);
  const plot = element("div", { class: "plot", id: `plot-${figure.key}`, role: "img", "aria-labelledby": `title-${figure.key}` });
  const absent = element("p", { class: "absent", hidden: true });
  const parts = [title, element("p", {}, figure.explanation)];
  if (figure.kind === "heat_map") parts.push(makeQuantities(figure));
  const whole = WHOLE.has(figure.kind) ? " whole" : "";
  return element("figure", { class: `card${whole}`, id: figure.key }, ...parts, absent, plot);
}

function makeQuantities(figure) {
  const choices = Object.entries(heatQuantities(figure)).map(([key, { title }]) => {
    const input = element("input", { type: "radio", name: `quantity-${figure.key}`, value: key });
    input.addEventListener("change", () => {
      STATE.quantity = key;
      changed();
    });
    return element("label", {}, input, ` ${title}`);
  });
  return element("fieldset", { class: "choice" }, element("legend", {}, "Colour:"), ...choices);
}

function drawFigure(figure) {
  const place = byId(figure.key);
  const plot = byId(`plot-${figure.key}`);
  const absent = place.querySelector(".absent");
  const drawn = figure.drawn && figure.kind in DRAW ? DRAW[figure.kind](figure, plot.clientWidth) : null;
  for (const input of place.querySelectorAll(".choice input")) {
    input.disabled = !heatQuantities(figure)[input.value].known;
    input.checked = input.value === STATE.quantity && !input.disabled;
  }
  const empty = !drawn || !drawn.traces.some((trace) => trace.x.length);
  absent.hidden = !empty;
  plot.hidden = empty;
  if (empty) {
    const who = figure.drawn ? `${STATE.detail}: ` : "";
    absent.textContent = `Not drawn: ${who}${figure.absent}.`;
    Plotly.purge(plot);
    return;
  }
  Plotly.react(plot, drawn.traces, drawn.layout, PLOT_OPTIONS);
}

/** Draw all figures, and give the browser a chance to answer between two of them. */
async function drawAll() {
  drawing += 1;
  const mine = drawing;
  document.body.dataset.drawn = "false";
  for (const figure of REPORT.figures) {
    await new Promise((resolve) => { setTimeout(resolve); });
    if (mine !== drawing) return;
    const began = performance.now();
    drawFigure(figure);
    performance.measure(`figure ${figure.key}`, { start: began });
  }
  document.body.dataset.drawn = "true";
  performance.mark("drawn");
}

function fillControls() {
  const option = (value, text, chosen) => element("option", { value, selected: value === chosen }, text);
  byId("detail").replaceChildren(...REPORT.runs.map((run) => option(run.name, run.name, STATE.detail)));
  byId("detail").parentElement.hidden = REPORT.runs.length === 1;
  const sorted = STATE.order in ORDERS ? ORDERS : { ...ORDERS, [STATE.order]: "as the table" };
  byId("order").replaceChildren(...Object.entries(sorted).map(([key, text]) => option(key, text, STATE.order)));
  const most = [6, 12, 24, 48];
  byId("most").replaceChildren(...most.map((n) => option(String(n), `${n} leading`, String(STATE.most))));
  byId("by-label").hidden = !REPORT.spaces.groups;
  const kinds = [["", "domain"], ["groups", "group"]];
  byId("by").replaceChildren(...kinds.map(([key, text]) => option(key, text, STATE.by)));
  byId("search").value = STATE.search;
  byId("averaging").hidden = REPORT.groups.every((group) => group.members.length === 1);
  byId("average").checked = STATE.average;
}

function applyChoice() {
  const { found, all } = fillDomains(changed);
  const hits = found ? `${found.toLocaleString("en")} of ${all.toLocaleString("en")} found` : "none found";
  byId("matches").textContent = STATE.search.trim() ? hits : "";
}

/** Show what the state has become, and keep it. */
function changed() {
  saveState();
  fillControls();
  applyChoice();
  drawAll();
}

function connectControls() {
  const set = (id, key, read) => byId(id).addEventListener("change", (event) => {
    STATE[key] = read(event.target);
    if (key === "order") STATE.descending = STATE.order !== "name";
    changed();
  });
  set("detail", "detail", (input) => input.value);
  set("order", "order", (input) => input.value);
  set("most", "most", (input) => Number(input.value));
  set("by", "by", (input) => input.value);
  set("average", "average", (input) => input.checked);
  let timer = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      STATE.search = event.target.value;
      changed();
    }, 150);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    STATE.rows += 500;
    saveState();
    applyChoice();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      byId("search").focus();
    }
  });
}

function connectTheme() {
  const show = () => {
    applyTheme();
    byId("theme").textContent = `Theme: ${theme()}`;
    fillRuns(changed);
    applyChoice();
    drawAll();
  };
  byId("theme").addEventListener("click", () => {
    chooseTheme(nextTheme());
    show();
  });
  PREFERS_DARK.addEventListener("change", show);
  show();
}

function fillTitle() {
  const names = REPORT.groups.map((group) => group.name);
  const title = names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
  byId("title").textContent = title;
  document.title = `${title} – megadga report`;
  const going = REPORT.runs.filter((run) => run.step < run.steps);
  const ended = `${REPORT.runs.length} ${REPORT.runs.length === 1 ? "run" : "runs"}, at the last step`;
  const steps = going.map((run) => `${run.name} at step ${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}`);
  byId("status").textContent = going.length ? steps.join(", ") : ended;
}

function fillFindings() {
  const items = REPORT.runs.flatMap((run) => run.findings.map((finding) => {
    const where = REPORT.runs.length > 1 ? `${run.name}: ` : "";
    return element("li", { "data-code": finding.code }, where + finding.text);
  }));
  if (!items.length) return;
  byId("findings").hidden = false;
  byId("findings").replaceChildren(element("h2", {}, "Findings"), element("ul", {}, ...items));
}

/** Load the page again from time to time, unless its reader is busy or looks elsewhere. */
function watch() {
  if (!REPORT.reload_s) return;
  let paused = stored("sessionStorage", `${STATE_KEY}:paused`) === "true";
  const button = byId("pause");
  const label = () => { button.textContent = paused ? "Follow the run" : "Pause"; };
  button.hidden = false;
  label();
  button.addEventListener("click", () => {
    paused = !paused;
    store("sessionStorage", `${STATE_KEY}:paused`, String(paused));
    label();
  });
  for (const kind of ["pointermove", "keydown", "pointerdown", "wheel"]) {
    document.addEventListener(kind, () => { touched = performance.now(); }, { passive: true });
  }
  setInterval(() => {
    const busy = performance.now() - touched < 5000 || document.activeElement === byId("search");
    if (!paused && !busy && !document.hidden) location.reload();
  }, REPORT.reload_s * 1000);
}

restoreState();
fillTitle();
fillFindings();
byId("figures").replaceChildren(...REPORT.figures.map(makeFigure));
fillControls();
fillConfig();
connectControls();
connectTheme();
watch();
