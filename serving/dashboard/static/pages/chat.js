// A chat with the models of the network. Nothing of it is stored but in this tab.

import { html, signal, useEffect, useRef, useState } from "../vendor.js";
import { cost, count, duration, plural } from "../format.js";
import { Markdown } from "../markdown.js";
import { section, send as sendBody, session } from "../store.js";
import { Account, Copy } from "../ui.js";
import { Payment } from "./node.js";

const messages = signal([]);
const model = signal("");
const system = signal("");
const localOnly = signal(false);
const running = signal(null); // what stops the answer under way

function change(last) {
  messages.value = [...messages.value.slice(0, -1), { ...messages.value.at(-1), ...last }];
}

function makeBody(text) {
  const before = messages.value.filter((each) => each.text && !each.failure).map((each) => ({ role: each.role, content: each.text }));
  const first = system.value.trim() ? [{ role: "system", content: system.value.trim() }] : [];
  return { model: model.value, stream: true, messages: [...first, ...before, { role: "user", content: text }] };
}

/** Text of the events in `buffer`, and what is left of it. Throws if one is an error. */
function readEvents(buffer) {
  const parts = buffer.split("\n\n");
  let text = "";
  for (const part of parts.slice(0, -1)) {
    const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
    if (!data || data === "[DONE]") continue;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message ?? "the answer broke off");
    text += event.choices?.[0]?.delta?.content ?? "";
  }
  return [text, parts.at(-1)];
}

async function send(text) {
  const body = makeBody(text);
  const abort = new AbortController();
  messages.value = [...messages.value, { role: "user", text }, { role: "assistant", text: "", body, started: performance.now() }];
  running.value = abort;
  try {
    const headers = localOnly.value ? { "x-wwwserve-local-only": "1" } : {};
    const answer = await sendBody("/v1/chat/completions", body, { headers, signal: abort.signal });
    if (!answer.ok) {
      const content = await answer.json().catch(() => ({}));
      throw new Error(content.error?.message ?? content.error ?? `the node answered ${answer.status}`);
    }
    change({ id: answer.headers.get("x-request-id"), executor: answer.headers.get("x-wwwserve-executor") });
    const decoder = new TextDecoder();
    let buffer = "";
    for (let reader = answer.body.getReader(), piece; !(piece = await reader.read()).done; ) {
      let fresh;
      [fresh, buffer] = readEvents(buffer + decoder.decode(piece.value, { stream: true }));
      if (fresh) {
        const last = messages.value.at(-1);
        change({ text: last.text + fresh, firstToken: last.firstToken ?? performance.now() - last.started, pieces: (last.pieces ?? 0) + 1 });
      }
    }
    change({ ended: performance.now() });
  } catch (error) {
    if (abort.signal.aborted) change({ stopped: true, ended: performance.now() });
    else change({ failure: error instanceof TypeError ? "The node does not answer." : error.message, ended: performance.now() });
  }
  running.value = null;
}

function asCurl(body) {
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl -N ${session.value.apiUrl}/chat/completions -H 'Content-Type: application/json' -d '${text}'`;
}

function asPython(body) {
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(session.value.apiUrl)}, api_key="none")`,
    `stream = client.chat.completions.create(model=${JSON.stringify(body.model)}, stream=True, messages=${JSON.stringify(body.messages)})`,
    "for chunk in stream:",
    '    print(chunk.choices[0].delta.content or "", end="")',
  ].join("\n");
}

function Answered({ message }) {
  const row = (section("requests").value ?? []).find((each) => each.id === message.id);
  const tokens = row?.completion_tokens || message.pieces || 0;
  const seconds = message.ended && message.firstToken != null ? (message.ended - message.started - message.firstToken) / 1000 : 0;
  return html`<div class="answered">
    ${message.executor && html`<span>served by ${message.executor === "local" ? "this node" : html`<${Account} address=${message.executor} />`}</span>`}
    ${message.firstToken != null && html`<span>first token ${duration(message.firstToken)}</span>`}
    ${seconds > 0 && tokens > 1 && html`<span>${((tokens - 1) / seconds).toFixed(0)} tokens/s</span>`}
    ${tokens > 0 && message.ended && html`<span>${plural(tokens, "token")}</span>`}
    ${row?.amount != null && html`<span>${cost(row.amount)} credits</span>`}
    ${row && row.executor !== "local" && html`<${Payment} row=${row} />`}
    ${row?.executor === "local" && html`<span>costs nothing</span>`}
    ${message.stopped && html`<span>stopped</span>`}
    ${message.ended && html`<${Copy} text=${asCurl(message.body)} label="copy as curl" /><${Copy} text=${asPython(message.body)} label="as Python" />`}
  </div>`;
}

function Message({ message, isLast }) {
  if (message.role === "user") return html`<div class="message user">${message.text}</div>`;
  const waiting = isLast && running.value;
  return html`<div class=${`message assistant ${waiting ? "caret" : ""}`}>
    <${Markdown} text=${message.text} />
    ${message.failure && html`<p class="failure" role="alert">${message.failure}</p>`}
    <${Answered} message=${message} />
  </div>`;
}

function Picker() {
  const models = section("models").value ?? [];
  useEffect(() => {
    if (models.length && !models.some((each) => each.id === model.value))
      model.value = (models.find((each) => each.local) ?? models[0]).id;
  }, [models]);
  const groups = [
    ["On this node", models.filter((each) => each.local)],
    ["On other nodes", models.filter((each) => !each.local)],
  ];
  const describe = (each) => {
    const nodes = each.executors + (each.local ? 1 : 0);
    return `${each.id} · ${plural(nodes, "node")}`;
  };
  return html`<label for="model">Model</label>
    <select id="model" value=${model.value} onChange=${(event) => (model.value = event.currentTarget.value)}>
      ${groups.map(([name, members]) => members.length > 0 && html`<optgroup label=${name}>${members.map((each) => html`<option value=${each.id}>${describe(each)}</option>`)}</optgroup>`)}
    </select>`;
}

export function ChatPage() {
  const [text, setText] = useState("");
  const [options, setOptions] = useState(false);
  const log = useRef();
  const isFollowing = useRef(true);
  useEffect(() => {
    if (isFollowing.current && log.current) log.current.scrollTop = log.current.scrollHeight;
  }, [messages.value]);
  const submit = (event) => {
    event?.preventDefault();
    if (!text.trim() || running.value || !model.value) return;
    isFollowing.current = true;
    send(text.trim());
    setText("");
  };
  const onKey = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<section class="card chat" aria-label="Chat">
    <div>
      <div class="chat-head">
        <h2>Chat</h2><${Picker} />
        <label class="check" title="Never offloaded: your text stays on this node, and costs nothing">
          <input type="checkbox" checked=${localOnly.value} onChange=${(event) => (localOnly.value = event.currentTarget.checked)} /> this node only</label>
        <button type="button" class="quiet" aria-expanded=${options ? "true" : "false"} onClick=${() => setOptions(!options)}>system prompt</button>
        ${messages.value.length > 0 && html`<button type="button" class="quiet" disabled=${!!running.value} onClick=${() => (messages.value = [])}>new chat</button>`}
      </div>
      ${options &&
      html`<div class="chat-options"><label for="system">What the model is told before everything else</label>
        <textarea id="system" class="system" rows="2" value=${system.value} onInput=${(event) => (system.value = event.currentTarget.value)}></textarea></div>`}
    </div>
    <div class="chat-log" ref=${log} tabindex="0" role="log" aria-label="Messages" aria-live="polite"
      onScroll=${({ currentTarget: box }) => (isFollowing.current = box.scrollHeight - box.scrollTop - box.clientHeight < 60)}>
      ${messages.value.length === 0 && html`<p class="empty">Ask a model. Another node may answer, and is paid from this node's account; under each answer it says who did, how fast, and for how much. Nothing is kept but in this tab.</p>`}
      ${messages.value.map((message, at) => html`<${Message} key=${at} message=${message} isLast=${at === messages.value.length - 1} />`)}
    </div>
    <form class="composer" onSubmit=${submit}>
      <label for="prompt" class="skip">Your message</label>
      <textarea id="prompt" rows="1" placeholder="Write a message" value=${text} onInput=${(event) => setText(event.currentTarget.value)} onKeyDown=${onKey}></textarea>
      ${running.value
        ? html`<button type="button" onClick=${() => running.value.abort()}>Stop</button>`
        : html`<button type="submit" class="primary" disabled=${!text.trim() || !model.value}>Send</button>`}
    </form>
  </section>`;
}
