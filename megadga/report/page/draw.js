"use strict";
// One function for each kind of figure: from layers to plotly's traces and layout.

const MOST_ROWS = 48; // of heat maps, at least
const LONGEST_NAME = 30;

/** Return text as plotly shows it: its markup is not ours. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function cut(text) {
  return plain(text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME - 1)}…` : text);
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function baseLayout(figure, { height = 340, right = 12 } = {}) {
  const axis = { gridcolor: css("line"), zerolinecolor: css("line"), linecolor: css("line"), automargin: true };
  return {
    height,
    margin: { l: 56, r: right, t: 26, b: 40 }, // at the top room for buttons
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("muted"), activecolor: css("accent") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("text"), size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { namelength: -1, bgcolor: css("card"), bordercolor: css("muted"), font: { color: css("text") } },
    legend: { orientation: "h", x: 0, y: -0.18, yanchor: "top", font: { size: 11 } },
    xaxis: { ...axis, title: { text: "optimizer step", standoff: 6 }, rangemode: "tozero" },
    yaxis: { ...axis, title: { text: figure.quantity, standoff: 6 }, ...scaleOf(figure) },
  };
}

function scaleOf(figure) {
  if (figure.scale === "share") return { range: [0, 1], tickformat: ".0%" };
  return figure.scale === "log" ? { type: "log" } : {};
}

/** Return marks of events at the bottom of a figure. */
function eventMarks(runs, layout) {
  layout.yaxis2 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
  return runs
    .filter((run) => REPORT.runs[run].events.length)
    .map((run) => ({
      x: REPORT.runs[run].events.map((event) => event.step),
      y: REPORT.runs[run].events.map(() => 0.015),
      text: REPORT.runs[run].events.map((event) => `${plain(event.kind)}: ${plain(event.text)}`),
      name: plain(`events of ${REPORT.runs[run].name}`),
      yaxis: "y2",
      mode: "markers",
      showlegend: false,
      marker: { symbol: "triangle-up", size: 8, color: css("muted") },
      hovertemplate: "step %{x:,}<br>%{text}<extra></extra>",
    }));
}

function translucent(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

/** Return the band of a mean: a standard error of it to each side. */
function band(mean, colour, axes = {}) {
  return {
    ...axes,
    x: [...mean.steps, ...[...mean.steps].reverse()],
    y: [
      ...mean.values.map((value, i) => value + mean.errors[i]),
      ...mean.values.map((value, i) => value - mean.errors[i]).reverse(),
    ],
    fill: "toself",
    fillcolor: translucent(colour, 0.18),
    line: { width: 0 },
    mode: "lines",
    hoverinfo: "skip",
    showlegend: false,
  };
}

/** Return a line with a mark at each value where there are few. */
function line(mean, name, style, more = {}) {
  return {
    x: mean.steps,
    y: mean.values,
    name: plain(name),
    mode: mean.steps.length <= 40 ? "lines+markers" : "lines",
    line: { color: style.colour, dash: style.dash, width: style.width ?? 2 },
    marker: { size: 5, color: style.colour },
    hovertemplate: `step %{x:,}<br>%{y:.5~g}<extra>${plain(name)}</extra>`,
    ...more,
  };
}

function drawCurves(figure) {
  const layout = baseLayout(figure);
  const traces = [];
  const shown = entries();
  for (const entry of shown) {
    figure.layers.forEach((key, place) => {
      const runs = entry.members.map((run) => REPORT.layers[key]?.runs[run]).filter(Boolean);
      const names = runs.length ? runs[0].names : [];
      names.forEach((name, column) => {
        if (!runs.every((series) => series.names.includes(name))) return;
        const mean = meanOf(runs, name);
        const thin = place === 0 && figure.layers.length > 1;
        const lone = shown.length === 1 && names.length > 1;
        const { colour } = lone ? styleAt(column) : entry;
        const dash = place > 1 ? "dash" : names.length > 1 && !lone ? DASHES[column % 4] : entry.dash;
        const title = names.length > 1 || place > 1 ? `${entry.name}: ${name}` : entry.name;
        const style = { colour, dash, width: thin ? 1 : 2 };
        const more = { opacity: thin ? 0.4 : 1, showlegend: !thin, ...(thin ? { mode: "lines" } : {}) };
        if (runs.length > 1 && !thin) traces.push(band(mean, colour));
        traces.push(line(mean, title, style, more));
      });
    });
  }
  traces.push(...eventMarks(shown.flatMap((entry) => entry.members), layout));
  return { traces, layout };
}

function drawAreas(figure) {
  const layer = layerOf(figure.layers[0]);
  const series = layer?.runs[detailRun()];
  if (!series) return null;
  const layout = baseLayout(figure, { height: 400 });
  const common = { stackgroup: "all", mode: "lines", hoveron: "points" };
  const steps = Array.from(series.steps);
  const add = (values, name, style, faded) => ({
    ...common,
    x: steps,
    y: values,
    name: cut(name),
    line: { width: 0.5, color: style.colour, shape: layer.by ? "hv" : "linear" },
    fillcolor: translucent(style.colour, faded ? 0.12 : 0.75),
    ...(style.cycle ? { fillpattern: { shape: ["", "/", ".", "x"][style.cycle], fgcolor: css("card") } } : {}),
    hovertemplate: `step %{x:,}<br>%{y:.4~g}<extra>${plain(name)}</extra>`,
  });
  if (!layer.by) {
    const traces = series.names.map((name, i) => add(series.column(i), name, styleAt(i), false));
    return { traces: [...traces, ...eventMarks([detailRun()], layout)], layout };
  }
  const space = REPORT.spaces[layer.by];
  const { own, rest, faded } = selection(layer.by, STATE.most);
  const traces = own.map((i) =>
    add(series.column(i), labelled(space, i), styleAt(space.styles[i]), faded(i)));
  if (rest.length) {
    const sums = steps.map((_, row) => rest.reduce((sum, i) => sum + (series.at(row, i) || 0), 0));
    const name = `${rest.length.toLocaleString("en")} others together`;
    traces.push(add(sums, name, { colour: "#888888", cycle: 0 }, rest.length > 0 && faded(-1)));
  }
  return { traces: [...traces, ...eventMarks([detailRun()], layout)], layout };
}

function drawPanels(figure, width) {
  const layers = figure.layers.map(layerOf).filter(Boolean);
  const shown = entries();
  const by = layers[0].by;
  const space = REPORT.spaces[by];
  const { own, faded } = selection(by, STATE.most);
  const across = Math.min(own.length, width > 1100 ? 6 : width > 750 ? 4 : width > 500 ? 3 : 2);
  const down = Math.ceil(own.length / across);
  const layout = baseLayout(figure, { height: down * 150 + 50 });
  const { xaxis, yaxis } = layout;
  const range = panelRange(layers, shown, own);
  layout.annotations = [];
  const traces = [];
  own.forEach((index, place) => {
    const n = place ? String(place + 1) : "";
    const [column, row] = [place % across, Math.floor(place / across)];
    const [left, right] = [(column + 0.08) / across, (column + 1) / across];
    const [bottom, top] = [1 - (row + 0.86) / down, 1 - (row + 0.14) / down];
    const x = { ...xaxis, title: undefined, nticks: 4, showticklabels: row === down - 1 || place + across >= own.length };
    layout[`xaxis${n}`] = { ...x, domain: [left, right], anchor: `y${n}`, matches: n ? "x" : undefined, automargin: false };
    layout[`yaxis${n}`] = {
      ...yaxis, title: undefined, nticks: 4, domain: [bottom, top], anchor: `x${n}`, range,
      showticklabels: column === 0, automargin: false,
    };
    layout.annotations.push({
      text: cut(space.names[index]), x: left, y: top, xref: "paper", yref: "paper",
      xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 11 }, opacity: faded(index) ? 0.35 : 1,
    });
    traces.push(...panelTraces(layers, shown, space, index, n, faded(index)));
  });
  layout.margin = { l: 48, r: 8, t: 22, b: 28 };
  layout.showlegend = false;
  return { traces, layout };
}

/** Return a range that holds all values of panels. */
function panelRange(layers, shown, own) {
  let [low, high] = [Infinity, -Infinity];
  for (const layer of layers) {
    for (const run of shown.flatMap((entry) => entry.members)) {
      const series = layer.runs[run];
      for (let row = 0; series && row < series.height; row += 1) {
        for (const index of own) {
          const value = series.at(row, index);
          if (value < low) low = value;
          if (value > high) high = value;
        }
      }
    }
  }
  if (!(low <= high)) return undefined;
  const room = 0.06 * (high - low || 1);
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

function panelTraces(layers, shown, space, index, n, faded) {
  const name = space.names[index];
  const { colour } = styleAt(space.styles[index]);
  const axes = { xaxis: `x${n}`, yaxis: `y${n}` };
  return shown.flatMap((entry, place) => layers.flatMap((layer, nth) => {
    const runs = entry.members.map((run) => layer.runs[run]).filter(Boolean);
    if (!runs.length) return [];
    const mean = meanOf(runs, name);
    const dash = entry.members.length > 1 || shown.length > 1 ? DASHES[place % 4] : "solid";
    const dots = { mode: "markers", marker: { size: 4, color: colour, symbol: place ? "circle-open" : "circle" } };
    const more = { ...axes, opacity: faded ? 0.2 : 1, ...(nth ? dots : { mode: mean.steps.length > 1 ? "lines" : "markers" }) };
    const what = layers.length > 1 ? [", validation", ", training"][nth] : "";
    const drawn = line(mean, `${name}, ${entry.name}${what}`, { colour, dash, width: 1.8 }, more);
    return runs.length > 1 && !nth && !faded ? [band(mean, colour, axes), drawn] : [drawn];
  }));
}

const SCALES = {
  light: [[0, "#b2182b"], [0.25, "#ef8a62"], [0.5, "#f7f7f7"], [0.75, "#67a9cf"], [1, "#2166ac"]],
  dark: [[0, "#ff8a5c"], [0.25, "#a8482c"], [0.5, "#22262e"], [0.75, "#2b6da8"], [1, "#7cc4ff"]],
};

/** Return what a heat map may show of a run: alignment, cosine, significance. */
function heatQuantities(figure) {
  const [value, error, cosine] = figure.layers.map((key) => layerOf(key)?.runs[detailRun()] ?? null);
  return {
    value: { title: "value", known: value !== null, of: (row, i) => value.at(row, i), series: { value, error, cosine } },
    cosine: { title: "cosine", known: cosine !== null, of: (row, i) => cosine.at(row, i) },
    significance: {
      title: "significance (a / se)", known: error !== null, of: (row, i) => value.at(row, i) / error.at(row, i),
    },
  };
}

function drawHeatMap(figure) {
  const quantities = heatQuantities(figure);
  if (!quantities.value.known) return null;
  const chosen = quantities[STATE.quantity].known ? STATE.quantity : "value";
  const { series: { value, error, cosine } } = quantities.value;
  const by = layerOf(figure.layers[0]).by;
  const space = REPORT.spaces[by];
  const { own, matches } = selection(by, Math.max(STATE.most, MOST_ROWS));
  const rows = own.filter((i) => Number.isFinite(value.last(i)));
  const steps = Array.from(value.steps);
  const z = rows.map((i) => steps.map((_, row) => quantities[chosen].of(row, i)));
  const text = rows.map((i) => steps.map((step, row) => [
    `<b>${plain(labelled(space, i))}</b>`,
    `step ${step.toLocaleString("en")}`,
    `alignment ${short(value.at(row, i))}${error ? ` ± ${short(error.at(row, i))}` : ""}`,
    ...(error ? [`significance ${short(value.at(row, i) / error.at(row, i))}`] : []),
    ...(cosine ? [`cosine ${short(cosine.at(row, i))}`] : []),
  ].join("<br>")));
  const layout = baseLayout(figure, { height: Math.max(240, rows.length * 17 + 90), right: 90 });
  layout.yaxis = {
    ...layout.yaxis, title: undefined, autorange: "reversed", showgrid: false, zeroline: false, tickmode: "array",
    tickvals: rows.map((_, place) => place),
    ticktext: rows.map((i) => (matches.has(i) ? `<b>▸ ${cut(space.names[i])}</b>` : cut(space.names[i]))),
  };
  layout.xaxis = { ...layout.xaxis, rangemode: "normal", showgrid: false };
  layout.shapes = rows.flatMap((i, place) => (matches.has(i) ? [{
    type: "rect", xref: "paper", x0: 0, x1: 1, y0: place - 0.5, y1: place + 0.5, line: { color: css("accent"), width: 2 },
  }] : []));
  const trace = {
    type: "heatmap", x: steps, y: rows.map((_, place) => place), z, text, hovertemplate: "%{text}<extra></extra>",
    colorscale: SCALES[isDark() ? "dark" : "light"], ...symmetric(z),
    colorbar: { title: { text: quantities[chosen].title, side: "right" }, thickness: 12, outlinewidth: 0 },
  };
  return { traces: [trace], layout };
}

/** Return limits of colours around 0 that hold all values but the largest 2 %. */
function symmetric(z) {
  const sizes = z.flat().filter(Number.isFinite).map(Math.abs).sort((a, b) => a - b);
  const most = sizes[Math.floor(0.98 * (sizes.length - 1))] || 1;
  return { zmin: -most, zmax: most };
}

function drawDomainLines(figure) {
  const layer = layerOf(figure.layers[0]);
  const series = layer?.runs[detailRun()];
  if (!series) return null;
  const space = REPORT.spaces[layer.by];
  const layout = baseLayout(figure);
  const { own, faded } = selection(layer.by, STATE.most);
  const traces = own.map((i) => {
    const style = styleAt(space.styles[i]);
    const mean = { steps: Array.from(series.steps), values: series.column(i) };
    const more = { mode: "lines", opacity: faded(i) ? 0.15 : 1, hovertemplate: undefined };
    more.hovertemplate = `step %{x:,}<br>%{y:.4~g}<extra>${plain(labelled(space, i))}</extra>`;
    return line(mean, cut(space.names[i]), style, { ...more, name: cut(space.names[i]) });
  });
  layout.shapes = [{
    type: "line", xref: "paper", x0: 0, x1: 1, y0: figure.mark, y1: figure.mark,
    line: { dash: "dot", width: 1, color: css("muted") },
  }];
  const exhausted = own.flatMap((i) => {
    const values = series.column(i);
    const row = values.findIndex((value) => value >= figure.mark);
    return row < 0 ? [] : [{ i, x: series.steps[row], y: values[row] }];
  });
  traces.push({
    x: exhausted.map((each) => each.x), y: exhausted.map((each) => each.y), mode: "markers", showlegend: false,
    marker: { symbol: "x", size: 9, color: exhausted.map(({ i }) => styleAt(space.styles[i]).colour) },
    text: exhausted.map(({ i }) => plain(labelled(space, i))), name: "seen once",
    hovertemplate: "%{text}<br>seen once by step %{x:,}<extra></extra>",
  });
  return { traces: [...traces, ...eventMarks([detailRun()], layout)], layout };
}

function drawEvents(figure) {
  const shown = entries().flatMap((entry) => entry.members);
  const rows = shown.filter((run) => REPORT.runs[run].events.length);
  if (!rows.length) return null;
  const layout = baseLayout(figure, { height: 110 + 34 * rows.length });
  const kinds = [...new Set(rows.flatMap((run) => REPORT.runs[run].events.map((event) => event.kind)))].sort();
  const symbols = ["circle", "square", "diamond", "triangle-up", "x", "star", "cross", "hexagon"];
  const traces = kinds.map((kind, place) => {
    const found = rows.flatMap((run, row) =>
      REPORT.runs[run].events.filter((event) => event.kind === kind).map((event) => ({ ...event, row })));
    return {
      x: found.map((event) => event.step), y: found.map((event) => event.row), text: found.map((event) => plain(event.text)),
      name: plain(kind), mode: "markers",
      marker: { size: 10, color: styleAt(place).colour, symbol: symbols[place % symbols.length] },
      hovertemplate: `step %{x:,}<br>%{text}<extra>${plain(kind)}</extra>`,
    };
  });
  layout.yaxis = {
    ...layout.yaxis, title: undefined, range: [rows.length - 0.5, -0.5], zeroline: false, tickmode: "array",
    tickvals: rows.map((_, row) => row), ticktext: rows.map((run) => cut(REPORT.runs[run].name)),
  };
  const longest = Math.max(...shown.map((run) => REPORT.runs[run].step));
  layout.xaxis = { ...layout.xaxis, range: [-0.02 * longest, 1.02 * longest] };
  layout.legend.y = -0.5;
  layout.showlegend = true;
  return { traces, layout };
}

const DRAW = {
  curves: drawCurves,
  areas: drawAreas,
  panels: drawPanels,
  heat_map: drawHeatMap,
  domain_lines: drawDomainLines,
  events: drawEvents,
};
