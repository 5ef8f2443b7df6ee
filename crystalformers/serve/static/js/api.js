// Requests to the server that this page comes from, and to no other.

import { byId } from "./dom.js";

/** An error whose message is a sentence of the library. */
export class ServerError extends Error {}

async function send(path, options) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new ServerError("The server does not answer; is it still running?");
  }
  if (answer.status === 401) {
    sessionStorage.setItem("token", await askForToken());
    return send(path, options);
  }
  let data;
  try {
    data = await answer.json();
  } catch {
    throw new ServerError(`The server answered with status ${answer.status}.`);
  }
  if (!answer.ok) throw new ServerError(data.error?.message ?? `The server answered with status ${answer.status}.`);
  return data;
}

let asking;

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("token-dialog");
    dialog.showModal();
    dialog.addEventListener("close", () => {
      asking = undefined;
      resolve(byId("token").value);
    }, { once: true });
  });
  return asking;
}

export const get = (path) => send(path, {});

export const post = (path, body) =>
  send(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
