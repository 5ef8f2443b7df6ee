// The predictions of the selected structure: values, intervals beside those of the other structures, and the flag.

import { post } from "./api.js";
import { byId, make, number, svg, words } from "./dom.js";
import { store } from "./store.js";

/** The interval on a line that spans all structures, whose values are ticks. */
function range(row, target) {
  const values = store.rows.filter((other) => !other.error);
  const ends = values.flatMap((other) => [other.low?.[target], other.high?.[target], other.values[target]]).filter(Number.isFinite);
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  const place = (value) => 6 + (288 * (value - least)) / Math.max(most - least, 1e-12);
  const ticks = values.filter((other) => other !== row).slice(-300).map((other) => {
    const x = place(other.values[target]);
    return svg("line", { class: "other", x1: x, x2: x, y1: 8, y2: 18 });
  });
  const parts = [svg("line", { class: "axis", x1: 2, x2: 298, y1: 13, y2: 13 }), ...ticks];
  if (row.low?.[target] !== undefined) {
    const [from, to] = [place(row.low[target]), place(row.high[target])];
    parts.push(svg("rect", { class: "interval", x: from, y: 6, width: Math.max(to - from, 1), height: 14, rx: 4 }));
  }
  parts.push(svg("circle", { class: "dot", cx: place(row.values[target]), cy: 13, r: 5 }));
  return svg("svg", { class: "range", viewBox: "0 0 300 26", "aria-hidden": "true", preserveAspectRatio: "none" }, ...parts);
}

/** Writes values with as many decimals as half the interval needs for two digits; four digits without one. */
function precision(row, name) {
  if (row.low?.[name] === undefined) return number;
  const half = (row.high[name] - row.low[name]) / 2;
  const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(half)), 0), 8);
  return (value) => value.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−");
}

function target(row, name) {
  const unit = store.about.units[name];
  const shown = precision(row, name);
  const parts = [
    make("h3", { text: words(name) }),
    make("p", { class: "value number" }, `${shown(row.values[name])} `, make("small", { text: unit })),
  ];
  if (store.rows.filter((other) => !other.error).length > 1) parts.push(range(row, name));
  if (row.low?.[name] !== undefined) {
    const share = Math.round(100 * store.about.coverage);
    parts.push(make("p", { class: "note number", text: `${share} % interval: ${shown(row.low[name])} to ${shown(row.high[name])} ${unit}` }));
  }
  if (row.std?.[name] !== undefined) {
    parts.push(make("p", { class: "note number", text: `standard deviation over models: ${number(row.std[name], 2)} ${unit}` }));
  }
  return make("div", { class: "target" }, ...parts);
}

export function showPredictions(row) {
  const parts = [];
  if (row.flag) parts.push(make("div", { class: "flag", role: "note" }, make("strong", { text: "Unlike the training data" }), row.flag));
  for (const name of Object.keys(store.about.units)) parts.push(target(row, name));
  if (row.distance_percentile !== undefined) {
    const percent = number(row.distance_percentile, 3);
    parts.push(make("p", { class: "note", text: `${percent} % of held-out crystals are nearer to the training crystals than this one.` }));
  }
  byId("predictions").replaceChildren(...parts);
}

/** What the models are and how far they are off, for the empty page. */
export function modelFacts() {
  return store.about.models.map((model) => {
    const facts = [["Model", model.name]];
    if (model.training_data) facts.push(["Trained on", `${number(model.training_crystals, 6)} crystals, ${model.training_data}`]);
    for (const { name, unit, test_mae: mae, test_crystals: count } of model.targets) {
      facts.push([words(name), mae === null ? unit : `mean error ${mae.toPrecision(2)} ${unit} on ${number(count, 6)} test crystals`]);
    }
    return make("dl", {}, ...facts.flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })]));
  });
}

/** Known crystals as a table, nearest first, with what the model predicts for them. */
function knownTable(nearest) {
  const targets = Object.entries(store.about.units).filter(([name]) => nearest.some((one) => one[name] !== undefined));
  const heads = ["Crystal", "Name", "Distance", ...targets.map(([name, unit]) => `${words(name)} (${unit})`)];
  const rows = nearest.map((one) => {
    const cells = [one.formula, one.name.split("/").at(-1), one.distance.toFixed(2), ...targets.map(([name]) => number(one[name]))];
    return make("tr", {}, ...cells.map((text, k) => make("td", { class: k < 2 ? "text" : null, text })));
  });
  const head = make("tr", {}, ...heads.map((text, k) => make("th", { scope: "col", class: k < 2 ? "text" : null, text })));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

/** List the known crystals nearest to a structure, if the server has an index of them. */
export async function showKnown(row) {
  byId("known-card").hidden = !store.searches;
  if (!store.searches) return;
  let shown;
  try {
    const { rows: [found] } = await post("/api/search", { structures: [{ name: row.name, atoms: row.atoms }], count: 5 });
    shown = found.error ?? knownTable(found.nearest);
  } catch (error) {
    shown = error.message;
  }
  if (store.selected === row) byId("known").replaceChildren(shown);
}
