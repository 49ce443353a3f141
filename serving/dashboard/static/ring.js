// The network as a ring. Arcs are models, circles stake, their filling load; lines are the holds of the last minute out
// of final blocks: who pays whom, which everybody knows. It needs no layout, so it stays where it is as things change.

import { html, useEffect, useRef, useState } from "./vendor.js";
import { creditsShort, percent, plural, short } from "./format.js";

const MAX_NODES = 200;
const SHOWN_NODES = 150;
const GAP = 0.06; // radians between two arcs
const NO_MODEL = "no model";

/** Nodes in the order of the ring, by model and stake; of very many the smallest of each model become one. */
export function arrange(nodes) {
  const sizes = new Map();
  for (const each of nodes) for (const model of each.models) sizes.set(model, (sizes.get(model) ?? 0) + 1);
  const groupOf = (each) => [...each.models].sort((a, b) => sizes.get(b) - sizes.get(a) || (a < b ? -1 : 1))[0] ?? NO_MODEL;
  let placed = nodes.map((each) => ({ ...each, group: groupOf(each) }));
  if (placed.length > MAX_NODES) {
    const byStake = [...placed].sort((a, b) => b.is_me - a.is_me || b.bonded - a.bonded);
    const others = new Map();
    for (const each of byStake.slice(SHOWN_NODES)) {
      const sum = others.get(each.group) ?? { address: `others ${each.group}`, group: each.group, bonded: 0, running: 0, slots: 0, members: 0, models: [] };
      sum.bonded += each.bonded;
      sum.running += each.running;
      sum.slots += each.slots;
      sum.members += 1;
      others.set(each.group, sum);
    }
    placed = [...byStake.slice(0, SHOWN_NODES), ...others.values()];
  }
  const rank = (group) => (group === NO_MODEL ? -1 : sizes.get(group));
  return placed.sort(
    (a, b) => rank(b.group) - rank(a.group) || (a.group < b.group ? -1 : a.group > b.group ? 1 : 0) || b.bonded - a.bonded || (a.address < b.address ? -1 : 1),
  );
}

/** Angles of nodes and arcs, from the top clockwise. */
function place(nodes) {
  const groups = [...new Set(nodes.map((each) => each.group))];
  const gap = groups.length > 1 ? GAP : 0;
  const step = (2 * Math.PI - gap * groups.length) / Math.max(1, nodes.length);
  let angle = -Math.PI / 2;
  const placed = new Map();
  const arcs = groups.map((group, index) => {
    const from = angle;
    const members = nodes.filter((each) => each.group === group);
    for (const each of members) {
      placed.set(each.address, { ...each, angle: angle + step / 2 });
      angle += step;
    }
    const arc = { group, index, from, to: angle, count: members.reduce((sum, each) => sum + (each.members ?? 1), 0) };
    angle += gap;
    return arc;
  });
  return { placed, arcs, step };
}

export function Ring({ nodes, flows, me }) {
  const box = useRef();
  const [width, setWidth] = useState(900);
  useEffect(() => {
    const element = box.current;
    const observer = new ResizeObserver(() => setWidth(Math.max(280, element.clientWidth)));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  const narrow = width < 620;
  const { placed, arcs, step } = place(arrange(nodes));
  const height = narrow ? width + 40 : Math.min(680, Math.max(440, 0.62 * width));
  const cx = width / 2;
  const cy = height / 2;
  const radius = Math.min(width, height) / 2 - (narrow ? (arcs.length > 1 ? 40 : 60) : 72);
  const at = (angle, r) => [cx + r * Math.cos(angle), cy + r * Math.sin(angle)];
  const lines = flows
    .filter((flow) => placed.has(flow.payer) && placed.has(flow.payee))
    .sort((a, b) => (a.payer === me || a.payee === me) - (b.payer === me || b.payee === me));
  const most = Math.max(1, ...nodes.map((each) => each.bonded));
  const room = Math.max(3, Math.min(26, 0.42 * step * radius));
  const largest = Math.max(room, 10); // of many nodes the largest overlap, or all would be dots
  const size = (each) => Math.max(3, largest * (0.3 + 0.7 * Math.sqrt(each.bonded / most)));
  const thin = lines.length > 40 ? 0.5 : 1;
  const arcPath = (from, to, r) => {
    if (to - from > 6.2) {
      const [x0, y0] = at(from, r);
      const [x1, y1] = at(from + Math.PI, r);
      return `M${x0},${y0}A${r},${r} 0 0 1 ${x1},${y1}A${r},${r} 0 0 1 ${x0},${y0}`;
    }
    const [x0, y0] = at(from, r);
    const [x1, y1] = at(to, r);
    return `M${x0},${y0}A${r},${r} 0 ${to - from > Math.PI ? 1 : 0} 1 ${x1},${y1}`;
  };
  const named = placed.size <= (narrow ? 8 : 24);
  const label = `${plural(placed.size, "node")} by model and ${plural(lines.length, "pair")} of payer and payee in the last minute; the table below has the same`;
  return html`<div ref=${box}>
    <svg class="ring" viewBox=${`0 0 ${width} ${height}`} height=${height} role="img" aria-label=${label}>
      ${lines.map((flow) => {
        const [x0, y0] = at(placed.get(flow.payer).angle, radius - largest - 4);
        const [x1, y1] = at(placed.get(flow.payee).angle, radius - largest - 4);
        const kind = flow.payer === me ? " out" : flow.payee === me ? " in" : "";
        return html`<path key=${`${flow.payer}${flow.payee}`} class=${`edge${kind}${thin < 1 ? " many" : ""}`} stroke-width=${kind ? 1 + Math.min(9, 1.4 * Math.sqrt(flow.holds)) : thin * (1 + Math.min(9, 1.2 * Math.sqrt(flow.holds)))}
          d=${`M${x0},${y0}Q${cx + 0.12 * (y1 - y0)},${cy - 0.12 * (x1 - x0)} ${x1},${y1}`} />`;
      })}
      ${arcs.map((arc) => {
        const middle = (arc.from + arc.to) / 2;
        const whole = arc.to - arc.from > 6.2;
        const [x, y] = whole ? [cx, 22] : at(middle, radius + largest + (narrow ? 22 : 28));
        const anchor = whole || Math.abs(Math.cos(middle)) < 0.35 || narrow ? "middle" : Math.cos(middle) > 0 ? "start" : "end";
        const inside = Math.min(Math.max(x, narrow ? 70 : 8), width - (narrow ? 70 : 8));
        return html`<g key=${arc.group}>
          <path class=${`arc ${arc.group === NO_MODEL ? "none" : `a${arc.index % 5}`}`} d=${arcPath(arc.from, arc.to, radius + largest + 8)} />
          ${(!narrow || whole) && html`<text x=${inside} y=${y} text-anchor=${anchor} font-weight="600">${short(arc.group, narrow ? 14 : 28, 6)}
            <tspan class="sub" font-weight="400"> ${plural(arc.count, "node")}</tspan></text>`}
        </g>`;
      })}
      ${[...placed.values()].map((each) => {
        const [x, y] = at(each.angle, radius);
        const r = size(each);
        const load = each.slots ? each.running / each.slots : 0;
        const name = each.address === me ? "you" : each.members ? plural(each.members, "other") : short(each.address, 0, 4);
        const [tx, ty] = at(each.angle, radius - largest - 22);
        return html`<g key=${each.address} class=${each.address === me ? "me" : ""}>
          <title>${`${each.address === me ? "this node" : each.address}: ${creditsShort(each.bonded)} credits at stake, load ${percent(load)}`}</title>
          <circle class="stake" cx=${x} cy=${y} r=${r} />
          ${load > 0 && html`<circle class="load" cx=${x} cy=${y} r=${Math.max(1.5, (r - 1.5) * Math.sqrt(Math.min(1, load)))} />`}
          ${(named || each.address === me) && html`<text class=${each.address === me ? "" : "sub"} x=${tx} y=${ty + 4} text-anchor="middle" font-weight=${each.address === me ? 600 : 400}>${name}</text>`}
        </g>`;
      })}
    </svg>
    ${narrow && arcs.length > 1 && html`<p class="legend">${arcs.map((arc) => html`<span><i class=${arc.group === NO_MODEL ? "swatch-none" : `swatch${arc.index % 5}`}></i>${arc.group}: ${plural(arc.count, "node")}</span>`)}</p>`}
    <p class="legend">
      <span>arc: model</span><span>circle: stake</span><span>filling: load</span><span>line: holds in final blocks of the last minute</span>
      <span><i class="k--s2"></i>you pay</span><span><i class="k--s3"></i>pays you</span>
    </p>
  </div>`;
}
