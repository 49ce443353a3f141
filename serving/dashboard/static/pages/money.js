// The account of this node: balances over time, what answers cost and earn, and orders to the wallet.

import { html, useEffect, useMemo, useState } from "../vendor.js";
import { cost, count, credits, creditsShort, dateTime, plural } from "../format.js";
import { ask, history, isUnlocked, section, unlock } from "../store.js";
import { Account, Card, Chart, Confirm, Table, Tiles, save } from "../ui.js";
import { Payment } from "./node.js";

const WAIT_S = 30;

/** Micro-credits of what was typed, or null. */
function readAmount(text) {
  const match = /^\s*([0-9]{1,12})(?:\.([0-9]{1,6}))?\s*$/.exec(text.replaceAll(",", ""));
  if (!match) return null;
  const amount = Number(match[1]) * 1e6 + Number((match[2] ?? "").padEnd(6, "0") || 0);
  return amount > 0 ? amount : null;
}

export function Locked({ children }) {
  if (isUnlocked.value) return children;
  return html`<p class="locked"><button type="button" class="primary" onClick=${() => unlock()}>Unlock for 10 minutes</button>
    <span class="dim">This session only reads. Unlock it to change something.</span></p>`;
}

function Order({ title, name, verb, describe, fields = [] }) {
  const [text, setText] = useState("");
  const [values, setValues] = useState({});
  const [outcome, setOutcome] = useState(null);
  const amount = readAmount(text);
  const isComplete = amount != null && fields.every((field) => field.optional || values[field.name]?.trim());
  const act = async () => {
    const extra = Object.fromEntries(Object.entries(values).filter(([, value]) => value.trim()).map(([key, value]) => [key, value.trim()]));
    const answer = await ask(`/wallet/${name}`, { method: "POST", body: { amount, wait: WAIT_S, ...extra } });
    setText("");
    setOutcome(answer);
  };
  return html`<${Card} title=${title} span=${4}>
    <div class="form">
      ${fields.map(
        (field) => html`<div class="row"><label for=${`${name}-${field.name}`}>${field.label}</label>
          <input id=${`${name}-${field.name}`} spellcheck="false" autocomplete="off" value=${values[field.name] ?? ""}
            onInput=${(event) => setValues({ ...values, [field.name]: event.currentTarget.value })} /></div>`,
      )}
      <div class="row"><label for=${`${name}-amount`}>Amount, credits</label>
        <input id=${`${name}-amount`} inputmode="decimal" autocomplete="off" value=${text} onInput=${(event) => setText(event.currentTarget.value)} /></div>
      <${Confirm} label=${verb} disabled=${!isComplete} question=${amount != null && describe(credits(amount, amount % 10000 ? 6 : 2), values)} act=${act} />
      ${outcome &&
      html`<p role="status">${outcome.failure ? html`<span class="failure">Failed: ${outcome.failure}.</span>` : outcome.height == null ? "On its way into a block." : html`Final in <a href=${`#chain/block/${outcome.height}`}>block ${count(outcome.height)}</a>.`}
        <span class="dim"> Fee ${cost(outcome.fee)} credits.</span></p>`}
    </div>
  <//>`;
}

function Orders() {
  const left = (amount) => html`The network's fee, far below a credit, is added.${amount}`;
  if (!isUnlocked.value) return html`<${Card} title="Transfer, bond, unbond"><${Locked} /><//>`;
  return html`
    <${Order} title="Transfer" name="transfer" verb="Transfer" fields=${[{ name: "recipient", label: "To (address)" }, { name: "memo", label: "Memo (public, up to 64 bytes)", optional: true }]}
      describe=${(amount, values) => html`${amount} credits go to <b class="mono">${values.recipient}</b> for good. ${left("")}`} />
    <${Order} title="Bond" name="bond" verb="Bond" describe=${(amount) => html`${amount} more credits are put at stake: more requests and more votes. ${left("")}`} />
    <${Order} title="Unbond" name="unbond" verb="Unbond" describe=${(amount) => html`${amount} credits leave the stake, and can be withdrawn some epochs later. ${left("")}`} />`;
}

/** Sums of what offloaded requests cost, by a key. */
function sum(rows, keyOf) {
  const found = new Map();
  for (const row of rows) {
    if (row.executor === "local" || row.executor == null) continue;
    const entry = found.get(keyOf(row)) ?? { key: keyOf(row), requests: 0, paid: 0, held: 0 };
    entry.requests += 1;
    entry.paid += row.amount ?? 0;
    entry.held += row.amount == null ? (row.held ?? 0) : 0;
    found.set(keyOf(row), entry);
  }
  return [...found.values()].sort((a, b) => b.paid - a.paid);
}

const CSV = ["id", "model", "executor", "outcome", "age_s", "completion_tokens", "held", "amount", "hold_height", "settled_height"];

async function saveCsv() {
  const { requests } = await ask("/requests?limit=1000");
  const head = CSV.map((name) => ({ held: "held_microcredits", amount: "paid_microcredits" })[name] ?? name);
  // A leading apostrophe keeps a spreadsheet from taking text for a formula.
  const cell = (value) => (value == null ? "" : typeof value === "number" ? value : `"${String(value).replace(/^[=+@-]/, "'$&").replaceAll('"', '""')}"`);
  save("requests.csv", [head.join(","), ...requests.map((row) => CSV.map((name) => cell(row[name])).join(","))].join("\n"), "text/csv");
}

const MOVED = ["timestamp", "height", "number", "cause", "change", "balance", "available", "held", "bonded", "unbonding", "deposit", "id"];
const PAGE = 200;

/** One entry of the account, as the CSV and the table show it: `change` is that of all parts of the balance. */
const flatten = ({ operation, change, ...entry }) => ({ ...change, ...entry, id: operation?.id ?? "", failure: operation?.failure, change: Object.values(change).reduce((a, b) => a + b, 0) });

async function saveMovements(address) {
  const rows = [];
  for (let before = ""; before != null; ) {
    const page = await ask(`/chain/accounts/${encodeURIComponent(address)}/movements?limit=${PAGE}${before && `&before=${before}`}`);
    rows.push(...page.entries.map(flatten));
    before = page.next;
  }
  const head = MOVED.map((name, place) => (place === 0 ? "time" : place > 3 && name !== "id" ? `${name}_microcredits` : name));
  const line = (row) => MOVED.map((name) => (name === "timestamp" ? new Date(row.timestamp).toISOString() : row[name])).join(",");
  save("account.csv", [head.join(","), ...rows.map(line)].join("\n"), "text/csv");
}

/** All that changed the balance of an account: the latest entries, and all of them as CSV. */
function Movements({ wallet: { address, nonce, available, held, bonded } }) {
  const [page, setPage] = useState(null);
  useEffect(() => {
    let timer;
    const load = () =>
      ask(`/chain/accounts/${encodeURIComponent(address)}/movements?limit=20`)
        .then((answer) => {
          setPage(answer);
          if (answer.indexed_height < answer.height) timer = setTimeout(load, 1000); // the index follows the chain
        })
        .catch((error) => setPage({ failure: error.message }));
    load();
    return () => clearTimeout(timer);
  }, [address, nonce, available, held, bonded]);
  if (!page) return html`<${Card} title="What changed the balance"><p class="empty">Reading the ledger …</p><//>`;
  if (page.failure) return html`<${Card} title="What changed the balance"><p class="failure">${page.failure}</p><//>`;
  const rows = page.entries.map(flatten);
  const note = page.indexed_height === page.height ? `up to block ${count(page.height)}: ${cost(page.balance)} credits in all` : `up to block ${count(page.indexed_height)} of ${count(page.height)}`;
  return html`<${Card} title="What changed the balance" note=${note} span=${12}>
    <${Table} label="What changed the balance" rows=${rows} keyOf=${(row) => `${row.height}.${row.number}`} empty="Nothing yet."
      columns=${[
        { name: "Block", cell: (row) => html`<a href=${`#chain/block/${row.height}`}>${count(row.height)}</a>` },
        { name: "What", cell: (row) => html`${row.id ? html`<a href=${`#chain/operation/${row.id}`}>${row.cause}</a>` : row.cause}${row.failure && html` <span class="failure">failed</span>`}` },
        { name: "Change, credits", number: true, cell: (row) => (row.change ? cost(row.change) : "–") },
        { name: "Balance", number: true, cell: (row) => cost(row.balance) },
        { name: "Available", number: true, cell: (row) => (row.available ? cost(row.available) : "–") },
        { name: "Held", number: true, cell: (row) => (row.held ? cost(row.held) : "–") },
        { name: "At stake", number: true, cell: (row) => (row.bonded ? cost(row.bonded) : "–") },
        { name: "Time", cell: (row) => dateTime(row.timestamp) },
      ]} />
    <p class="locked"><button type="button" onClick=${() => saveMovements(address)}>Download all as CSV</button><span class="dim">Every entry: its change and the balance after it, which add up to the balance on the ledger.</span></p>
  <//>`;
}

export function MoneyPage() {
  const wallet = section("wallet").value;
  const rows = section("requests").value ?? [];
  const columns = history.value;
  const data = useMemo(() => {
    if (!columns || !columns.at.length) return null;
    const credits = (name) => columns[name].map((value) => value / 1e6);
    return [columns.at, credits("available"), credits("held"), credits("bonded")];
  }, [columns]);
  if (!wallet) return html`<p class="boot card">Reading the wallet …</p>`;
  const open = rows.filter((row) => row.hold && row.settled_height == null);
  const table = (title, keyOf, cell) => html`<${Card} title=${title} note=${`of the last ${plural(rows.length, "request")}`} span=${6}>
    <${Table} label=${title} rows=${sum(rows, keyOf)} keyOf=${(row) => row.key} empty="Nothing was offloaded."
      columns=${[
        { name: title.endsWith("model") ? "Model" : "Node", cell },
        { name: "Requests", number: true, cell: (row) => count(row.requests) },
        { name: "Paid, credits", number: true, cell: (row) => cost(row.paid) },
        { name: "Held, credits", number: true, cell: (row) => (row.held ? cost(row.held) : "–") },
      ]} />
  <//>`;
  return html`
    <${Tiles} rows=${[
      ["Available", credits(wallet.available), "credits"],
      ["To spend", credits(wallet.spendable), "less what is promised"],
      ["Held", credits(wallet.held, 4), `for ${plural(open.length, "answer")}`],
      ["At stake", creditsShort(wallet.bonded), wallet.unbonding ? `${creditsShort(wallet.unbonding)} on their way out` : "credits"],
      ["Earned", credits(wallet.earned, 4), "since the node started"],
      ["Validator", wallet.validator, wallet.models.join(", ")],
    ]} />
    ${data &&
    html`<${Card} title="Balance" note="credits"><${Chart} label="Available, held and bonded credits over time" data=${data} height=${200} format=${(v) => v.toLocaleString("en", { maximumFractionDigits: 2 })} step
      series=${[{ name: "available", color: "--s1" }, { name: "held", color: "--s2" }, { name: "at stake", color: "--s3" }]} /><//>`}
    <${Orders} />
    <${Movements} wallet=${wallet} />
    ${table("Spent by model", (row) => row.model, (row) => row.key)}
    ${table("Spent by node", (row) => row.executor, (row) => html`<${Account} address=${row.key} />`)}
    <${Card} title="Requests as a table" span=${12}>
      <p class="locked"><button type="button" onClick=${saveCsv}>Download as CSV</button><span class="dim">The last 1,000 requests: when, model, who served, tokens, credits held and paid, heights.</span></p>
    <//>
    <${Card} title="Holds that are open" note="captured or taken back by their deadline">
      <${Table} label="Open holds" rows=${open} keyOf=${(row) => row.id} empty="None: every payment is final."
        columns=${[
          { name: "Request", cell: (row) => html`<span class="mono">${row.id}</span>` },
          { name: "For", cell: (row) => html`<${Account} address=${row.executor} />` },
          { name: "Held, credits", number: true, cell: (row) => (row.held == null ? "–" : cost(row.held)) },
          { name: "State", cell: (row) => html`<${Payment} row=${row} />` },
        ]} />
    <//>`;
}
