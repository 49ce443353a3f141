// The explorer of the chain: live blocks, validators, search, and a page for each block, operation and account.

import { html, useEffect, useRef, useState } from "../vendor.js";
import { age, bytes, cost, count, credits, creditsShort, dateTime, percent, plural, short } from "../format.js";
import { ask, chain, finalAge, finality, go, isSearchWanted, me, now, route } from "../store.js";
import { Account, Bar, Card, Copy, Facts, Pill, Share, Table, Tiles, VirtualList, save } from "../ui.js";
import { BlocksCard } from "./blocks.js";

/** The node's answer to a path: {value}, {failure}, or neither yet. Asked anew when `again` changes. */
function useAnswer(path, again) {
  const [state, setState] = useState({});
  useEffect(() => {
    const abort = new AbortController();
    setState((before) => (before.path === path ? before : { path }));
    ask(path, { signal: abort.signal })
      .then((value) => setState({ path, value }))
      .catch((error) => !abort.signal.aborted && setState({ path, failure: error.message }));
    return () => abort.abort();
  }, [path, again]);
  return state;
}

const Waiting = ({ state }) =>
  state.failure ? html`<p class="failure" role="alert">${state.failure}</p>` : html`<p class="empty">Reading the ledger …</p>`;

function Search() {
  const [failure, setFailure] = useState(null);
  const field = useRef();
  useEffect(() => {
    if (isSearchWanted.value) field.current.focus();
    isSearchWanted.value = false;
  }, []);
  const find = async (event) => {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("q").trim();
    if (!text) return;
    setFailure(null);
    try {
      const found = await ask(`/chain/search?q=${encodeURIComponent(text)}`);
      if (found.kind) go("chain", found.kind, found.id);
      else setFailure(`nothing on this chain is called “${short(text, 40, 8)}”`);
    } catch (error) {
      setFailure(error.message);
    }
  };
  return html`<form class="search" role="search" onSubmit=${find}>
      <label for="search" class="skip">Search the chain</label>
      <input ref=${field} id="search" name="q" type="search" autocomplete="off" spellcheck="false" placeholder="Height, block, operation or address (press / to come here)" />
      <button type="submit" class="primary">Search</button>
    </form>
    ${failure && html`<p class="notice" role="alert">${failure}</p>`}`;
}

function Overview() {
  const view = chain.value;
  const epoch = useAnswer("/chain/validators", view.height >> 2);
  const validators = epoch.value;
  const done = validators ? view.height - (validators.last_height - view.epoch_heights) : 0;
  return html`
    <${Tiles} rows=${[
      ["Last final block", count(view.height), html`<${Pill} kind=${finality.value}>${age(finalAge.value)} ago<//>`],
      ["Epoch", count(view.epoch), validators && html`<${Bar} value=${done / view.epoch_heights} wide /> ${plural(Math.max(0, validators.last_height - view.height), "block")} to go`],
      ["Validators", validators ? count(validators.validators.length) : "–", validators && `${creditsShort(validators.total_stake)} credits at stake`],
      ["Credits in all accounts", creditsShort(view.supply), `${creditsShort(view.treasury)} in the treasury`],
    ]} />
    <${BlocksCard} span=${12} rows=${14} full />
    <${Card} title="Validators" note="who votes on the next block">
      ${validators ? html`<${Validators} content=${validators} />` : html`<${Waiting} state=${epoch} />`}
    <//>`;
}

function Validators({ content }) {
  const columns = [
    { name: "Validator", cell: (row) => html`<${Account} address=${row.address} />` },
    { name: "Stake, credits", number: true, cell: (row) => creditsShort(row.stake) },
    { name: "Share of the vote", cell: (row) => html`<${Share} value=${row.share} digits=${1} />` },
    {
      name: "Votes this epoch",
      cell: (row) => (content.counted_blocks ? html`<${Share} value=${row.votes / content.counted_blocks} />` : html`<span class="dim">not counted yet</span>`),
    },
  ];
  return html`<${Table} label="Validators" columns=${columns} rows=${content.validators} keyOf=${(row) => row.address} />
    ${content.jailed.length > 0 &&
    html`<h3>Jailed</h3><ul>${content.jailed.map((each) => html`<li><${Account} address=${each.address} /> until epoch ${count(each.until_epoch)}</li>`)}</ul>`}`;
}

/** What an operation does, in a sentence. */
export function Sentence({ operation }) {
  const who = html`<${Account} address=${operation.signer} />`;
  const amount = () => html`<b>${credits(operation.amount, operation.amount % 10000 ? 6 : 2)}</b> credits`;
  switch (operation.kind) {
    case "transfer":
      return html`${who} sends ${amount()} to <${Account} address=${operation.recipient} />`;
    case "hold":
      return html`${who} holds ${amount()} for <${Account} address=${operation.payee} /> to answer with ${operation.model}`;
    case "capture": {
      const paid = operation.items.reduce((sum, item) => sum + item.delivery.amount, 0);
      return html`${who} captures <b>${cost(paid)}</b> credits for ${plural(operation.items.length, "answer")}`;
    }
    case "release":
      return html`${who} takes back a hold that was not captured`;
    case "dispute":
      return html`${who} disputes a capture`;
    case "bond":
      return html`${who} puts ${amount()} at stake`;
    case "unbond":
      return html`${who} takes ${amount()} out of its stake`;
    case "withdraw":
      return html`${who} withdraws what it has unbonded`;
    case "serve":
      return html`${who} declares that it serves ${operation.models.join(", ") || "nothing"}`;
    case "enroll":
      return html`${who} becomes a validator`;
    case "retire":
      return html`${who} stops being a validator`;
    case "unjail":
      return html`${who} asks to leave jail`;
    case "recommit":
      return html`${who} commits to another chain of random numbers`;
    case "evidence":
      return html`${who} shows two votes of one validator that exclude each other`;
    case "register":
      return html`${who} joins with a proof of work`;
    default:
      return html`${who}: ${operation.kind.replace(/_/g, " ")}`;
  }
}

function Operations({ rows, withHeight = true, label = "Operations" }) {
  const columns = [
    withHeight && { name: "Height", cell: (row) => html`<a href=${`#chain/block/${row.height}`}>${count(row.height)}</a>` },
    withHeight && { name: "Age", number: true, cell: (row) => age(now.value - row.timestamp) },
    { name: "Kind", cell: (row) => html`<${Pill} kind=${row.failure ? "bad" : "plain"}>${row.kind}<//>` },
    { name: "What it does", cell: (row) => html`<${Sentence} operation=${row} />${row.failure && html` <span class="failure">failed: ${row.failure}</span>`}` },
    { name: "Operation", cell: (row) => html`<a class="mono" href=${`#chain/operation/${row.id}`}>${short(row.id, 10, 4)}</a>` },
  ].filter(Boolean);
  return html`<${Table} label=${label} columns=${columns} rows=${rows} keyOf=${(row) => row.id} empty="No operation." />`;
}

/** Very many operations, of which more are read as the list is scrolled. */
const LongList = ({ rows, onEnd }) =>
  html`<${VirtualList} label="Operations" rows=${rows} keyOf=${(row) => row.id} onEnd=${onEnd}
    draw=${(row) => html`<a href=${`#chain/block/${row.height}`}>${count(row.height)}</a><${Pill} kind=${row.failure ? "bad" : "plain"}>${row.kind}<//>
      <span class="grow"><${Sentence} operation=${row} /></span><a class="mono" href=${`#chain/operation/${row.id}`}>${short(row.id, 6, 4)}</a>`} />`;

const Raw = ({ content }) => html`<details><summary>As JSON</summary><pre class="raw" tabindex="0">${JSON.stringify(content, null, 2)}</pre></details>`;

function BlockPage({ id }) {
  const state = useAnswer(`/chain/blocks/${encodeURIComponent(id)}`);
  const block = state.value;
  if (!block) return html`<${Card} title=${`Block ${short(id, 12, 6)}`}><${Waiting} state=${state} /><//>`;
  const { header } = block;
  const final = block.final_by;
  return html`
    <${Card} title=${`Block ${count(header.height)}`} span=${7}
      note=${html`${header.height > 0 && html`<a href=${`#chain/block/${header.height - 1}`}>← ${count(header.height - 1)}</a>`}
        ${header.height < chain.value.height && html` <a href=${`#chain/block/${header.height + 1}`}>${count(header.height + 1)} →</a>`}`}>
      <${Facts} rows=${[
        ["Block id", html`<span class="mono">${block.id}</span> <${Copy} text=${block.id} />`],
        ["Proposed by", html`<${Account} address=${header.proposer} /> in view ${count(header.view)} of epoch ${count(header.epoch)}`],
        ["Time", `${dateTime(header.timestamp)} (${age(now.value - header.timestamp)} ago)`],
        ["Operations", count(block.operations.length)],
        header.height > 0 && ["After", html`<a class="mono" href=${`#chain/block/${header.height - 1}`}>${short(header.parent_id, 16, 8)}</a>`],
        ["State after it", html`<span class="mono">${short(header.state_root, 16, 8)}</span>`],
      ]} />
    <//>
    <${Card} title="Final by" span=${5} note=${final?.share != null ? `${percent(final.share, 1)} of stake` : ""}>
      ${final
        ? html`<p>${final.height === header.height ? "Its own certificate" : html`The certificate of <a href=${`#chain/block/${final.height}`}>block ${count(final.height)}</a>`} has ${plural(final.signers, "signature")}.</p>
            <${Table} label="Signers" rows=${final.votes} keyOf=${(row) => row.address}
              columns=${[{ name: "Signer", cell: (row) => html`<${Account} address=${row.address} />` }, { name: "Share of the vote", cell: (row) => html`<${Share} value=${row.share} digits=${1} />` }]}
              empty="The committee of that time is not on record." />`
        : html`<p class="empty">Genesis is where the chain begins; nobody signs it.</p>`}
    <//>
    <${Card} title="Operations" note=${plural(block.operations.length, "operation")}>
      <${Operations} rows=${block.operations} withHeight=${false} />
      <${Raw} content=${block} />
    <//>`;
}

/** Downloads a proof, and shows the command that checks it without trusting this node. */
function Prove({ path, file }) {
  const [state, setState] = useState({});
  const prove = async () => {
    setState({ busy: true });
    try {
      const { proof } = await ask(path);
      const text = typeof proof === "string" ? proof : JSON.stringify(proof, null, 2);
      save(file, text, "text/plain");
      setState({ size: text.length });
    } catch (error) {
      setState({ failure: error.message });
    }
  };
  return html`<p class="locked">
      <button type="button" class="primary" disabled=${state.busy} onClick=${prove}>Prove it</button>
      <span class="dim">A proof that holds by the signatures of the validators, without trusting this node.</span>
    </p>
    ${state.failure && html`<p class="failure" role="alert">${state.failure}</p>`}
    ${state.size &&
    html`<p role="status">${file} (${bytes(state.size)}) is in your downloads. Check it on any machine that has the genesis file:</p>
      <p><code>chain check-proof ${file} --genesis genesis.json</code> <${Copy} text=${`chain check-proof ${file} --genesis genesis.json`} /></p>`}`;
}

function OperationPage({ id }) {
  const state = useAnswer(`/chain/operations/${encodeURIComponent(id)}`);
  const operation = state.value;
  if (!operation) return html`<${Card} title=${`Operation ${short(id, 12, 6)}`}><${Waiting} state=${state} /><//>`;
  return html`<${Card} title=${`Operation ${short(operation.id, 12, 6)}`} note=${operation.kind}>
    <p><${Sentence} operation=${operation} /></p>
    <${Facts} rows=${[
      ["Outcome", operation.failure ? html`<${Pill} kind="bad">failed<//> ${operation.failure} (its fee was paid)` : html`<${Pill} kind="ok">final<//>`],
      ["In", html`<a href=${`#chain/block/${operation.height}`}>block ${count(operation.height)}</a>, number ${count(operation.index + 1)}`],
      ["Signed by", html`<${Account} address=${operation.signer} />`],
      ["Operation id", html`<span class="mono">${operation.id}</span> <${Copy} text=${operation.id} />`],
    ]} />
    <${Prove} path=${`/chain/proof/operations/${operation.id}`} file=${`operation-${operation.id.slice(0, 12)}.txt`} />
    <${Raw} content=${operation} />
  <//>`;
}

function AccountPage({ address }) {
  const state = useAnswer(`/chain/accounts/${encodeURIComponent(address)}`, chain.value.height >> 3);
  const [pages, setPages] = useState({ rows: [], next: undefined });
  const loading = useRef(null);
  const load = (before) => {
    if (loading.current === before) return; // the same page is on its way
    loading.current = before;
    ask(`/chain/accounts/${encodeURIComponent(address)}/operations?limit=${before ? 200 : 50}${before ? `&before=${before}` : ""}`)
      .then((page) => setPages((old) => ({ rows: before ? [...old.rows, ...page.operations] : page.operations, next: page.next })))
      .catch((error) => setPages((old) => ({ ...old, failure: error.message })));
  };
  useEffect(() => {
    setPages({ rows: [], next: undefined });
    load();
  }, [address]);
  const account = state.value;
  const partners = new Map(); // of the first page alone: the rest may be very long
  for (const row of pages.rows.slice(0, 200))
    for (const other of [row.signer, row.recipient, row.payee]) if (other && other !== address) partners.set(other, (partners.get(other) ?? 0) + 1);
  return html`
    <${Card} title=${address === me.value ? "This node's account" : "Account"} note=${html`<${Copy} text=${address} label="Copy address" />`}>
      <p class="mono">${address}</p>
      ${!account && html`<${Waiting} state=${state} />`}
      ${account && html`<${Prove} path=${`/chain/proof/accounts/${address}`} file=${`account-${address.slice(-8)}.txt`} />`}
    <//>
    ${account &&
    html`<${Tiles} rows=${[
      ["Available", credits(account.available), "credits"],
      ["Held", credits(account.held), "for answers under way"],
      ["At stake", credits(account.bonded), "credits"],
      ["Deposit", credits(account.deposit), "credits"],
      ["Serves", account.models.length ? plural(account.models.length, "model") : "nothing", account.models.join(", ")],
      ["Operations signed", count(account.nonce), "with a nonce"],
    ]} />`}
    <${Card} title="Operations" note="the latest first" span=${partners.size ? 9 : 12}>
      ${pages.failure ? html`<p class="failure">${pages.failure}</p>` : pages.next === undefined ? html`<p class="empty">Reading the ledger …</p>` : pages.rows.length > 50 ? html`<${LongList} rows=${pages.rows} onEnd=${() => pages.next && load(pages.next)} />` : html`<${Operations} rows=${pages.rows} />`}
      ${pages.next && pages.rows.length <= 50 && html`<p class="more"><button type="button" onClick=${() => load(pages.next)}>Earlier operations</button></p>`}
    <//>
    ${partners.size > 0 &&
    html`<${Card} title="Counterparties" note="of these operations" span=${3}>
      <${Table} label="Counterparties" rows=${[...partners].sort((a, b) => b[1] - a[1]).slice(0, 12)} keyOf=${([other]) => other}
        columns=${[{ name: "Account", cell: ([other]) => html`<${Account} address=${other} />` }, { name: "Operations", number: true, cell: ([, number]) => count(number) }]} />
    <//>`}`;
}

export function ChainPage() {
  const [, kind, id] = route.value;
  const pages = { block: BlockPage, operation: OperationPage };
  const Page = pages[kind];
  return html`<${Search} />
    ${kind === "account" && id ? html`<${AccountPage} address=${id} key=${id} />` : Page && id ? html`<${Page} id=${id} key=${id} />` : html`<${Overview} />`}`;
}
