// The first page: what needs attention, figures at a glance, charts, and the requests of the owner's users.

import { html, useMemo } from "../vendor.js";
import { age, cost, count, credits, creditsShort, duration, percent, plural } from "../format.js";
import { blocks, chain, finalAge, history, isOwner, network, node, now, section, setSpan, span } from "../store.js";
import { Account, Bar, Card, Chart, Pill, Share, Table, Tiles, rate } from "../ui.js";
import { BlocksCard } from "./blocks.js";

const SEVERITY = { problem: "Act", advice: "Look", note: "Note" };

/** What is wrong, the worst first, each with what mends it. */
export function Troubles({ found }) {
  if (!found.length) {
    return html`<ul class="attention"><li class="ok"><b>All well</b><span>Nothing needs your attention.</span></li></ul>`;
  }
  return html`<ul class="attention" aria-label="What needs attention">
    ${found.map(
      (each) => html`<li class=${each.severity}>
        <b>${SEVERITY[each.severity]}</b><span class="says">${each.text}</span>
        <span class="mend">${each.mend}${each.mend && each.command && ": "}${each.command && html`<code>${each.command}</code>`}</span>
      </li>`,
    )}
  </ul>`;
}

function OwnerTiles() {
  const view = node.value;
  const wallet = section("wallet").value;
  const backends = section("backends").value ?? [];
  if (!view || !wallet) return null;
  const own = backends.reduce((sum, each) => sum + each.queued_own, 0);
  const others = backends.reduce((sum, each) => sum + each.queued_delegated, 0);
  const tokens = history.value ? rate(history.value, "tokens", 10).at(-1) : 0;
  const total = network.value?.reduce((sum, each) => sum + each.bonded, 0) || 1;
  const rows = [
    ["Under way", count(view.under_way), `${count(own)} of yours wait, ${count(others)} of others`],
    ["Tokens per second", tokens.toFixed(tokens < 10 ? 1 : 0), "to your users"],
    view.first_token_p50_ms != null
      ? ["First token, median", duration(view.first_token_p50_ms), `${duration(view.first_token_p95_ms)} at the 95th percentile`]
      : ["First token, median", "–", "no request in the last minute"],
    ["Credits to spend", creditsShort(wallet.spendable), wallet.held ? `${credits(wallet.held, 4)} held` : "nothing held"],
    ["Credits earned", credits(wallet.earned, 4), "since the node started"],
    ["Credits at stake", creditsShort(wallet.bonded), `${percent(wallet.bonded / total, 1)} of all nodes online`],
    ["Peers connected", count(view.connected), `${count(view.known)} known`],
  ];
  return html`<${Tiles} rows=${rows} />`;
}

function Span() {
  const choices = [["minutes", "10 min"], ["day", "24 h"]];
  return html`<span class="segments" role="group" aria-label="Span of the charts">
    ${choices.map(
      ([name, label]) =>
        html`<button type="button" aria-pressed=${span.value === name ? "true" : "false"} onClick=${() => setSpan(name)}>${label}</button>`,
    )}
  </span>`;
}

function Charts() {
  const columns = history.value;
  const policy = section("policy").value;
  const target = policy?.name === "paper" ? policy.target_utilization : null; // the others have none
  const data = useMemo(() => {
    if (!columns || !columns.at.length) return null;
    const window = span.value === "day" ? 1 : 5;
    const used = columns.at.map((_, index) => {
      const busy = columns.running[index] + columns.own_queue[index] + columns.others_queue[index];
      return columns.capacity[index] ? (100 * busy) / columns.capacity[index] : 0;
    });
    return {
      requests: [columns.at, rate(columns, "local", window), rate(columns, "offloaded", window), rate(columns, "served", window)],
      tokens: [columns.at, rate(columns, "tokens", window)],
      used: [columns.at, used, ...(target == null ? [] : [columns.at.map(() => 100 * target)])],
    };
  }, [columns, target]);
  if (!data) return null;
  const high = Math.max(100, ...data.used[1]);
  return html`
    <${Card} title="Requests" note="per second" span=${4}>
      <${Chart} label="Requests per second: served here, offloaded, and served for others" data=${data.requests} format=${(v) => v.toFixed(1)}
        series=${[{ name: "here", color: "--s1" }, { name: "offloaded", color: "--s2" }, { name: "for others", color: "--s3" }]} />
    <//>
    <${Card} title="Completion tokens" note="per second" span=${4}>
      <${Chart} label="Completion tokens per second to your users" data=${data.tokens} format=${(v) => v.toFixed(0)}
        series=${[{ name: "to your users", color: "--s4", fill: true }]} />
    <//>
    <${Card} title="Slots in use" note=${html`<${Span} />`} span=${4}>
      <${Chart} label="Requests that run or wait, in percent of the slots" data=${data.used} format=${(v) => v.toFixed(0)} unit=" %" max=${high}
        series=${[{ name: "used", color: "--s1", fill: true }, ...(target == null ? [] : [{ name: "target", color: "--dim", dash: [5, 4] }])]} />
    <//>`;
}

// Tokens per second. What is above came at once: it waited, complete, until its hold was final.
const MAX_SPEED = 1000;

const OUTCOMES = { completed: "ok", running: "plain", refused: "warn", cancelled: "plain", failed: "bad", error: "bad" };

export function Payment({ row }) {
  if (row.executor === "local") return html`<span class="dim">none</span>`;
  if (!row.hold) return html`<span class="dim">–</span>`;
  if (row.settled_height != null)
    return html`<a href=${`#chain/block/${row.settled_height}`}><${Pill} kind="ok">final at ${count(row.settled_height)}<//></a>`;
  if (row.hold_height != null)
    return html`<a href=${`#chain/block/${row.hold_height}`}><${Pill} kind="warn">held at ${count(row.hold_height)}<//></a>`;
  return html`<${Pill}>waiting<//>`;
}

export const tokensPerSecond = (row) => {
  const ms = row.duration_ms != null && row.ttft_ms != null ? row.duration_ms - row.ttft_ms : 0;
  const speed = ms > 0 && row.completion_tokens > 1 ? (1000 * (row.completion_tokens - 1)) / ms : null;
  return speed < MAX_SPEED ? speed : null;
};

function Requests() {
  const rows = section("requests").value ?? [];
  const columns = [
    { name: "Began", cell: (row) => html`<span title=${row.id}>${age(now.value - 1000 * row.started_at)} ago</span>` },
    { name: "Model", cell: (row) => row.model },
    rows.some((row) => row.key) && { name: "Key", cell: (row) => row.key || html`<span class="dim">none</span>` },
    { name: "Served by", cell: (row) => (row.executor === "local" ? "here" : html`<${Account} address=${row.executor} />`) },
    { name: "Outcome", cell: (row) => html`<${Pill} kind=${OUTCOMES[row.outcome]}>${row.outcome}<//>` },
    { name: "First token", number: true, cell: (row) => (row.ttft_ms == null ? "–" : duration(row.ttft_ms)) },
    { name: "Tokens", number: true, cell: (row) => count(row.completion_tokens) },
    { name: "Tokens/s", number: true, cell: (row) => tokensPerSecond(row)?.toFixed(0) ?? "–" },
    {
      name: "Cost, credits",
      number: true,
      cell: (row) => (row.amount != null ? cost(row.amount) : row.held != null ? html`<span class="dim">≤ ${cost(row.held)}</span>` : "–"),
    },
    { name: "Payment", cell: (row) => html`<${Payment} row=${row} />` },
  ].filter(Boolean);
  return html`<${Card} title="Requests of your users" note="the latest first" span=${12}>
    <${Table} label="Requests of your users" columns=${columns} rows=${rows.slice(0, 20)} keyOf=${(row) => row.id}
      empty="No request yet. Ask something on the Chat page, or send one to the API." />
  <//>`;
}

function Backends() {
  const rows = section("backends").value ?? [];
  const columns = [
    { name: "Models", cell: (row) => row.models.join(", ") || html`<span class="dim">not known yet</span>` },
    { name: "State", cell: (row) => html`<${Pill} kind=${row.is_alive ? "ok" : "bad"}>${row.is_alive ? "answers" : "does not answer"}<//>` },
    { name: "Running", cell: (row) => html`<${Bar} value=${row.running / row.capacity} load /> ${row.running} of ${row.capacity}` },
    { name: "Yours waiting", number: true, cell: (row) => count(row.queued_own) },
    { name: "Others' waiting", number: true, cell: (row) => count(row.queued_delegated) },
  ];
  return html`<${Card} title="Backends" note=${node.value?.serves_others ? "open to other nodes" : "closed to other nodes"} span=${6}>
    <${Table} label="Backends" columns=${columns} rows=${rows} keyOf=${(row) => rows.indexOf(row)}
      empty="This node has no backend: it offloads every request." />
  <//>`;
}

function Welcome() {
  return html`<${Card} title="You see what everybody sees">
    <p>Chain, network and models are public. For your requests, your money and your settings run this on the node's
      machine, which opens this page with your rights: <code>wwwserve dashboard</code></p>
  <//>`;
}

function PublicTiles() {
  const nodes = network.value ?? [];
  const models = section("models").value ?? [];
  const view = chain.value;
  const rows = [
    ["Last final block", count(view.height), `${age(finalAge.value)} ago`],
    ["Epoch", count(view.epoch), plural(view.epoch_heights, "block") + " each"],
    ["Nodes online", count(nodes.length), plural(nodes.filter((each) => each.models.length).length, "node") + " with models"],
    ["Models", count(models.length), "served on this network"],
    ["Credits", creditsShort(view.supply), "in all accounts"],
  ];
  return html`<${Tiles} rows=${rows} />`;
}

export function ModelsCard({ span = 6 }) {
  const rows = section("models").value ?? [];
  const total = network.value?.reduce((sum, each) => sum + each.bonded, 0) || 1;
  const columns = [
    { name: "Model", cell: (row) => row.id },
    { name: "Here", cell: (row) => (row.local ? html`<${Pill} kind="ok">yes<//>` : html`<span class="dim">no</span>`) },
    { name: "Other executors", number: true, cell: (row) => count(row.executors) },
    { name: "Their stake", cell: (row) => html`<${Share} value=${row.stake / total} />` },
    { name: "Won duels", number: true, cell: (row) => (row.win_rate == null ? "–" : `${percent(row.win_rate)} of ${count(row.duels)}`) },
  ];
  return html`<${Card} title="Models" note="that this node can answer with" span=${span}>
    <${Table} label="Models" columns=${columns} rows=${rows} keyOf=${(row) => row.id} empty="No model is served at present." />
  <//>`;
}

export function NodePage() {
  if (!isOwner.value) {
    return html`<${Welcome} /><${PublicTiles} /><${BlocksCard} span=${7} rows=${10} /><${ModelsCard} span=${5} />`;
  }
  return html`<${Troubles} found=${section("troubles").value ?? []} /><${OwnerTiles} /><${Charts} /><${Requests} /><${Backends} /><${BlocksCard} span=${6} rows=${8} />`;
}
