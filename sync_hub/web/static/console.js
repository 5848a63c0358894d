"use strict";
/* Refreshes the page in place, keeps focus and open parts, and says plainly when the hub does not answer. */

const refreshSeconds = Number(document.body.dataset.refresh);
const live = document.getElementById("live");
const stale = document.getElementById("stale");
const said = document.getElementById("said");
const dialog = document.getElementById("pause");
const confirming = document.getElementById("confirm");
let answeredAt = Date.now();
let pausing = "";
let confirmed = null;
let hushing = 0;
let reloading = false; /* a page that does not refresh itself is loaded again after a change */

/* Makes `from` equal to `to`, touching only what differs; elements with an id are matched by it. */
function morph(from, to) {
  if (from.isEqualNode(to)) return;
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || from.id !== to.id) {
    from.replaceWith(to);
    return;
  }
  if (from.nodeType !== Node.ELEMENT_NODE) {
    from.nodeValue = to.nodeValue;
    return;
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  morphChildren(from, to);
}

function morphChildren(from, to) {
  const wanted = [...to.childNodes];
  const ids = new Set(wanted.filter((node) => node.id).map((node) => node.id));
  const known = new Map([...from.children].filter((node) => node.id).map((node) => [node.id, node]));
  for (const [id, node] of known) if (!ids.has(id)) node.remove();
  let place = from.firstChild;
  for (const node of wanted) {
    const same = node.id && known.get(node.id);
    if (same) {
      if (same === place) place = place.nextSibling;
      else from.insertBefore(same, place);
      morph(same, node);
    } else if (place && !place.id && !node.id && place.nodeName === node.nodeName) {
      const next = place.nextSibling;
      morph(place, node);
      place = next;
    } else {
      from.insertBefore(node, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function show(html) {
  const fresh = document.createElement("main");
  fresh.innerHTML = html;
  const summary = fresh.querySelector("#summary");
  if (!summary) throw new Error("not the console");
  if (summary.dataset.boot !== document.body.dataset.boot) {
    location.reload();
    return;
  }
  morphChildren(live, fresh);
  document.title = `${summary.dataset.status} – ${summary.dataset.hub} – sync-hub`;
  filter();
}

function filter() {
  const input = document.getElementById("filter");
  const nothing = document.getElementById("nothing");
  if (!nothing) return;
  const words = (input ? input.value : "").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of document.querySelectorAll("table.pipelines tbody tr")) {
    const text = row.dataset.text.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  nothing.hidden = shown > 0;
}

function showStale() {
  const seconds = Math.round((Date.now() - answeredAt) / 1000);
  const old = seconds > 3 * refreshSeconds;
  document.body.classList.toggle("old", old);
  stale.hidden = !old;
  if (old) {
    const since = new Date(answeredAt).toLocaleTimeString();
    const text = `The hub does not answer. Everything below is from ${since} and may be wrong.`;
    if (stale.textContent !== text) stale.textContent = text;
    document.title = "no answer – sync-hub";
  }
}

async function refresh() {
  if (!refreshSeconds) {
    if (document.visibilityState === "visible" && reloading) location.reload();
    return;
  }
  try {
    const answer = await fetch("/fragment", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (answer.status === 401) {
      location.assign("/login");
      return;
    }
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.text());
    answeredAt = Date.now();
  } catch (error) {
    console.warn("no answer", error);
  }
  showStale();
}

async function turn() {
  if (!document.hidden) await refresh();
  setTimeout(turn, refreshSeconds * 1000);
}

function say(text, failed) {
  said.textContent = text;
  said.className = failed ? "banner failing" : "banner";
  said.hidden = false;
  clearTimeout(hushing);
  hushing = setTimeout(() => { said.hidden = true; }, 6000);
}

async function change(path, body) {
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": document.body.dataset.csrf },
      body: JSON.stringify(body),
    });
    const text = await answer.text();
    const said_ = text ? JSON.parse(text) : {};
    if (!answer.ok) throw new Error([said_.message, said_.hint].filter(Boolean).join(" – "));
    return said_;
  } catch (error) {
    say(`That did not work: ${error.message}`, true);
    return null;
  }
}

const actions = {
  pause(button) {
    pausing = button.dataset.name;
    document.getElementById("pause-title").textContent = `Pause ${pausing.replace(":", " ")}`;
    dialog.querySelector("form").reset();
    dialog.returnValue = "";
    dialog.showModal();
  },
  async resume(button) {
    const name = button.dataset.name;
    const told = await change("/api/resume", { name });
    if (told) {
      const whom = told.pipelines.length > 1 ? `: ${told.pipelines.length} pipelines` : "";
      const pending = told.pending.length ? ` A changed mapping still waits to be applied: ${told.pending.join(", ")}.` : "";
      say(`${name.replace(":", " ")} ${told.tried_again ? "is tried again" : "goes on"}${whom}.${pending}`);
    }
    await refresh();
  },
  async verify(button) {
    const name = button.dataset.name;
    if (await change("/api/verifications", { pipelines: [name] })) say(`${name} is verified.`);
    await refresh();
  },
  async handle(button) {
    const { path, said: whom } = button.dataset;
    const told = await change(path, {});
    if (told) say(`${whom}: ${told.state}.`);
    await refresh();
  },
  confirm(button) {
    const { path, body, title, text, verb, said: done, asks } = button.dataset;
    confirmed = { path, body: JSON.parse(body || "{}"), done, asks };
    const reason = document.getElementById("confirm-reason");
    document.getElementById("confirm-asks").hidden = !asks;
    reason.required = Boolean(asks);
    reason.value = "";
    document.getElementById("confirm-title").textContent = title;
    document.getElementById("confirm-text").textContent = text;
    document.getElementById("confirm-verb").textContent = verb;
    confirming.returnValue = "";
    confirming.showModal();
  },
  close(button) {
    button.closest("dialog").close(); /* no submit button: Enter in a field means the first of these */
  },
  async copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.text);
      say("Copied.");
    } catch (error) {
      say(`The browser did not let it be copied: ${error.message}`, true);
    }
  },
  async logout() {
    if (await change("/logout", {})) location.assign("/login");
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) actions[button.dataset.action](button);
});
document.addEventListener("input", (event) => {
  if (event.target.id === "filter") filter();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
if (dialog) dialog.addEventListener("close", async () => {
  if (dialog.returnValue !== "pause") return;
  const form = new FormData(dialog.querySelector("form"));
  const body = { name: pausing, for: form.get("for"), reason: form.get("reason") };
  if (await change("/api/pause", body)) say(`${pausing.replace(":", " ")} pauses.`);
  await refresh();
});
confirming.addEventListener("close", async () => {
  if (confirming.returnValue !== "confirm") return;
  const { path, body, done, asks } = confirmed;
  if (asks) body[asks] = document.getElementById("confirm-reason").value;
  if (await change(path, body)) {
    say(done);
    reloading = true;
  }
  await refresh();
});

filter();
if (refreshSeconds) setTimeout(turn, refreshSeconds * 1000);
