// The structures of this page and the one that is shown. Views listen for "change" (of the list) and "select".

export const store = new EventTarget();

/** Rows of predictions: `id`, `name`, and either `error` or `formula`, `values`, `atoms`... */
store.rows = [];
store.selected = null;
/** What /api/models and /api/predict tell about models, units and coverage. */
store.about = { models: [], units: {}, coverage: null };
store.searches = false;

let next = 0;

store.add = (rows, about) => {
  if (about) store.about = { ...store.about, units: about.units, coverage: about.coverage };
  const added = rows.map((row) => ({ ...row, id: next++ }));
  store.rows.push(...added);
  store.dispatchEvent(new Event("change"));
  const first = added.find((row) => !row.error);
  if (first) store.select(first.id);
};

store.select = (id) => {
  store.selected = store.rows.find((row) => row.id === id && !row.error) ?? null;
  store.dispatchEvent(new Event("select"));
};

store.clear = () => {
  store.rows = [];
  store.dispatchEvent(new Event("change"));
  store.select(null);
};
