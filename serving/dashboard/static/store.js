// What the page knows: live sections of the node, the visitor's session, and the page that is shown.

import { batch, computed, signal } from "./vendor.js";

const SILENCE_MS = 5000; // without an event the node counts as not answering; there is one a second
const RETRY_MS = [500, 1000, 2000, 4000];
const HIDDEN_MS = 20000; // a page that nobody sees gives its stream up
const MAX_BLOCKS = 300;
const MAX_EVENTS = 500;

/** `connecting`, `live` or `lost`. */
export const connection = signal("connecting");
/** Level of the visitor: `public`, `reading` or `acting`, and when acting ends. */
export const session = signal({ level: "public", lockedAt: null });
/** What the page has to say to the visitor once, such as why a login failed. */
export const notice = signal(null);
/** The node's wall clock in ms, as of the last event. */
export const now = signal(Date.now());
/** The last final blocks, the latest first. */
export const blocks = signal([]);
/** The last events of the node's log, the latest first; the owner's alone. */
export const events = signal([]);
/** Columns of the history; a sample a second is added to the fine one. */
export const history = signal(null);

const sections = new Map();

/** The signal of a section; null until the node has sent it. */
export function section(name) {
  if (!sections.has(name)) sections.set(name, signal(null));
  return sections.get(name);
}

export const chain = section("chain");
export const node = section("node");
export const network = section("network");
export const isOwner = computed(() => session.value.level !== "public");
export const isUnlocked = computed(() => session.value.level === "acting");
export const me = computed(() => network.value?.find((each) => each.is_me)?.address ?? null);

/** Milliseconds since the last final block. */
export const finalAge = computed(() => (chain.value ? Math.max(0, now.value - chain.value.final_at) : 0));

/** `ok`, `warn` or `bad` (stalled), by how long ago a block became final. */
export const finality = computed(() => {
  if (!chain.value) return "plain";
  if (finalAge.value > chain.value.stalled_after_ms) return "bad";
  return finalAge.value < 2 * chain.value.idle_beat_ms ? "ok" : "warn";
});

// The page that is shown: the parts of the address after "#".

const readRoute = () => {
  const parts = location.hash.slice(1).split("/").filter(Boolean).map(decodeURIComponent);
  return parts.length ? parts : ["node"];
};
export const route = signal(readRoute());
addEventListener("hashchange", () => {
  route.value = readRoute();
  document.querySelector("main")?.focus({ preventScroll: true });
  scrollTo(0, 0);
});
/** Whether the field for search takes the keyboard once it is there. */
export const isSearchWanted = signal(false);
export const go = (...parts) => {
  location.hash = parts.map(encodeURIComponent).join("/");
};

// What is kept in the browser, for this origin alone.

const kept = new Map(); // as long as the page is open, in a browser that keeps nothing
function recall(name) {
  try {
    return localStorage.getItem(name) ?? kept.get(name);
  } catch {
    return kept.get(name);
  }
}
function keep(name, value) {
  kept.set(name, value);
  try {
    if (value == null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // it is in `kept`
  }
}

// Requests.

/** Sends `body` with the key of the session: its cookie goes to other ports of this host as well. */
export const send = (path, body, { method = "POST", headers, signal: abort } = {}) =>
  fetch(path, {
    method,
    headers: { ...headers, "content-type": "application/json", "x-wwwserve-session-key": recall("key") ?? "" },
    body: JSON.stringify(body ?? {}),
    signal: abort,
  });

/** The JSON answer of the node. Throws an Error with its text. */
export async function ask(path, { method = "GET", body, signal: abort } = {}) {
  let answer;
  try {
    answer = await (method === "GET" ? fetch(path, { signal: abort }) : send(path, body, { method, signal: abort }));
  } catch (error) {
    if (abort?.aborted) throw error;
    throw new Error("the node does not answer");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const text = typeof content.error === "string" ? content.error : content.error?.message;
    const failure = new Error(text ?? `the node answered ${answer.status}`);
    failure.status = answer.status;
    throw failure;
  }
  return content;
}

function noteSession(content) {
  const left = content.locked_in_s;
  const lockedAt = left == null ? null : Date.now() + 1000 * left;
  session.value = { level: content.level, lockedAt, apiUrl: content.api_url };
}

export async function unlock() {
  noteSession(await ask("/dashboard/unlock", { method: "POST" }));
}
export async function lock() {
  noteSession(await ask("/dashboard/lock", { method: "POST" }));
}
export async function logOut() {
  await ask("/dashboard/logout", { method: "POST" });
  keep("key", null);
  location.reload();
}

/** Exchange the one-time code in the address for a session, once. */
async function logIn() {
  const code = /^#t=(.+)$/.exec(location.hash)?.[1];
  if (!code) return;
  globalThis.history.replaceState(null, "", "#node");
  route.value = readRoute();
  try {
    keep("key", (await ask("/dashboard/login", { method: "POST", body: { code } })).key);
  } catch (error) {
    notice.value = `You are not logged in: ${error.message}`;
  }
}

// Live data.

let stream = null;
let silence = 0;
let attempts = 0;
let retry = 0;

function take(event) {
  const content = JSON.parse(event.data);
  batch(() => {
    connection.value = "live";
    attempts = 0;
    now.value = content.now;
    if (content.blocks) {
      const known = blocks.value[0]?.height ?? 0;
      const fresh = content.blocks.filter((block) => block.height > known).reverse();
      if (fresh.length) blocks.value = [...fresh, ...blocks.value].slice(0, MAX_BLOCKS);
    }
    if (content.log) events.value = [...content.log.reverse(), ...events.value].slice(0, MAX_EVENTS);
    if (content.sample) addSample(content.sample);
    for (const [name, value] of Object.entries(content)) {
      if (!["now", "blocks", "log"].includes(name)) section(name).value = value;
    }
  });
  clearTimeout(silence);
  silence = setTimeout(lose, SILENCE_MS);
}

function lose() {
  connection.value = "lost";
  stream?.close();
  stream = null;
  clearTimeout(silence);
  clearTimeout(retry);
  if (!document.hidden) retry = setTimeout(connect, RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)]);
}

async function connect() {
  stream?.close();
  try {
    noteSession(await ask("/dashboard/session"));
    if (isOwner.value) await loadHistory();
    else forgetOwner();
  } catch {
    lose();
    return;
  }
  events.value = []; // a new stream begins with all that the node has
  stream = new EventSource("/dashboard/events");
  stream.onmessage = take;
  stream.onerror = () => {
    stream?.close();
    stream = null;
    lose();
  };
  clearTimeout(silence);
  silence = setTimeout(lose, SILENCE_MS);
}

/** A session that has ended leaves nothing of the owner on the page. */
function forgetOwner() {
  for (const name of ["node", "sample", "backends", "requests", "peers", "wallet", "policy", "duels", "troubles"])
    section(name).value = null;
  history.value = null;
  events.value = [];
}

let hiding = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      stream?.close();
      stream = null;
      clearTimeout(silence);
      clearTimeout(retry);
    }, HIDDEN_MS);
  } else if (!stream) {
    connect();
  }
});

export async function start() {
  await logIn();
  await connect();
}

// The history.

/** `hour` for the last ten minutes by the second, `day` for the last day by the minute. */
export const span = signal("minutes");

export async function loadHistory() {
  const loaded = await ask(`/dashboard/history?span=${span.value}`);
  history.value = loaded;
}

export async function setSpan(name) {
  span.value = name;
  await loadHistory();
}

function addSample(sample) {
  const columns = history.value;
  if (!columns || !columns.at.length) {
    history.value = Object.fromEntries(Object.entries(sample).map(([name, value]) => [name, [value]]));
    return;
  }
  const step = span.value === "day" ? 60 : 1;
  if (sample.at - columns.at.at(-1) < step) return;
  const keep = span.value === "day" ? 1440 : 600;
  history.value = Object.fromEntries(
    Object.entries(columns).map(([name, values]) => [name, [...values.slice(1 - keep), sample[name]]]),
  );
}

// Colours.

/** `light`, `dark`, or `auto` as the system has it. */
export const theme = signal(recall("theme") ?? "auto");
export function setTheme(name) {
  theme.value = name;
  applyTheme();
  keep("theme", name);
}
export function applyTheme() {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
}
/** Whether dark colours are shown; charts are drawn anew when it changes. */
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(systemDark.matches);
systemDark.addEventListener("change", (event) => (systemIsDark.value = event.matches));
export const isDark = computed(() => (theme.value === "auto" ? systemIsDark.value : theme.value === "dark"));
