// The AI SDK, with its provider for OpenAI-compatible servers: text, streams, tools, objects, embeddings, errors, abort.

import assert from "node:assert/strict";
import test from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

const { BASE_URL, MODEL } = process.env;
const provider = createOpenAICompatible({
  name: "node",
  baseURL: BASE_URL,
  apiKey: "any",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const fixed = { model: provider(MODEL), temperature: 0, maxOutputTokens: 8, maxRetries: 1 };
const prompt = "What is the capital of France?";
const schema = jsonSchema({
  type: "object",
  properties: { city: { type: "string", maxLength: 12 } },
  required: ["city"],
  additionalProperties: false,
});

test("a text in one piece and streamed, with its usage", async () => {
  const whole = await generateText({ ...fixed, prompt });
  assert.ok(whole.text);
  assert.ok(whole.usage.outputTokens <= 8 && whole.usage.inputTokens > 0);
  const stream = streamText({ ...fixed, prompt });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  assert.equal(await stream.finishReason, whole.finishReason);
});

test("a tool is called and its result taken, in one piece and streamed", async () => {
  const called = [];
  const get_weather = tool({
    description: "Get the weather",
    inputSchema: schema,
    execute: async ({ city }) => {
      called.push(city);
      return { weather: "sunny" };
    },
  });
  const asked = { ...fixed, prompt, maxOutputTokens: 60, tools: { get_weather }, toolChoice: "required" };
  const whole = await generateText({ ...asked, stopWhen: stepCountIs(2) });
  assert.equal(whole.steps[0].toolCalls[0].toolName, "get_weather");
  const stream = streamText({ ...asked, stopWhen: stepCountIs(1) });
  const kinds = [];
  for await (const part of stream.fullStream) kinds.push(part.type);
  assert.ok(kinds.includes("tool-call") && !kinds.includes("error"));
  assert.ok(called.length >= 2 && called.every((city) => typeof city === "string"));
});

test("an object of a schema", async () => {
  const output = Output.object({ schema, name: "city" });
  const answer = await generateText({ ...fixed, prompt, maxOutputTokens: 60, output });
  assert.equal(typeof answer.output.city, "string");
});

test("texts are embedded", async () => {
  const { embeddings } = await embedMany({ model: provider.embeddingModel(MODEL), values: ["cat", "cat"] });
  assert.deepEqual(embeddings[0], embeddings[1]);
});

test("a completion", async () => {
  const answer = await generateText({ ...fixed, model: provider.completionModel(MODEL), prompt: "One, two," });
  assert.ok(answer.text);
});

test("an error says what is wrong", async () => {
  const unknown = generateText({ ...fixed, model: provider("gpt-9"), prompt, maxRetries: 0 });
  await assert.rejects(unknown, (error) => APICallError.isInstance(error) && error.statusCode === 404);
});

test("a client that aborts is served again", async () => {
  const leaving = new AbortController();
  const stream = streamText({ ...fixed, prompt, maxOutputTokens: 400, abortSignal: leaving.signal, onError: () => {} });
  for await (const part of stream.fullStream) if (part.type === "text-delta") leaving.abort();
  assert.ok((await generateText({ ...fixed, prompt })).text);
});
