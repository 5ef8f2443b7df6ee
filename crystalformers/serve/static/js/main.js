// The page: views and their tabs, the theme, and which structure is shown.

import { get } from "./api.js";
import { offerAtoms, showAtom, startAttention } from "./attention.js";
import { byId, make, tell } from "./dom.js";
import { openElements } from "./elements.js";
import { startIntake } from "./intake.js";
import { modelFacts, showKnown, showPredictions } from "./predictions.js";
import { store } from "./store.js";
import { startTable } from "./table.js";
import { recolour, show, startViewer } from "./viewer.js";

const VIEWS = ["structures", "table", "elements"];

function openView(name) {
  for (const view of VIEWS) {
    byId(view).hidden = view !== name;
    byId(`tab-${view}`).setAttribute("aria-selected", String(view === name));
    byId(`tab-${view}`).tabIndex = view === name ? 0 : -1;
  }
  history.replaceState(null, "", name === "structures" ? "/" : `#${name}`);
  if (name === "elements") openElements().catch((error) => tell(error.message));
}

function startTabs() {
  VIEWS.forEach((view, k) => {
    byId(`tab-${view}`).addEventListener("click", () => openView(view));
    byId(`tab-${view}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = VIEWS[(k + step + VIEWS.length) % VIEWS.length];
      openView(next);
      byId(`tab-${next}`).focus();
    });
  });
  const wanted = location.hash.slice(1);
  openView(VIEWS.includes(wanted) ? wanted : "structures");
}

function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const mark = () => {
    byId("theme").setAttribute("aria-pressed", String(isDark()));
    recolour();
  };
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    mark();
  });
  system.addEventListener("change", mark);
  mark();
}

function showSelected() {
  const row = store.selected;
  byId("welcome").hidden = row !== null;
  byId("detail").hidden = row === null;
  if (!row) return;
  const atoms = `${row.n_atoms} atom${row.n_atoms === 1 ? "" : "s"} in the cell`;
  byId("title").replaceChildren(row.formula, make("small", { text: `${row.name} · ${atoms}` }));
  showPredictions(row);
  show(row.atoms, row.formula);
  offerAtoms(row);
  showKnown(row);
}

async function start() {
  startTabs();
  startViewer(showAtom);
  startTheme();
  store.addEventListener("select", showSelected);
  startIntake();
  startTable((id) => {
    openView("structures");
    store.select(id);
    byId("viewer").focus();
  });
  const { models, search } = await get("/api/models");
  store.about.models = models;
  store.searches = search;
  startAttention();
  byId("model-facts").replaceChildren(...modelFacts());
  document.body.dataset.ready = "true";
}

start().catch((error) => tell(error.message));
