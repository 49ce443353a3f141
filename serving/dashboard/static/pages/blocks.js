// The last final blocks, as they come.

import { html } from "../vendor.js";
import { age, count, credits, plural } from "../format.js";
import { blocks, now } from "../store.js";
import { Account, Card, Share, Table } from "../ui.js";

/** What a block has in it, in words. */
function describeKinds(block) {
  const parts = Object.entries(block.kinds).map(([kind, number]) => plural(number, kind));
  return parts.length ? parts.join(", ") : "empty";
}

export function BlocksCard({ span = 6, rows = 10, full = false }) {
  const columns = [
    { name: "Height", cell: (block) => html`<a href=${`#chain/block/${block.height}`}>${count(block.height)}</a>` },
    { name: "Age", number: true, cell: (block) => age(now.value - block.at) },
    { name: "Operations", cell: (block) => html`<span title=${describeKinds(block)}>${full ? describeKinds(block) : count(block.operations)}</span>`, number: !full },
    full && { name: "Paid, credits", number: true, cell: (block) => (block.paid ? credits(block.paid, 6) : "–") },
    { name: "Proposer", cell: (block) => html`<${Account} address=${block.proposer} />` },
    full && { name: "Skipped views", number: true, cell: (block) => count(block.skipped) },
    { name: "Signed by stake", cell: (block) => html`<${Share} value=${block.signed} />` },
  ].filter(Boolean);
  return html`<${Card} title="Blocks" note="as they become final" span=${span}>
    <${Table} label="Blocks" columns=${columns} rows=${blocks.value.slice(0, rows)} keyOf=${(block) => block.height} empty="No block yet." />
  <//>`;
}
