// How good answers are, where the chain compares them: win rates of models, and the duels and checks of this node.

import { html } from "../vendor.js";
import { count, credits, percent, short } from "../format.js";
import { isOwner, section } from "../store.js";
import { Account, Card, Pill, Share, Table } from "../ui.js";

const moved = (row) => (row.moved ? credits(row.moved, 6) : "–");

function Models() {
  const rows = section("models").value ?? [];
  const identities = rows.flatMap((row) => row.identities.map((each) => ({ ...each, model: row.id })));
  return html`
    <${Card} title="Models" note="won duels of their executors, a tie counting half" span=${6}>
      <${Table} label="Win rates" rows=${rows} keyOf=${(row) => row.id} empty="No model is served at present."
        columns=${[
          { name: "Model", cell: (row) => row.id },
          { name: "Duels", number: true, cell: (row) => count(row.duels) },
          { name: "Won", cell: (row) => html`<${Share} value=${row.win_rate} digits=${1} />` },
        ]} />
    <//>
    <${Card} title="Declared weights" note="and what checks of them have found" span=${6}>
      <${Table} label="Declared weights" rows=${identities} keyOf=${(row) => row.model + row.digest} empty="No executor declares which weights it runs."
        columns=${[
          { name: "Model", cell: (row) => row.model },
          { name: "Weights", cell: (row) => html`<span class="mono" title=${row.digest}>${short(row.digest, 12, 4)}</span>` },
          { name: "Executors", number: true, cell: (row) => count(row.executors) },
          { name: "Checks", number: true, cell: (row) => count(row.checks) },
          { name: "Failed", number: true, cell: (row) => count(row.shortfall_failures + row.distance_failures) },
        ]} />
    <//>`;
}

function Own() {
  const report = section("duels").value;
  if (!report) return null;
  const verdict = (row) => (row.verdict ?? row.outcome ? html`<${Pill} kind="ok">${row.verdict ?? row.outcome}<//>` : html`<${Pill}>${row.stage}<//>`);
  return html`
    ${report.benched_s > 0 && html`<p class="notice">This node does not judge for ${Math.ceil(report.benched_s / 60)} minutes: its votes differed when others cast them again.</p>`}
    <${Card} title="Duels of this node" note="since it started, the latest first">
      <${Table} label="Duels" rows=${report.duels} keyOf=${(row) => row.hold + row.role} empty="No duel yet. Some answers are answered again by another node, and judged."
        columns=${[
          { name: "Duel", cell: (row) => html`<span class="mono">${short(row.hold, 12, 4)}</span>` },
          { name: "Role", cell: (row) => row.role },
          { name: "Model", cell: (row) => row.model },
          { name: "Executor", cell: (row) => html`<${Account} address=${row.executor} />` },
          { name: "Challenger", cell: (row) => html`<${Account} address=${row.challenger} />` },
          { name: "Stage or verdict", cell: verdict },
          { name: "Moved, credits", number: true, cell: moved },
        ]} />
    <//>
    <${Card} title="Checks of this node" note="whether an answer is of the weights that were declared">
      <${Table} label="Checks" rows=${report.checks} keyOf=${(row) => row.hold + row.role} empty="No check yet."
        columns=${[
          { name: "Check", cell: (row) => html`<span class="mono">${short(row.hold, 12, 4)}</span>` },
          { name: "Role", cell: (row) => row.role },
          { name: "Model", cell: (row) => row.model },
          { name: "Executor", cell: (row) => html`<${Account} address=${row.executor} />` },
          { name: "Stage or outcome", cell: verdict },
          { name: "Shortfall", number: true, cell: (row) => (row.shortfall == null ? "–" : (row.shortfall / 1000).toFixed(3)) },
          { name: "Distance", number: true, cell: (row) => (row.distance == null ? "–" : percent(row.distance / 1e6, 3)) },
          { name: "Moved, credits", number: true, cell: moved },
        ]} />
    <//>`;
}

export function QualityPage() {
  return html`<${Models} />${isOwner.value && html`<${Own} />`}`;
}
