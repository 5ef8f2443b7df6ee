// The crystal in 3D, drawn by 3Dmol.js: atoms, cell, and lines to the images that the chosen atom attends to.

import { byId, make } from "./dom.js";

const PERIODS = [2, 10, 18, 36, 54, 86];
const NUMBER_OF = Object.fromEntries(
  ("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb " +
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au " +
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf").split(" ").map((symbol, k) => [symbol, k + 1]));
const LINE = "#e8590c";
const WIDEST = 0.15; // radius of the line with the largest weight, Å
const MOST_ATOMS = 4000;
const TURN = 6; // degrees of an arrow key

let viewer = null;
let shown = null; // { symbols, frac_coords, lattice }
let drawn = []; // [{ site, x, y, z }]
let chosen = null; // one of them
let images = null; // the model of 3Dmol.js with the images beyond the cell
let lines = []; // what the chosen atom attends to
let framed = null; // the atom whose lines the view was centred on
let stale = false; // whether something changed while the view was hidden, where nothing can be drawn
let pickAtom = () => {}; // called with the number of an atom that is clicked
const EDGE = 0.03; // radius of the edges of the cell, Å

/** Radius of an atom, Å; it grows with the period. */
const radius = (symbol) => 0.3 + 0.07 * PERIODS.filter((last) => NUMBER_OF[symbol] > last).length;

const colour = (symbol) => {
  const jmol = globalThis.$3Dmol.elementColors.Jmol;
  return `#${(jmol[symbol] ?? 0xb0b0b0).toString(16).padStart(6, "0")}`;
};

/** A colour as the browser computes it, `rgb(1, 2, 3)`, as 3Dmol.js takes it. */
const hex = (css) => `#${css.match(/[\d.]+/g).slice(0, 3).map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;

const cartesian = (frac, lattice) => [0, 1, 2].map((k) => frac[0] * lattice[0][k] + frac[1] * lattice[1][k] + frac[2] * lattice[2][k]);
const point = ([x, y, z]) => ({ x, y, z });

/** Start the view; `pick(site)` is called with the number of an atom that is clicked. */
export function startViewer(pick) {
  pickAtom = pick;
  const box = byId("viewer");
  try {
    viewer = globalThis.$3Dmol.createViewer(box, { antialias: true });
    if (!viewer?.getCanvas()) throw new Error("no canvas");
  } catch {
    viewer = null;
    box.replaceChildren(make("p", { text: "This browser has no WebGL, so the structure cannot be drawn. Everything else works." }));
    return;
  }
  box.addEventListener("keydown", turn);
  new ResizeObserver(appear).observe(box);
  byId("reset").addEventListener("click", fit);
  byId("cells").addEventListener("change", draw);
}

const hidden = () => !byId("viewer").clientWidth;

/** Draw what changed while the view was hidden. */
function appear() {
  if (hidden()) return;
  viewer.resize();
  if (!stale) return;
  stale = false;
  draw();
  fit();
}

function turn(event) {
  const moves = {
    ArrowLeft: () => viewer.rotate(-TURN, "vy"), ArrowRight: () => viewer.rotate(TURN, "vy"),
    ArrowUp: () => viewer.rotate(-TURN, "vx"), ArrowDown: () => viewer.rotate(TURN, "vx"),
    "+": () => viewer.zoom(1.15), "=": () => viewer.zoom(1.15), "-": () => viewer.zoom(1 / 1.15),
  };
  if (!moves[event.key] || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  moves[event.key]();
}

function fit() {
  if (!shown || hidden()) return;
  viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
  viewer.rotate(-72, "x");
  viewer.rotate(-24, "vy");
  viewer.rotate(8, "vx");
  frame();
}

/** Centre all that is drawn, in a size that fits, without turning it. */
function frame() {
  if (hidden()) return;
  const { clientWidth, clientHeight } = byId("viewer");
  viewer.zoomTo();
  viewer.zoom(Math.min(1.05, Math.max(0.7, (0.95 * clientWidth) / clientHeight)));
}

/** Show a structure. */
export function show(atoms, formula) {
  shown = atoms;
  lines = [], chosen = null, framed = null;
  const symbols = [...new Set(atoms.symbols)];
  byId("viewer").setAttribute("aria-label", `${formula} in 3D, ${atoms.symbols.length} atoms of ${symbols.join(", ")}`);
  if (!viewer) return;
  byId("cells").value = "1";
  draw();
  fit();
}

/** Fractional coordinates of the copies of an atom in `cells` cells, those on the far faces among them. */
function* copies(frac, cells) {
  const along = frac.map((value) => {
    const wrapped = ((value % 1) + 1) % 1;
    const first = wrapped > 1 - 1e-3 ? wrapped - 1 : wrapped;
    return Array.from({ length: cells + 1 }, (_, n) => first + n).filter((place) => place < cells + 1e-3);
  });
  for (const a of along[0]) for (const b of along[1]) for (const c of along[2]) yield [a, b, c];
}

function draw() {
  if (!shown) return;
  const cells = Number(byId("cells").value);
  drawn = [];
  shown.frac_coords.forEach((frac, site) => {
    for (const copy of copies(frac, cells)) {
      if (drawn.length < MOST_ATOMS) drawn.push({ site, elem: shown.symbols[site], ...point(cartesian(copy, shown.lattice)) });
    }
  });
  if (chosen) chosen = mostCentral(chosen.site);
  if (hidden()) {
    stale = true;
    return;
  }
  if (!viewer.getCanvas().width) viewer.resize(); // it was hidden until now
  viewer.removeAllModels();
  images = null;
  const model = viewer.addModel();
  model.addAtoms(drawn.map((atom, serial) => ({ ...atom, serial, bonds: [], bondOrder: [] })));
  for (const symbol of new Set(shown.symbols)) {
    model.setStyle({ elem: symbol }, { sphere: { radius: radius(symbol), color: colour(symbol) } });
  }
  drawShapes();
}

function setClicks() {
  viewer.setClickable({}, true, (atom) => {
    chosen = drawn[atom.serial] ?? null; // null for an image beyond the cell
    pickAtom(atom.site);
  });
  viewer.setHoverable({}, true,
    () => (byId("viewer").style.cursor = "pointer"), () => (byId("viewer").style.cursor = ""));
}

/** The copy of an atom that is nearest to the centre of what is drawn. */
function mostCentral(site) {
  const centre = ["x", "y", "z"].map((axis) => drawn.reduce((sum, atom) => sum + atom[axis], 0) / drawn.length);
  const far = ({ x, y, z }) => Math.hypot(x - centre[0], y - centre[1], z - centre[2]);
  const copies = drawn.filter((atom) => atom.site === site);
  return copies.length ? copies.reduce((best, copy) => (far(copy) < far(best) - 1e-6 ? copy : best)) : null;
}

/** Draw lines from an atom to images, `[{ source, symbol, vector, weight }]`; `self` is the weight of the atom itself. */
export function attend(site, seen, self) {
  lines = seen;
  if (!viewer) return;
  if (chosen?.site !== site) chosen = mostCentral(site);
  drawShapes();
  if (framed !== chosen) frame();
  framed = chosen;
  showLegend(self);
}

function drawShapes() {
  if (hidden()) {
    stale = true;
    return;
  }
  viewer.removeAllShapes();
  const { lattice } = shown;
  const { color: ink, backgroundColor } = getComputedStyle(byId("viewer"));
  viewer.setBackgroundColor(hex(backgroundColor), 1);
  for (const axis of [0, 1, 2]) {
    const [u, v] = [0, 1, 2].filter((other) => other !== axis);
    for (const corner of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const from = [0, 0, 0];
      from[u] = corner[0], from[v] = corner[1];
      const to = from.with(axis, 1);
      const ends = { start: point(cartesian(from, lattice)), end: point(cartesian(to, lattice)) };
      viewer.addCylinder({ ...ends, radius: EDGE, color: hex(ink), fromCap: 1, toCap: 1 });
    }
  }
  if (images) viewer.removeModel(images);
  images = viewer.addModel();
  if (chosen) {
    viewer.addSphere({ center: chosen, radius: radius(shown.symbols[chosen.site]) * 1.25, color: LINE, opacity: 0.45 });
    drawLines();
  }
  setClicks();
  viewer.render();
}

function drawLines() {
  const { x, y, z } = chosen;
  const largest = Math.max(...lines.map((line) => line.weight));
  const beyond = [];
  for (const { source, symbol, vector, weight } of lines) {
    const end = { x: x + vector[0], y: y + vector[1], z: z + vector[2] };
    const width = Math.max(0.012, (WIDEST * weight) / largest);
    viewer.addCylinder({ start: { x, y, z }, end, radius: width, color: LINE, fromCap: 1, toCap: 1 });
    const there = drawn.some((atom) => Math.hypot(atom.x - end.x, atom.y - end.y, atom.z - end.z) < 0.05);
    if (!there) beyond.push({ ...end, elem: symbol, site: source, serial: -1, bonds: [], bondOrder: [] });
  }
  images.addAtoms(beyond);
  for (const symbol of new Set(beyond.map((atom) => atom.elem))) {
    images.setStyle({ elem: symbol }, { sphere: { radius: radius(symbol) * 0.85, color: colour(symbol), opacity: 0.7 } });
  }
}

/** Redraw in the colours of the theme. */
export const recolour = () => shown && viewer && drawShapes();

function showLegend(self) {
  const items = [...new Set(shown.symbols)].map((symbol) => {
    const dot = make("i");
    dot.style.background = colour(symbol);
    return make("span", {}, dot, symbol);
  });
  if (lines.length) {
    const percent = (100 * Math.max(...lines.map((line) => line.weight))).toPrecision(2);
    items.push(make("span", {}, make("i", { class: "weight" }), `widest line: ${percent} % of the attention`));
  }
  if (self !== null) items.push(make("span", { class: "note", text: `${(100 * self).toPrecision(2)} % on the atom itself` }));
  byId("legend").replaceChildren(...items);
}
