// The periodic table of the element vectors: colours, neighbours, substitutes.

import { get } from "./api.js";
import { byId, inkOn, make, number, rgbOf } from "./dom.js";

// Viridis, from dark to light.
const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"].map(rgbOf);
const NEIGHBOURS = 10;

let data = null;
let chosen = null; // index of an element
let tiles = [];

const ramp = (share) => {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const k = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[k].map((c, j) => Math.round(c + (place - k) * (RAMP[k + 1][j] - c)));
};

/** What the elements are coloured by: a colour `[r, g, b]` and a text for each, and a legend. */
function colouring(name) {
  const { elements, properties } = data;
  if (name === "family" || name === "block") {
    const kinds = [...new Set(elements.map((element) => element[name]))].sort((a, b) => (a > b ? 1 : -1));
    const palette = name === "block" ? data.block_colours : data.family_colours;
    const colour = (kind) => rgbOf(Array.isArray(palette) ? palette[kind % palette.length] : palette[kind]);
    const label = (kind) => (name === "block" ? `${kind} block` : `family ${kind + 1}`);
    return {
      colours: elements.map((element) => colour(element[name])),
      notes: elements.map((element) => label(element[name])),
      legend: kinds.map((kind) => swatch(colour(kind), label(kind))),
    };
  }
  let values, unit = "", transform = (x) => x;
  if (name === "similarity") {
    values = chosen === null ? elements.map(() => null) : data.cosines[chosen];
  } else if (name === "crystals") {
    [values, unit, transform] = [elements.map((element) => element.crystals), "training crystals", Math.log10];
  } else {
    ({ values, unit } = properties.find((property) => property.name === name));
  }
  const known = values.filter((value) => value !== null && value !== undefined);
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const share = (value) => (transform(value) - transform(least)) / Math.max(transform(most) - transform(least), 1e-12);
  return {
    colours: values.map((value) => (value === null || value === undefined ? null : ramp(share(value)))),
    notes: values.map((value) => (value === null || value === undefined ? "unknown" : `${name} ${number(value)} ${unit}`)),
    legend: known.length ? bar(least, most, unit) : [make("span", { text: "Choose an element." })],
  };
}

function swatch(rgb, text) {
  const box = make("i");
  box.style.background = `rgb(${rgb})`;
  return make("span", {}, box, text);
}

function bar(least, most, unit) {
  const canvas = make("canvas", { width: 200, height: 1, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  for (let x = 0; x < 200; x++) {
    context.fillStyle = `rgb(${ramp(x / 199)})`;
    context.fillRect(x, 0, 1, 1);
  }
  return [make("span", { text: number(least) }), canvas, make("span", { text: `${number(most)} ${unit}` })];
}

function paint() {
  const { colours, notes, legend } = colouring(byId("colour").value);
  const near = chosen === null ? [] : ranked(chosen).slice(0, 5);
  tiles.forEach((tile, k) => {
    tile.style.background = colours[k] ? `rgb(${colours[k]})` : "var(--sunken)";
    tile.style.color = colours[k] ? inkOn(colours[k]) : "var(--ink)";
    tile.setAttribute("aria-pressed", String(k === chosen));
    tile.setAttribute("aria-label", `${data.elements[k].symbol}, ${notes[k]}`);
    tile.title = notes[k];
    tile.classList.toggle("near", near.includes(k));
    tile.tabIndex = k === (chosen ?? 0) ? 0 : -1;
  });
  byId("scale").replaceChildren(...legend);
}

const ranked = (k) => data.cosines[k].map((_, j) => j).filter((j) => j !== k).sort((a, b) => data.cosines[k][b] - data.cosines[k][a]);

async function choose(k) {
  chosen = k;
  paint();
  const element = data.elements[k];
  const facts = data.properties.map(({ name, unit, values }) => [unit ? `${name} (${unit})` : name, values[k] === null ? "–" : number(values[k])]);
  if (element.crystals !== null) facts.push(["training crystals", number(element.crystals, 6)]);
  const list = make("ol", {}, ...ranked(k).slice(0, NEIGHBOURS).map(neighbour));
  const substitutes = make("div");
  byId("element").replaceChildren(
    make("p", {}, make("span", { class: "big", text: element.symbol }), `number ${element.number}, family ${element.family + 1}`),
    make("h3", { text: "Most similar (cosine)" }), list, substitutes,
    make("dl", {}, ...facts.flatMap(([term, text]) => [make("dt", { text: term }), make("dd", { text })])));
  const found = await get(`/api/elements/${element.symbol}?count=8&table=${encodeURIComponent(data.table)}`);
  if (chosen !== k) return;
  const names = found.substitutes.map((one) => one.symbol).join(", ") || "none";
  const states = found.oxidation_states.map((state) => (state > 0 ? `+${state}` : `${state}`.replace("-", "−"))).join(", ");
  substitutes.replaceChildren(
    make("h3", { text: "Could replace it" }),
    make("p", { text: names }),
    make("p", { class: "note", text: `Similar elements that share an oxidation state (${states || "none"}).` }));
}

function neighbour(j) {
  const cosine = data.cosines[chosen][j];
  return make("li", {}, make("button", { type: "button", onclick: () => { choose(j); tiles[j].focus(); } },
    make("strong", { text: data.elements[j].symbol }),
    make("meter", { min: 0, max: 1, value: Math.max(cosine, 0), "aria-hidden": "true" }),
    make("span", { text: cosine.toFixed(2).replace("-", "−") })));
}

/** Arrow keys go to the nearest element in that direction. */
function move(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const from = data.elements[tiles.indexOf(document.activeElement)];
  if (!step || !from) return;
  event.preventDefault();
  const distance = (to) => {
    const [x, y] = [to.column - from.column, to.row - from.row];
    const along = x * step[0] + y * step[1];
    return along > 0.2 ? along + 4 * Math.abs(x * step[1] + y * step[0]) : Infinity;
  };
  const best = data.elements.map(distance).reduce((least, d, k, all) => (d < all[least] ? k : least), 0);
  if (distance(data.elements[best]) < Infinity) tiles[best].focus();
}

async function load(name) {
  data = await get(name ? `/api/elements?table=${encodeURIComponent(name)}` : "/api/elements");
  chosen = null;
  const place = (tile, { column, row }) => {
    tile.style.gridColumn = String(Math.round(column));
    tile.style.gridRow = String(Math.round(row) + (row > 7 ? 1 : 0)); // a gap before the f block
    return tile;
  };
  tiles = data.elements.map((element, k) => place(make("button", { type: "button", onclick: () => choose(k) },
    make("small", { text: element.number, "aria-hidden": "true" }), element.symbol), element));
  const unknown = data.unknown.map((element) => place(make("span", { class: "unknown", text: element.symbol, title: "no vector" }), element));
  byId("periodic").replaceChildren(...[...tiles, ...unknown]);
  const names = ["family", "block", ...(data.elements[0].crystals === null ? [] : ["crystals"]), "similarity", ...data.properties.map((property) => property.name)];
  const titles = { crystals: "training crystals", similarity: "similarity to the chosen one" };
  const before = byId("colour").value;
  byId("colour").replaceChildren(...names.map((value) => make("option", { value, text: titles[value] ?? value })));
  if (names.includes(before)) byId("colour").value = before;
  byId("vectors").replaceChildren(...data.tables.map((value) => make("option", { value, text: value })));
  byId("vectors").value = data.table;
  paint();
  byId("element").replaceChildren(make("p", { class: "note", text: "Choose an element to see its neighbours." }));
}

let started = false;

/** Load the table when its view is first opened. */
export async function openElements() {
  if (started) return;
  started = true;
  byId("colour").addEventListener("change", paint);
  byId("vectors").addEventListener("change", (event) => load(event.target.value));
  byId("periodic").addEventListener("keydown", move);
  await load();
}
