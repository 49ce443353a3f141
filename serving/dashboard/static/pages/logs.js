// What the node finds wrong with itself, and the latest events of its log.

import { html, useEffect, useState } from "../vendor.js";
import { clockTime, plural, short } from "../format.js";
import { ask, events, section } from "../store.js";
import { Card } from "../ui.js";
import { Troubles } from "./node.js";

/** What a node looks at in itself, in the words of its troubles. */
const SUBJECTS = ["ledger", "validator", "backends", "peers", "reachable", "credit", "processor"];
const LEVELS = ["debug", "info", "warning", "error"];
const ALWAYS = new Set(["event", "level", "logger", "timestamp"]);
const MAX_ROWS = 200;

function Doctor() {
  const [looked, setLooked] = useState([]);
  const [failure, setFailure] = useState("");
  const [round, setRound] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    ask("/doctor", { signal: abort.signal }).then(
      ({ findings }) => (setLooked(findings), setFailure("")),
      (error) => abort.signal.aborted || setFailure(error.message),
    );
    return () => abort.abort();
  }, [round]);
  // What the node says all the time comes first; a look finds some of it again.
  const live = section("troubles").value ?? [];
  const codes = new Set(live.map((each) => each.code));
  const found = [...live, ...looked.filter((each) => each.code && !codes.has(each.code))];
  const ill = new Set(found.map((each) => each.subject));
  const well = SUBJECTS.filter((subject) => !ill.has(subject));
  return html`<${Card} title="Doctor" note="what this node finds of itself">
    <${Troubles} found=${found} />
    ${well.length > 0 && html`<p class="well"><span aria-hidden="true">✓</span> nothing wrong with: ${well.join(", ")}</p>`}
    <ul class="checks" aria-label="Looked at when this page was opened">
      ${looked.filter((each) => !each.code).map(
        (each) => html`<li key=${each.subject}><span aria-hidden="true">✓</span> <b>${each.subject}</b> <span>${each.text}</span></li>`,
      )}
    </ul>
    ${failure && html`<p class="failure" role="alert">${failure}</p>`}
    <p><button type="button" onClick=${() => setRound(round + 1)}>Look again</button></p>
    <p class="dim">Files, keys and the servers of the models are looked at by <code>wwwserve doctor</code>, whether the node runs or not.</p>
  <//>`;
}

/** A value as text, addresses by their ends; the whole one is in the log itself. */
const show = (value) =>
  (typeof value === "string" ? value : JSON.stringify(value)).replace(/\b12D3Koo\w{45}\b/g, (address) => short(address));

const details = (event) =>
  Object.entries(event)
    .filter(([name]) => !ALWAYS.has(name))
    .map(([name, value]) => `${name}=${show(value)}`)
    .join("  ");

function Log() {
  const [level, setLevel] = useState("info");
  const [text, setText] = useState("");
  const wanted = text.trim().toLowerCase();
  const rows = events.value.filter(
    (event) => LEVELS.indexOf(event.level) >= LEVELS.indexOf(level) && (!wanted || JSON.stringify(event).toLowerCase().includes(wanted)),
  );
  return html`<${Card} title="Log" note=${`${plural(rows.length, "event")}, the latest first`}>
    <div class="filter">
      <label for="log-level">From level</label>
      <select id="log-level" value=${level} onChange=${(event) => setLevel(event.currentTarget.value)}>
        ${LEVELS.map((each) => html`<option value=${each} selected=${each === level}>${each}</option>`)}
      </select>
      <label for="log-text">With</label>
      <input id="log-text" type="search" placeholder="event, model, address …" autocomplete="off" spellcheck="false" value=${text}
        onInput=${(event) => setText(event.currentTarget.value)} />
    </div>
    ${rows.length === 0
      ? html`<p class="empty">No such event. The whole log: <code>wwwserve logs</code></p>`
      : html`<div class="log-box" tabindex="0" role="region" aria-label="Events"><ol class="log">
          ${rows.slice(0, MAX_ROWS).map(
            (event) => html`<li class=${event.level} key=${event.timestamp + event.event}>
              <time title=${event.timestamp}>${clockTime(Date.parse(event.timestamp), true)}</time><b>${event.level}</b>
              <span>${event.event}</span><i>${details(event)}</i>
            </li>`,
          )}
        </ol></div>`}
    <p class="dim">Older ones: <code>wwwserve logs</code>. What each means: docs/reference/events.md.</p>
  <//>`;
}

export function LogsPage() {
  return html`<${Doctor} /><${Log} />`;
}
