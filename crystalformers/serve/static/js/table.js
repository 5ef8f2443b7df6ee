// All structures as a table: sorting, opening one in the 3D view, download as CSV.

import { byId, make, number } from "./dom.js";
import { store } from "./store.js";

const MOST_SHOWN = 1000;

let order = { column: null, descending: false };

/** The columns, with the same names as those of `crystalformers predict -o out.csv`. */
function columns() {
  const good = store.rows.filter((row) => !row.error);
  const any = (read) => good.some((row) => read(row) !== undefined);
  const found = [
    { name: "name", title: "Structure", text: true, value: (row) => row.name },
    { name: "formula", title: "Formula", text: true, value: (row) => row.formula },
    { name: "n_atoms", title: "Atoms", value: (row) => row.n_atoms },
  ];
  for (const [target, unit] of Object.entries(store.about.units)) {
    const header = unit ? ` (${unit})` : "";
    found.push({ name: `${target}${header}`, title: `${target.replaceAll("_", " ")}${header}`, value: (row) => row.values?.[target] });
    for (const kind of ["std", "low", "high"]) {
      const value = (row) => row[kind]?.[target];
      if (any(value)) found.push({ name: `${target}_${kind}${header}`, title: kind, value });
    }
  }
  const percentile = (row) => row.distance_percentile;
  if (any(percentile)) found.push({ name: "distance_percentile", title: "percentile", value: percentile });
  found.push({ name: "flag", title: "Flag", text: true, value: (row) => row.flag });
  return found;
}

/** The rows in the order of a column; those without a value come last. */
function sorted(column) {
  if (!column) return store.rows;
  const sign = order.descending ? -1 : 1;
  return store.rows.toSorted((a, b) => {
    const [x, y] = [column.value(a), column.value(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (column.text ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  });
}

function cell(column, row, open) {
  const value = column.value(row);
  if (column.name === "name") {
    return make("td", { class: "text" }, make("button", { type: "button", text: value, onclick: () => open(row.id) }));
  }
  const kind = [column.text && "text", column.name === "flag" && value && "long flagged"].filter(Boolean).join(" ");
  return make("td", { class: kind || null, text: column.text ? value ?? "" : number(value) });
}

function line(row, shown, open) {
  if (!row.error) return make("tr", {}, ...shown.map((column) => cell(column, row, open)));
  const reason = row.error.replace(`${row.name}: `, "");
  return make("tr", {}, make("td", { class: "text", text: row.name }),
    make("td", { class: "text long error", colspan: shown.length - 1, text: reason }));
}

function show(open) {
  const shown = columns();
  const column = shown.find((one) => one.name === order.column);
  const head = shown.map((one) => {
    const sort = one !== column ? "none" : order.descending ? "descending" : "ascending";
    const button = make("button", { type: "button", text: one.title, onclick: () => {
      order = { column: one.name, descending: one === column && !order.descending };
      show(open);
      byId("rows").querySelector(`[data-column="${CSS.escape(one.name)}"]`).focus();
    } });
    button.dataset.column = one.name;
    return make("th", { scope: "col", "aria-sort": sort, class: one.text ? "text" : null }, button);
  });
  const rows = sorted(column).slice(0, MOST_SHOWN).map((row) => line(row, shown, open));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  byId("rows").replaceChildren(...(store.rows.length ? [table] : []));
  byId("table-empty").textContent = store.rows.length > MOST_SHOWN
    ? `The first ${MOST_SHOWN} of ${store.rows.length} structures; the CSV has all of them.`
    : "No structure yet. Drop files anywhere on this page.";
  byId("table-empty").hidden = store.rows.length > 0 && store.rows.length <= MOST_SHOWN;
  byId("download").disabled = !store.rows.length;
  byId("table-count").textContent = store.rows.length;
  byId("table-count").hidden = !store.rows.length;
}

/** The table as CSV, all digits, in the order shown. */
export function csv() {
  const shown = [...columns(), { name: "error", value: (row) => row.error }];
  const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = sorted(shown.find((one) => one.name === order.column)).map((row) =>
    shown.map((column) => quote(String(column.value(row) ?? ""))).join(","));
  return [shown.map((column) => quote(column.name)).join(","), ...lines].join("\r\n") + "\r\n";
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv;charset=utf-8" }));
  make("a", { href: url, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Start the table; `open(id)` shows a structure in 3D. */
export function startTable(open) {
  byId("download").addEventListener("click", download);
  store.addEventListener("change", () => show(open));
}
