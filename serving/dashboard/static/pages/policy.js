// What decides which requests are served here, offloaded, accepted or queued, and the form that changes it.

import { html, useEffect, useState } from "../vendor.js";
import { count, plural } from "../format.js";
import { ask, isUnlocked, section } from "../store.js";
import { Bar, Card, Confirm, Facts, Pill, Table } from "../ui.js";
import { Locked } from "./money.js";

/** What is said of each number, how it is set (`share` by a slider), and the policy that alone reads it. */
const NUMBERS = {
  credit_price_s: ["Worth of a credit", "Seconds: a request is offloaded if that saves more for each credit that it costs", "number", "adaptive"],
  max_offer_wait_s: ["Longest wait for others", "Seconds of predicted wait for which an offer is accepted", "number", "adaptive"],
  target_utilization: ["Target utilization", "Below it your requests are served here", "share", "paper"],
  offload_frequency: ["Offload frequency", "Above the target: how often a request of yours is offered to others", "share", "paper"],
  accept_frequency: ["Accept frequency", "How often an offer of another node is accepted", "share", "paper"],
  queue_frequency: ["Queue frequency", "How often one is accepted that must wait", "share", "paper"],
  max_queue: ["Longest queue", "Requests that may wait in each queue", "number"],
  max_tokens: ["Longest answer", "Completion tokens", "number"],
  max_wait_s: ["Longest wait", "Seconds in the queue", "number"],
};

function Field({ name, value, changed, onChange }) {
  const [label, help, kind] = NUMBERS[name];
  const id = `p-${name}`;
  const isShare = kind === "share";
  return html`<div class="row">
    <label for=${id}>${label}${changed && html` <${Pill} kind="warn">changed<//>`}</label>
    <div class="locked">
      ${isShare
        ? html`<input id=${id} type="range" min="0" max="1" step="0.01" value=${value} onInput=${(event) => onChange(Number(event.currentTarget.value))} /><b>${Number(value).toFixed(2)}</b>`
        : html`<input id=${id} type="number" min="0" step="any" value=${value} onInput=${(event) => onChange(Number(event.currentTarget.value))} />`}
      <span class="dim">${help}</span>
    </div>
  </div>`;
}

const say = (name, value) =>
  name === "stake" ? `${value.toLocaleString("en")} credits` : typeof value === "boolean" ? (value ? "yes" : "no") : String(value);

/** What the numbers would have done to the last requests, in a sentence. */
function Replay({ tried, changed }) {
  if (!tried) return null;
  if (tried.failure) return html`<p class="failure" role="alert">${tried.failure}</p>`;
  if (!tried.requests) return html`<p class="dim">No request yet that could have gone either way.</p>`;
  const could = html`Of the last ${plural(tried.requests, "request")} that could go either way`;
  return html`<p role="status">
    ${changed
      ? html`${could}, these numbers would have offloaded <b>${count(tried.would_offload)}</b> instead of ${count(tried.offloaded)}.`
      : html`${could}, this policy offloads <b>${count(tried.offloaded)}</b>. Move a slider to see what it would have done.`}
  </p>`;
}

export function PolicyPage() {
  const policy = section("policy").value;
  const backends = section("backends").value ?? [];
  const [changes, setChanges] = useState({});
  const [done, setDone] = useState(false);
  const [tried, setTried] = useState(null);
  const wanted = JSON.stringify(changes);
  useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(
      () =>
        ask("/dashboard/replay", { method: "POST", body: JSON.parse(wanted), signal: abort.signal })
          .then(setTried)
          .catch((error) => !abort.signal.aborted && setTried({ failure: error.message })),
      250,
    );
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [wanted, isUnlocked.value]);
  if (!policy) return html`<p class="boot card">Reading the policy …</p>`;
  const isRead = (name) => !NUMBERS[name][3] || NUMBERS[name][3] === policy.name || !["adaptive", "paper"].includes(policy.name);
  const shown = Object.keys(NUMBERS).filter((name) => policy[name] != null && isRead(name));
  const others = Object.entries(policy).filter(([name, value]) => !NUMBERS[name] && name !== "name" && (typeof value !== "object" || value?.length));
  const isChanged = (name) => name in changes && changes[name] !== policy[name];
  const changed = shown.filter(isChanged);
  const apply = async () => {
    await ask("/policy", { method: "PUT", body: Object.fromEntries(changed.map((name) => [name, changes[name]])) });
    setChanges({});
    setDone(true);
  };
  return html`
    <${Card} title="Policy" note=${policy.name} span=${8}>
      <div class="form">
        ${shown.map(
          (name) => html`<${Field} key=${name} name=${name} value=${changes[name] ?? policy[name]} changed=${isChanged(name)}
            onChange=${(value) => {
              setDone(false);
              setChanges({ ...changes, [name]: value });
            }} />`,
        )}
        <${Replay} tried=${tried} changed=${changed.length > 0} />
        <${Locked}>
          <${Confirm} label="Apply" disabled=${!changed.length} question=${`${plural(changed.length, "number")} of the policy ${changed.length === 1 ? "changes" : "change"} at once, until the node stops. To keep: wwwserve policy set --save …`} act=${apply} />
        <//>
        ${done && html`<p role="status">In force until the node stops.</p>`}
      </div>
    <//>
    <${Card} title="Other settings" span=${4}>
      <${Facts} rows=${others.map(([name, value]) => [name.replaceAll("_", " "), say(name, value)])} />
      <h3>Slots</h3>
      <${Table} label="Slots" rows=${backends} keyOf=${(row) => backends.indexOf(row)} empty="No backend."
        columns=${[
          { name: "Models", cell: (row) => row.models.join(", ") },
          { name: "Running", cell: (row) => html`<${Bar} value=${row.running / row.capacity} load /> ${count(row.running)} of ${count(row.capacity)}` },
        ]} />
    <//>`;
}
