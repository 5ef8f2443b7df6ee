// Small helpers to build and change the page. Text is always set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `on...`, attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An SVG element with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

let clearing;

/** Tell what happened, also to screen readers. */
export function tell(text) {
  byId("status").textContent = text;
  clearTimeout(clearing);
  clearing = setTimeout(() => (byId("status").textContent = ""), 6000);
}

/** A number with some significant digits and a typographic minus sign. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1).replaceAll("-", "−");
  return value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");
}

/** `formation_energy_per_atom` as words. */
export const words = (name) => name.replaceAll("_", " ");

/** Black or white, whichever is easier to read on a colour `[r, g, b]`, 0 to 255 (relative luminance of WCAG). */
export function inkOn(rgb) {
  const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

/** `#rrggbb` as `[r, g, b]`. */
export const rgbOf = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
