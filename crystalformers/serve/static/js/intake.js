// Files that are dropped or chosen, pasted text and examples: to the server, and its answers to the store.

import { get, post } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { store } from "./store.js";

const MOST_BYTES = 6e6; // of one request; a larger file goes alone
const MOST_FILES = 200;
const MOST_LISTED = 200;

/** A file as the API takes it: text if it is UTF-8, else base64. */
async function entryOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    return { name: file.name, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch {
    const url = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(new Blob([bytes]));
    });
    return { name: file.name, base64: url.slice(url.indexOf(",") + 1) };
  }
}

/** Entries in parts that one request can hold. */
function* parts(entries) {
  let part = [], bytes = 0;
  for (const entry of entries) {
    const size = (entry.text ?? entry.base64).length;
    if (part.length && (bytes + size > MOST_BYTES || part.length === MOST_FILES)) {
      yield part;
      part = [], bytes = 0;
    }
    part.push(entry);
    bytes += size;
  }
  if (part.length) yield part;
}

/** Predict entries; an error of a request stands next to each of its files. */
export async function predict(entries) {
  tell(`Predicting ${entries.length === 1 ? entries[0].name || "the pasted text" : `${entries.length} files`} …`);
  let good = 0, bad = 0;
  for (const part of parts(entries)) {
    let rows, about;
    try {
      about = await post("/api/predict", { structures: part, atoms: true });
      rows = about.rows;
    } catch (error) {
      rows = part.map((entry) => ({ name: entry.name || "pasted text", error: error.message }));
    }
    good += rows.filter((row) => !row.error).length;
    bad += rows.filter((row) => row.error).length;
    store.add(rows, about);
  }
  const many = (count) => `${count} structure${count === 1 ? "" : "s"}`;
  tell([good ? `${many(good)} predicted.` : "", bad ? `${many(bad)} could not be used.` : ""].join(" ").trim());
}

async function takeFiles(files) {
  if (!files.length) return;
  const entries = await Promise.all([...files].map((file) => entryOf(file).catch((error) => ({ name: file.name, error }))));
  const unread = entries.filter((entry) => entry.error);
  if (unread.length) {
    store.add(unread.map(({ name }) => ({ name, error: "The browser cannot read it; choose files, not folders." })));
  }
  const read = entries.filter((entry) => !entry.error);
  if (read.length) await predict(read);
}

function acceptDrops() {
  let depth = 0;
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    takeFiles(event.dataTransfer.files);
  });
}

async function showExamples() {
  for (const example of await get("/api/examples")) {
    const label = example.name.replace(".cif", "");
    byId("examples").append(make("button", { type: "button", text: label, onclick: () => predict([example]) }));
  }
}

function showList() {
  const listed = store.rows.slice(-MOST_LISTED);
  const items = listed.map((row) => {
    if (row.error) {
      return make("li", { class: "failed" }, make("strong", { text: row.name }), make("span", { text: row.error.replace(`${row.name}: `, "") }));
    }
    const about = `${row.name}${row.flag ? " · unlike the training data" : ""}`;
    const button = make("button", { type: "button", onclick: () => store.select(row.id) },
      make("strong", { text: row.formula }), make("span", { class: "name", text: about }));
    button.dataset.id = row.id;
    return make("li", {}, button);
  });
  if (store.rows.length > MOST_LISTED) items.push(make("li", { class: "note", text: "All others are in the table." }));
  byId("list").replaceChildren(...items);
  byId("loaded").hidden = !store.rows.length;
  markSelected();
}

function markSelected() {
  const list = byId("list");
  for (const button of list.querySelectorAll("button")) {
    const current = Number(button.dataset.id) === store.selected?.id;
    button.setAttribute("aria-current", String(current));
    if (current) list.scrollTop = button.offsetTop - list.offsetTop - list.clientHeight / 2; // the page itself stays
  }
}

export function startIntake() {
  acceptDrops();
  byId("files").addEventListener("change", (event) => {
    takeFiles([...event.target.files]);
    event.target.value = "";
  });
  byId("paste-open").addEventListener("click", (event) => {
    const form = byId("paste");
    form.hidden = !form.hidden;
    event.currentTarget.setAttribute("aria-expanded", String(!form.hidden));
    if (!form.hidden) byId("paste-text").focus();
  });
  byId("paste").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("paste-text").value;
    if (text.trim()) predict([{ name: "", text }]);
  });
  addEventListener("paste", (event) => {
    if (event.target.closest?.("textarea, input")) return;
    if (event.clipboardData.files.length) takeFiles([...event.clipboardData.files]);
    else if (event.clipboardData.getData("text").trim()) predict([{ name: "", text: event.clipboardData.getData("text") }]);
  });
  byId("clear").addEventListener("click", () => {
    store.clear();
    byId("files").focus();
  });
  store.addEventListener("change", showList);
  store.addEventListener("select", markSelected);
  showExamples();
}
