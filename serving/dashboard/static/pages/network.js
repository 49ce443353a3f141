// Who is online, what each serves, who pays whom, and how this node is reached.

import { html, useMemo, useState } from "../vendor.js";
import { count, counts, credits, plural } from "../format.js";
import { Ring } from "../ring.js";
import { isOwner, me, network, node, section } from "../store.js";
import { Account, Bar, Card, Copy, Facts, Pill, Share, Table } from "../ui.js";

function Reach() {
  const view = node.value;
  if (!view) return null;
  const verdict =
    view.is_dialable == null
      ? html`<${Pill}>nobody has tried yet<//>`
      : view.is_dialable
        ? html`<${Pill} kind="ok">others can dial this node<//>`
        : html`<${Pill} kind="warn">others cannot dial this node<//>`;
  return html`<${Card} title="How this node is reached" span=${4}>
    <${Facts} rows=${[
      ["Verdict", view.listening.length ? verdict : html`<${Pill}>listens nowhere: it only dials out<//>`],
      ["Connected", `${count(view.connected)} of ${plural(view.known, "known node")}`],
      ["Address", html`<span class="mono">${view.address}</span> <${Copy} text=${view.address} />`],
      ...view.listening.map((address) => ["Listens at", html`<span class="mono">${address}</span> <${Copy} text=${address} />`]),
      ["Other nodes", view.serves_others ? "are served" : `are not served: ${view.serves_others_because}`],
      ["Offers of others", `${count(view.offers_served)} served · declined: ${counts(view.declines) || "none"}`],
    ]} />
  <//>`;
}

const PATHS = { direct: ["ok", "direct"], relayed: ["warn", "relayed"] };

export function NetworkPage() {
  const [model, setModel] = useState("");
  const nodes = network.value ?? [];
  const flows = section("flows").value ?? [];
  const peers = new Map((section("peers").value ?? []).map((peer) => [peer.address, peer]));
  const models = useMemo(() => [...new Set(nodes.flatMap((each) => each.models))].sort(), [nodes]);
  const shown = model ? nodes.filter((each) => each.models.includes(model)) : nodes;
  const total = nodes.reduce((sum, each) => sum + each.bonded, 0) || 1;
  const paid = (address) => flows.filter((flow) => flow.payer === me.value && flow.payee === address).reduce((sum, flow) => sum + flow.holds, 0);
  const earned = (address) => flows.filter((flow) => flow.payee === me.value && flow.payer === address).reduce((sum, flow) => sum + flow.holds, 0);
  const columns = [
    { name: "Node", cell: (row) => html`<${Account} address=${row.address} />` },
    { name: "Models", cell: (row) => row.models.join(", ") || html`<span class="dim">none</span>` },
    { name: "Load", cell: (row) => (row.slots ? html`<${Bar} value=${row.running / row.slots} load /> ${row.running} of ${row.slots}` : html`<span class="dim">–</span>`) },
    { name: "Stake, credits", number: true, cell: (row) => credits(row.bonded, 0) },
    { name: "Share of stake", cell: (row) => html`<${Share} value=${row.bonded / total} digits=${1} />` },
    isOwner.value && {
      name: "Path",
      cell: (row) => {
        if (row.is_me) return html`<span class="dim">–</span>`;
        const [kind, text] = PATHS[peers.get(row.address)?.path] ?? ["plain", "not connected"];
        return html`<${Pill} kind=${kind}>${text}<//>`;
      },
    },
    isOwner.value && { name: "It served for you*", number: true, cell: (row) => (row.is_me ? "–" : count(paid(row.address))) },
    isOwner.value && { name: "You for it*", number: true, cell: (row) => (row.is_me ? "–" : count(earned(row.address))) },
    isOwner.value && {
      name: "Addresses",
      cell: (row) => {
        const peer = peers.get(row.address);
        const all = peer ? [...peer.addresses, ...peer.relays.map((relay) => `by relay ${relay}`)] : [];
        return html`<span class="mono" title=${all.join("\n")}>${all[0] ?? "–"}${all.length > 1 ? ` +${all.length - 1}` : ""}</span>`;
      },
    },
  ].filter(Boolean);
  const holds = flows.reduce((sum, flow) => sum + flow.holds, 0);
  return html`
    <${Card} title="Who pays whom" note=${`${plural(holds, "hold")} in the last minute, out of final blocks`} span=${isOwner.value ? 8 : 12}>
      <${Ring} nodes=${shown} flows=${flows} me=${me.value} />
    <//>
    ${isOwner.value && html`<${Reach} />`}
    <${Card} title="Nodes" note=${html`<label for="model">Model</label> <select id="model" value=${model} onChange=${(event) => setModel(event.currentTarget.value)}>
        <option value="">all</option>${models.map((name) => html`<option value=${name}>${name}</option>`)}</select>`}>
      <${Table} label="Nodes" columns=${columns} rows=${shown} keyOf=${(row) => row.address} />
      ${isOwner.value && html`<p class="dim">* requests in the last minute</p>`}
    <//>`;
}
