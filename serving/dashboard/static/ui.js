// Parts of which all pages are made.

import { html, uPlot, useEffect, useRef, useState } from "./vendor.js";
import { clockTime, percent, short } from "./format.js";
import { isDark, me } from "./store.js";

const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-");

export function Card({ title, note, span = 12, children, class: extra = "" }) {
  const id = `c-${slug(title)}`;
  return html`<section class=${`card w${span} ${extra}`} aria-labelledby=${id}>
    <h2><span id=${id}>${title}</span>${note != null && html`<small>${note}</small>`}</h2>
    ${children}
  </section>`;
}

export const Pill = ({ kind = "plain", title, children }) =>
  html`<span class=${`pill ${kind}`} title=${title}>${children}</span>`;

/** A share of something; `load` is drawn in another colour near the full. */
export function Bar({ value, wide = false, load = false }) {
  const share = Math.max(0, Math.min(1, value || 0));
  return html`<span class=${`bar ${wide ? "wide" : ""} ${load && value >= 0.9 ? "full" : ""}`} aria-hidden="true"
    ><i style=${{ width: `${100 * share}%` }}></i
  ></span>`;
}

/** A share as bar and number. */
export const Share = ({ value, digits = 0 }) =>
  value == null ? html`<span class="dim">–</span>` : html`<${Bar} value=${value} /> ${percent(value, digits)}`;

/** An account, by its name here or the ends of its address, with a link to its page. */
export function Account({ address, link = true }) {
  if (!address) return html`<span class="dim">–</span>`;
  const name = address === me.value ? "this node" : short(address, 8, 4);
  const text = address === me.value ? html`<b>${name}</b>` : html`<span class="mono">${name}</span>`;
  return link ? html`<a href=${`#chain/account/${address}`} title=${address}>${text}</a>` : html`<span title=${address}>${text}</span>`;
}

/** A list of facts: pairs of a name and what is said of it. */
export const Facts = ({ rows }) =>
  html`<dl class="facts">${rows.filter(Boolean).map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

export function Tiles({ rows }) {
  return html`<ul class="tiles">
    ${rows.filter(Boolean).map(
      ([label, value, detail]) =>
        html`<li class="tile"><span>${label}</span><b>${value}</b>${detail != null && html`<i>${detail}</i>`}</li>`,
    )}
  </ul>`;
}

/**
 * A table. Columns are {name, cell(row), number}; `empty` is said without rows. What is too wide scrolls inside.
 */
export function Table({ label, columns, rows, keyOf, empty = "Nothing yet." }) {
  if (!rows.length) return html`<p class="empty">${empty}</p>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${`${label}, table`}>
    <table>
      <thead><tr>${columns.map((c) => html`<th scope="col" class=${c.number ? "num" : ""}>${c.name}</th>`)}</tr></thead>
      <tbody>
        ${rows.map(
          (row) => html`<tr key=${keyOf(row)}>
            ${columns.map((c) => html`<td class=${c.number ? "num" : ""}>${c.cell(row)}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** A long list of which only what is seen is drawn. Rows are `height` px high; near the last one `onEnd` is called. */
export function VirtualList({ label, rows, keyOf, draw, onEnd, height = 36, view = 640 }) {
  const [top, setTop] = useState(0);
  const first = Math.max(0, Math.floor(top / height) - 4);
  const last = Math.min(rows.length, first + Math.ceil(view / height) + 8);
  return html`<div
    class="virtual"
    tabindex="0"
    role="region"
    aria-label=${label}
    style=${{ maxHeight: `${view}px` }}
    onScroll=${({ currentTarget: box }) => {
      setTop(box.scrollTop);
      if (box.scrollHeight - box.scrollTop - box.clientHeight < 20 * height) onEnd?.();
    }}
  >
    <div style=${{ height: `${rows.length * height}px` }}>
      ${rows.slice(first, last).map(
        (row, at) =>
          html`<div class="virtual-row" key=${keyOf(row)} style=${{ top: `${(first + at) * height}px`, height: `${height}px` }}>
            ${draw(row)}
          </div>`,
      )}
    </div>
  </div>`;
}

export function Copy({ text, label = "Copy" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text).catch(() => {});
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class="quiet" onClick=${copy}>${done ? "Copied" : label}</button>`;
}

/** Have the browser save a file. */
export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Lines over time. `data` is uPlot's: seconds, then one list for each series {name, color, fill, dash}. `format` writes a
 * value, and the unit stands in `unit`. What is under the pointer is written in the legend.
 */
export function Chart({ label, data, series, unit = "", format = (v) => v.toFixed(1), height = 168, max, step }) {
  const box = useRef();
  const plot = useRef();
  const [at, setAt] = useState(null);
  const latest = useRef();
  latest.current = { format, max };
  const dark = isDark.value;
  useEffect(() => {
    const axis = {
      stroke: colour("--dim"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const element = box.current;
    plot.current = new uPlot(
      {
        width: Math.max(200, element.clientWidth),
        height,
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        hooks: { setCursor: [(u) => setAt(u.cursor.idx ?? null)] },
        series: [
          {},
          ...series.map((each) => ({
            stroke: colour(each.color),
            width: each.dash ? 1.5 : 2,
            dash: each.dash,
            fill: each.fill ? `${colour(each.color)}22` : undefined,
            paths: step ? uPlot.paths.stepped({ align: 1 }) : undefined,
            points: { show: false },
          })),
        ],
        axes: [
          { ...axis, size: 30, space: 70, values: (_, splits) => splits.map((s) => clockTime(1000 * s, splits[1] - splits[0] < 60)) },
          { ...axis, size: 46, space: 34, values: (_, splits) => splits.map((s) => latest.current.format(s)) },
        ],
        scales: { y: { range: (_, __, high) => [0, latest.current.max ?? Math.max(1.15 * (high || 0), 0.1)] } },
      },
      data,
      element,
    );
    const observer = new ResizeObserver(() => plot.current.setSize({ width: Math.max(200, element.clientWidth), height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [dark, series.length]);
  useEffect(() => plot.current?.setData(data), [data]);
  const index = at != null && at < data[0].length ? at : data[0].length - 1;
  const moment = at != null && index >= 0 ? clockTime(1000 * data[0][index]) : "now";
  return html`<div class="chart">
    <p class="legend">
      ${series.map((each, number) => {
        const value = data[number + 1]?.[index];
        const text = value == null ? "–" : `${format(value)}${unit}`;
        return html`<span><i class=${`k${each.color}`}></i>${each.name} <b>${text}</b></span>`;
      })}
      <span class="moment">${moment}</span>
    </p>
    <div ref=${box} role="img" aria-label=${label}></div>
  </div>`;
}

/** A counter as its rate per second, over a window of samples; 0 where the node was started anew. */
export function rate(columns, name, window = 5) {
  const { at } = columns;
  const values = columns[name];
  return values.map((value, index) => {
    const before = Math.max(0, index - window);
    const seconds = at[index] - at[before];
    return seconds > 0 ? Math.max(0, value - values[before]) / seconds : 0;
  });
}

/** A button that asks before it acts: the second click, which names what happens, does it. */
export function Confirm({ label, question, disabled, act }) {
  const [asking, setAsking] = useState(false);
  const [failure, setFailure] = useState(null);
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    setFailure(null);
    try {
      await act();
    } catch (error) {
      setFailure(error.message);
    }
    setBusy(false);
    setAsking(false);
  };
  return html`<div class="confirm">
    ${asking
      ? html`<p>${question}</p>
          <button type="button" class="primary" disabled=${busy} onClick=${run}>${busy ? "Working …" : `Yes, ${label.toLowerCase()}`}</button>
          <button type="button" onClick=${() => setAsking(false)}>No</button>`
      : html`<button type="button" class="primary" disabled=${disabled} onClick=${() => setAsking(true)}>${label}</button>`}
    ${failure && html`<p class="failure" role="alert">${failure}</p>`}
  </div>`;
}
