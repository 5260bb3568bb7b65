"use strict";
// The report's data: arrays are decoded when they are first used, and never changed.

/** Return the numbers of an encoded array, which are kept in it. */
function decode(array) {
  if (!array.numbers) {
    const text = atob(array.float32 ?? array.int32);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = text.charCodeAt(i);
    array.numbers = "float32" in array ? new Float32Array(bytes.buffer) : new Int32Array(bytes.buffer);
  }
  return array.numbers;
}

/** One quantity of one run: `width` columns over `steps`. */
class Series {
  constructor(raw, names) {
    this.raw = raw;
    this.names = names;
    [this.height, this.width] = raw.values.shape;
  }

  get steps() {
    return decode(this.raw.steps);
  }

  at(row, column) {
    return decode(this.raw.values)[row * this.width + column];
  }

  column(column) {
    return Array.from({ length: this.height }, (_, row) => this.at(row, column));
  }

  /** The first value that is a number, and the last; NaN without. */
  first(column) {
    for (let row = 0; row < this.height; row += 1) {
      if (Number.isFinite(this.at(row, column))) return this.at(row, column);
    }
    return NaN;
  }

  last(column) {
    for (let row = this.height - 1; row >= 0; row -= 1) {
      if (Number.isFinite(this.at(row, column))) return this.at(row, column);
    }
    return NaN;
  }
}

const REPORT = JSON.parse(document.getElementById("data").textContent);

for (const layer of Object.values(REPORT.layers)) {
  const names = layer.by ? REPORT.spaces[layer.by].names : null;
  layer.runs = layer.runs.map((raw) => raw && new Series(raw, names ?? raw.names));
}

/** Return the mean of a column over runs, where all have it, with the standard error of the mean. */
function meanOf(seriesOfRuns, name) {
  const [first, ...others] = seriesOfRuns.map((series) => {
    const values = series.column(series.names.indexOf(name));
    return new Map(values.map((value, row) => [series.steps[row], value]));
  });
  const steps = [...first.keys()].filter((step) => others.every((other) => other.has(step)));
  const n = seriesOfRuns.length;
  const values = [];
  const errors = [];
  for (const step of steps) {
    const all = [first, ...others].map((each) => each.get(step));
    const mean = all.reduce((sum, value) => sum + value, 0) / n;
    const squares = all.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    values.push(mean);
    errors.push(n > 1 ? Math.sqrt(squares / (n - 1) / n) : NaN);
  }
  return { steps, values, errors };
}

/** Return a name with its label, as a space has it. */
function labelled(space, index) {
  const name = space.names[index];
  const label = space.labels[name];
  return label ? `${name} (${label})` : name;
}

const FOUR_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 }); // made once: that is slow

/** Return a number with up to four digits. */
function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return FOUR_DIGITS.format(value);
}
