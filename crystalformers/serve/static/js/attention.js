// What an atom attends to: asked from the server for an atom, shown for the block and head of the sliders.

import { post } from "./api.js";
import { byId, make, number } from "./dom.js";
import { store } from "./store.js";
import { attend } from "./viewer.js";

const LEAST_DRAWN = 0.03; // share of the largest weight of a neighbour
const MOST_LISTED = 40;

let answer = null; // of /api/explain for one atom
let asked = 0;

/** Show an atom of the selected structure; the last block at first, as most is known there. */
export async function showAtom(site) {
  const row = store.selected;
  if (!row) return;
  byId("atom").value = String(site);
  const request = ++asked;
  const body = { structure: { name: row.name, atoms: row.atoms }, atom: site, model: byId("attention-model").value || null };
  try {
    const found = await post("/api/explain", body);
    if (request !== asked) return;
    const first = answer === null;
    answer = found;
    setSliders(first);
    update();
  } catch (error) {
    if (request !== asked) return;
    answer = null;
    attend(site, [], null);
    byId("attention").hidden = byId("images").hidden = true;
    byId("attention-note").textContent = error.message;
  }
}

function setSliders(first) {
  const { attention } = answer;
  byId("attention").hidden = byId("images").hidden = false;
  byId("block").max = String(attention.length - 1);
  if (first) byId("block").value = String(attention.length - 1);
  byId("head").max = String(seen().weight(0) === null ? 0 : seen().heads);
}

/** Images (or atoms, of heads in reciprocal space) of the chosen block, and the weight of each for a head. */
function seen() {
  const part = answer.attention[Number(byId("block").value)];
  const real = part.real ?? { heads: [], sigma: [], images: [] };
  const reciprocal = part.reciprocal ?? { heads: [], sigma: [], atoms: [] };
  const heads = real.heads.length + reciprocal.heads.length;
  const head = Math.min(Number(byId("head").value), heads); // 0: the mean
  const mean = (weights) => weights.reduce((sum, w) => sum + w, 0) / Math.max(weights.length, 1);
  const own = real.heads.indexOf(head - 1);
  const inReal = head === 0 ? real.heads.length > 0 : own >= 0;
  const column = inReal ? own : reciprocal.heads.indexOf(head - 1);
  const sigma = head === 0 ? null : (inReal ? real : reciprocal).sigma[column];
  const items = inReal ? real.images : reciprocal.atoms;
  return { heads, head, inReal, sigma, items, weight: (k) => (items[k] ? (head === 0 ? mean(items[k].weight) : items[k].weight[column]) : null) };
}

function update() {
  if (!answer) return;
  const { heads, head, inReal, sigma, items, weight } = seen();
  byId("head").max = String(heads);
  byId("block-value").textContent = `${Number(byId("block").value) + 1} of ${answer.attention.length}`;
  byId("head-value").textContent = head === 0 ? `mean over ${inReal ? answer.attention[Number(byId("block").value)].real.heads.length : heads}` : `${head} of ${heads}`;
  byId("head").setAttribute("aria-valuetext", byId("head-value").textContent);
  byId("block").setAttribute("aria-valuetext", byId("block-value").textContent);
  const ranked = items.map((item, k) => ({ ...item, weight: weight(k) })).sort((a, b) => b.weight - a.weight);
  const self = inReal ? ranked.find((item) => item.distance === 0) : null;
  const others = ranked.filter((item) => item !== self);
  const largest = others[0]?.weight ?? 0;
  const site = answer.attention[0].atom;
  attend(site, inReal ? others.filter((item) => item.weight >= LEAST_DRAWN * largest) : [], inReal ? (self?.weight ?? 0) : null);
  const width = sigma === null ? "" : ` The Gaussian of this head is ${number(sigma, 3)} Å wide.`;
  byId("attention-note").textContent = inReal
    ? `Atom ${site + 1} (${answer.symbols[site]}). Weights are per image; all of them add up to 100 %.${width}`
    : `This head sums in reciprocal space: each atom with all its images at once.${width}`;
  list(ranked, inReal);
}

/** Images of the same atom at the same distance with the same weight, as they are listed, as one with their `count`. */
function alike(ranked) {
  const groups = new Map();
  for (const item of ranked) {
    const key = [item.source, item.distance?.toFixed(3), (100 * item.weight).toFixed(2)].join(" ");
    groups.set(key, { ...item, count: (groups.get(key)?.count ?? 0) + 1 });
  }
  return [...groups.values()];
}

/** List the weights, largest first; those of several images are of each. */
function list(ranked, inReal) {
  const heads = inReal ? ["Images", "Distance (Å)", "Weight (%)"] : ["Atom", "Weight (%)"];
  const rows = alike(ranked).slice(0, MOST_LISTED).map((item) => {
    const many = inReal && item.distance === 0 ? " itself" : item.count > 1 ? ` × ${item.count}` : "";
    const cells = [`${item.symbol} ${item.source + 1}${many}`, ...(inReal ? [item.distance.toFixed(3)] : [])];
    return make("tr", {}, ...[...cells, (100 * item.weight).toFixed(2)].map((text) => make("td", { text })));
  });
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", text })));
  byId("images").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

/** The atoms of a structure in the list to choose from; the first is shown. */
export function offerAtoms(row) {
  answer = null;
  byId("atom").replaceChildren(...row.atoms.symbols.map((symbol, k) => make("option", { value: k, text: `${symbol} ${k + 1}` })));
  showAtom(0);
}

export function startAttention() {
  const models = store.about.models;
  byId("attention-model").replaceChildren(...models.map((model) => make("option", { value: model.name, text: model.name })));
  byId("model-choice").hidden = models.length < 2;
  byId("attention").addEventListener("submit", (event) => event.preventDefault());
  byId("atom").addEventListener("change", (event) => showAtom(Number(event.target.value)));
  byId("attention-model").addEventListener("change", () => {
    answer = null;
    showAtom(Number(byId("atom").value));
  });
  for (const slider of ["block", "head"]) byId(slider).addEventListener("input", update);
}
