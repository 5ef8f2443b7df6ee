// The HTTP API, from its own OpenAPI description.

import { byId, make } from "./dom.js";

const api = await (await fetch("/openapi.json")).json();

const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);

/** A text with its parts between backticks as code. */
const prose = (text) => text.split("`").map((part, k) => (k % 2 ? make("code", { text: part }) : part));

function type(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(type).join(" or ");
  if (schema.type === "array") return schema.items ? `list of ${type(schema.items)}` : "list";
  return schema.type ?? "any";
}

function table(rows) {
  const head = make("tr", {}, ...["name", "type", "meaning"].map((text) => make("th", { scope: "col", text })));
  const body = rows.map((row) => make("tr", {}, ...row.map((text) => make("td", { text }))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

const fields = (schema) =>
  table(Object.entries(schema.properties).map(([name, field]) => [name, type(field), field.description ?? ""]));

/** A value that the schema allows, from the examples in the description. */
function example(schema) {
  const one = schema.examples?.[0] ?? schema.default;
  if (one !== undefined) return one;
  const known = resolve(schema);
  return known.properties ? Object.fromEntries((known.required ?? []).map((name) => [name, example(known.properties[name])])) : null;
}

function operation(path, method, about) {
  const parts = [make("p", {}, ...prose(about.description ?? about.summary ?? ""))];
  if (about.parameters) {
    parts.push(make("h3", { text: "Parameters" }), table(about.parameters.map((p) => [p.name, type(p.schema), p.description ?? ""])));
  }
  const ref = about.requestBody?.content["application/json"].schema;
  if (ref) {
    parts.push(make("h3", { text: "Body" }), fields(resolve(ref)));
    for (const name of ["StructureText", "Atoms"]) {
      parts.push(make("h3", { text: name }), fields(api.components.schemas[name]));
    }
    const body = JSON.stringify(example(ref), null, 1).replaceAll("'", "'\\''");
    const command = `curl ${location.origin}${path} -H 'Content-Type: application/json' -d '${body}'`;
    parts.push(make("h3", { text: "Example" }), make("pre", { tabindex: 0, text: command }));
  }
  const errors = Object.entries(about.responses).filter(([status]) => Number(status) >= 400);
  if (errors.length) {
    parts.push(make("h3", { text: "Errors" }), table(errors.map(([status, one]) => [status, "error", one.description])));
  }
  const title = make("summary", {}, make("span", { class: "method", text: method.toUpperCase() }), make("h2", { text: path }),
    make("span", { class: "note" }, ...prose((about.description ?? about.summary ?? "").split("\n")[0].split(/[.:] /)[0])));
  return make("details", { class: "card" }, title, ...parts);
}

byId("about").replaceChildren(...prose(api.info.description));
byId("paths").replaceChildren(...Object.entries(api.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, about]) => operation(path, method, about))));
