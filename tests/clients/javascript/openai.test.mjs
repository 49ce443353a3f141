// OpenAI's client for JavaScript: chats, streams, tools, structured output, responses, embeddings, errors, retries, abort.

import assert from "node:assert/strict";
import http from "node:http";
import test from "node:test";
import OpenAI from "openai";

const { BASE_URL, MODEL } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any", maxRetries: 1, timeout: 120_000 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const fixed = { model: MODEL, messages, max_tokens: 8, temperature: 0 };
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];

test("models are listed and described", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes(MODEL));
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});

test("a chat in one piece and streamed", async () => {
  const whole = await client.chat.completions.create(fixed);
  assert.ok(whole.choices[0].message.content && whole.usage.completion_tokens <= 8);
  let text = "";
  let usage;
  const stream = await client.chat.completions.create({ ...fixed, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a tool is called, in one piece and streamed, and its result taken", async () => {
  const asked = { ...fixed, max_tokens: 60, tools, tool_choice: "required" };
  const whole = await client.chat.completions.create(asked);
  const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
  for (const answer of [whole, streamed]) {
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  }
  const { role, content, tool_calls } = whole.choices[0].message;
  const result = { role: "tool", tool_call_id: tool_calls[0].id, content: "sunny" };
  const turns = [...messages, { role, content, tool_calls }, result];
  assert.ok((await client.chat.completions.create({ ...fixed, messages: turns, tools })).choices.length);
});

test("a structured answer is parsed", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema: parameters } };
  const answer = await client.chat.completions.parse({ ...fixed, max_tokens: 60, response_format });
  assert.equal(typeof answer.choices[0].message.parsed.city, "string");
});

test("a response in one piece and streamed, with a tool", async () => {
  const asked = { model: MODEL, input: "What is 1 + 1?", max_output_tokens: 8, temperature: 0 };
  const whole = await client.responses.create(asked);
  assert.ok(whole.output_text);
  let text = "";
  let last;
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event.type;
  }
  assert.equal(text, whole.output_text);
  assert.ok(["response.completed", "response.incomplete"].includes(last));
  const tool = { type: "function", name: "get_weather", parameters, strict: true };
  const asking = { ...asked, tools: [tool], tool_choice: "required", max_output_tokens: 60 };
  const call = (await client.responses.create(asking)).output.find((item) => item.type === "function_call");
  assert.deepEqual(Object.keys(JSON.parse(call.arguments)), ["city"]);
});

test("texts are embedded, as numbers and in base64", async () => {
  const { data } = await client.embeddings.create({ model: MODEL, input: ["cat", "cat"] }); // asks for base64
  assert.deepEqual(data[0].embedding, data[1].embedding);
  const plain = await client.embeddings.create({ model: MODEL, input: "cat", encoding_format: "float" });
  assert.ok(Math.abs(plain.data[0].embedding[0] - data[0].embedding[0]) < 1e-5);
});

test("errors are of the classes that the client has for them", async () => {
  const unknown = client.chat.completions.create({ ...fixed, model: "gpt-9" });
  await assert.rejects(unknown, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
  await assert.rejects(client.chat.completions.create({ ...fixed, n: 99 }), OpenAI.BadRequestError);
  await assert.rejects(client.responses.create({ model: MODEL, input: "x", background: true }), OpenAI.BadRequestError);
});

test("what was refused for the moment is asked again", async (t) => {
  const counts = [];
  const busy = http.createServer(async (request, response) => {
    counts.push(request.headers["x-stainless-retry-count"]);
    if (counts.length === 1) return response.writeHead(503, { "retry-after": "0" }).end("{}");
    const answer = await fetch(BASE_URL.replace(/\/v1$/, "") + request.url, {
      method: request.method,
      headers: { "content-type": "application/json" },
      body: request,
      duplex: "half",
    });
    response.writeHead(answer.status, { "content-type": "application/json" }).end(await answer.text());
  });
  await new Promise((resolve) => busy.listen(0, "127.0.0.1", resolve));
  t.after(() => busy.close());
  const baseURL = `http://127.0.0.1:${busy.address().port}/v1`;
  const patient = new OpenAI({ baseURL, apiKey: "any", maxRetries: 2, timeout: 120_000 });
  assert.ok((await patient.chat.completions.create(fixed)).choices[0].message.content);
  assert.deepEqual(counts, ["0", "1"]);
});

test("a client that aborts ends the answer, and is served again", async () => {
  const stream = await client.chat.completions.create({ ...fixed, max_tokens: 400, stream: true });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta.content) stream.controller.abort();
  }
  const leaving = new AbortController();
  const waiting = client.chat.completions.create({ ...fixed, max_tokens: 400 }, { signal: leaving.signal });
  leaving.abort();
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  assert.ok((await client.chat.completions.create(fixed)).choices.length);
});
