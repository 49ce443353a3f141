// The page: header, the page that the address names, and what keeps both.

import { html, render, useEffect, useState } from "./vendor.js";
import { age, count } from "./format.js";
import {
  applyTheme, chain, connection, finalAge, finality, isOwner, isSearchWanted, isUnlocked, lock, logOut, notice, now, route, session,
  setTheme, start, theme, unlock,
} from "./store.js";
import { Pill } from "./ui.js";
import { ChainPage } from "./pages/chain.js";
import { ChatPage } from "./pages/chat.js";
import { LogsPage } from "./pages/logs.js";
import { MoneyPage } from "./pages/money.js";
import { NetworkPage } from "./pages/network.js";
import { NodePage } from "./pages/node.js";
import { PolicyPage } from "./pages/policy.js";
import { QualityPage } from "./pages/quality.js";

/** Pages by their part of the address; those with `owner` need a session. */
const PAGES = {
  node: { title: "Node", view: NodePage },
  network: { title: "Network", view: NetworkPage },
  chain: { title: "Chain", view: ChainPage },
  chat: { title: "Chat", view: ChatPage, owner: true },
  money: { title: "Money", view: MoneyPage, owner: true },
  policy: { title: "Policy", view: PolicyPage, owner: true },
  quality: { title: "Quality", view: QualityPage },
  logs: { title: "Logs", view: LogsPage, owner: true },
};

const THEMES = { auto: ["light", "Colours: as the system"], light: ["dark", "Colours: light"], dark: ["auto", "Colours: dark"] };
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };

function ThemeButton() {
  const [next, label] = THEMES[theme.value];
  return html`<button type="button" class="quiet theme" title=${label} aria-label=${label} onClick=${() => setTheme(next)}>${SIGNS[theme.value]}</button>`;
}

function Access() {
  const [busy, setBusy] = useState(false);
  const run = async (act) => {
    setBusy(true);
    await act().catch((error) => (notice.value = error.message));
    setBusy(false);
  };
  if (!isOwner.value) return html`<${Pill} title="Run “wwwserve dashboard” to see more">public view<//>`;
  if (isUnlocked.value) {
    const left = session.value.lockedAt == null ? "" : ` ${Math.max(0, Math.ceil((session.value.lockedAt - now.value) / 60000))} min`;
    return html`<button type="button" disabled=${busy} onClick=${() => run(lock)} title="Click to lock">unlocked${left}</button>`;
  }
  return html`<button type="button" disabled=${busy} onClick=${() => run(unlock)} title="Allows changes of policy and wallet for 10 minutes">read only · unlock</button>
    <button type="button" class="quiet" onClick=${() => run(logOut)}>log out</button>`;
}

const CONNECTION = { live: ["ok", "live"], connecting: ["plain", "connecting …"], lost: ["bad", "node does not answer"] };

function Header({ current }) {
  const [kind, text] = CONNECTION[connection.value];
  const view = chain.value;
  return html`<header>
    <a class="brand" href="#node"><img src="/static/icon.svg" alt="" />wwwserve</a>
    <nav aria-label="Pages">
      ${Object.entries(PAGES).map(
        ([name, page]) =>
          (isOwner.value || !page.owner) &&
          html`<a href=${`#${name}`} aria-current=${name === current ? "page" : undefined}>${page.title}</a>`,
      )}
    </nav>
    <div class="state">
      ${view && html`<${Pill} title=${`chain id ${view.chain_id}`}>${view.name}<//>`}
      ${view &&
      html`<a href=${`#chain/block/${view.height}`}><${Pill} kind=${finality.value}>
        ${finality.value === "bad" ? "stalled at" : "height"} ${count(view.height)} · ${age(finalAge.value)} ago
      <//></a>`}
      <span role="status"><${Pill} kind=${kind}><span class="dot" aria-hidden="true"></span>${text}<//></span>
      <${Access} />
    </div>
    <${ThemeButton} />
  </header>`;
}

function App() {
  const [name] = route.value;
  const page = PAGES[name] ?? PAGES.node;
  useEffect(() => document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }), [page]);
  useEffect(() => {
    document.title = `${page.title} · ${chain.value?.name ?? "wwwserve"}`;
  }, [page, chain.value?.name]);
  const View = page.owner && !isOwner.value ? NodePage : page.view;
  return html`<a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.querySelector("main").focus();
    }}>Skip to the page</a>
    <${Header} current=${PAGES[name] ? name : "node"} />
    <main id="main" tabindex="-1">
      <h1 class="skip">${page.title}</h1>
      ${notice.value &&
      html`<p class="notice" role="alert">${notice.value}<button type="button" onClick=${() => (notice.value = null)}>Close</button></p>`}
      ${chain.value ? html`<${View} />` : html`<p class="boot card">${connection.value === "lost" ? "The node does not answer. This page goes on by itself once it does." : "Connecting to the node …"}</p>`}
    </main>`;
}

addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) return;
  event.preventDefault();
  const field = document.getElementById("search");
  if (field) field.focus();
  else {
    isSearchWanted.value = true;
    location.hash = "chain";
  }
});

applyTheme();
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
start();
