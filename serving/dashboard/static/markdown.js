// The part of Markdown that models write, as elements. Text stays text: no HTML is read, and no address is loaded.

import { html } from "./vendor.js";

const INLINE = /(`[^`\n]+`|\*\*[^*\n]+\*\*|\*[^*\s][^*\n]*\*)/;

function inline(text) {
  return text.split(INLINE).map((part) => {
    if (part.length > 2 && part.startsWith("`") && part.endsWith("`")) return html`<code>${part.slice(1, -1)}</code>`;
    if (part.length > 4 && part.startsWith("**") && part.endsWith("**")) return html`<strong>${part.slice(2, -2)}</strong>`;
    if (part.length > 2 && part.startsWith("*") && part.endsWith("*")) return html`<em>${part.slice(1, -1)}</em>`;
    return part;
  });
}

const lines = (text) => text.split("\n").map((line, at) => [at > 0 && html`<br />`, inline(line)]);

function block(text) {
  const heading = /^(#{1,6})\s+(.*)$/.exec(text);
  if (heading) return html`<p><strong>${inline(heading[2])}</strong></p>`;
  const rows = text.split("\n");
  if (rows.every((row) => /^\s*[-*+]\s+/.test(row))) return html`<ul>${rows.map((row) => html`<li>${inline(row.replace(/^\s*[-*+]\s+/, ""))}</li>`)}</ul>`;
  if (rows.every((row) => /^\s*\d+[.)]\s+/.test(row))) return html`<ol>${rows.map((row) => html`<li>${inline(row.replace(/^\s*\d+[.)]\s+/, ""))}</li>`)}</ol>`;
  return html`<p>${lines(text)}</p>`;
}

export function Markdown({ text }) {
  return text.split(/```/).map((part, at) => {
    if (at % 2) return html`<pre tabindex="0"><code>${part.replace(/^[\w+-]*\n/, "").replace(/\n$/, "")}</code></pre>`;
    return part.split(/\n{2,}/).map((each) => each.trim()).filter(Boolean).map(block);
  });
}
