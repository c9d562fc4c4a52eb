// The official Node SDK, unmodified, against a gateway: prints one JSON line with what it saw.
import OpenAI from "openai";

const [, , baseURL, apiKey] = process.argv;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const seen = {};

const answer = await client.chat.completions.create({ model: "chat", messages });
seen.chat = answer.choices[0].message.content;

const pieces = [];
for await (const chunk of await client.chat.completions.create({ model: "stream", messages, stream: true })) {
  pieces.push(chunk.choices[0]?.delta?.content ?? "");
}
seen.stream = pieces.join("");

let usage = null;
const stream = await client.chat.completions.create({
  model: "stream", messages, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) usage = chunk.usage ?? usage;
seen.usage = usage;

const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }];
const called = await client.chat.completions.create({ model: "tools", messages, tools });
seen.tool = called.choices[0].message.tool_calls[0].function;

const format = { type: "json_schema", json_schema: { name: "x", schema: { type: "object" } } };
const shaped = await client.chat.completions.create({ model: "json", messages, response_format: format });
seen.json = JSON.parse(shaped.choices[0].message.content);

const both = await client.chat.completions.create({ model: "two", messages, n: 2, logprobs: true });
seen.n = both.choices.length;
seen.logprobs = both.choices[0].logprobs.content[0].token;

const controller = new AbortController();
const long = await client.chat.completions.create({ model: "endless", messages, stream: true }, { signal: controller.signal });
for await (const chunk of long) {
  if (chunk.choices[0]?.delta?.content) controller.abort();
}
seen.cancelled = true;

seen.errors = {};
for (const model of ["nobody-knows-it", "bad-request", "unavailable", "limited"]) {
  try {
    await client.chat.completions.create({ model, messages });
  } catch (error) {
    seen.errors[model] = [error.constructor.name, error.status, error.code];
  }
}
try {
  await new OpenAI({ baseURL, apiKey: "sk-wrong-wrong", maxRetries: 0 }).models.list();
} catch (error) {
  seen.errors.key = [error.constructor.name, error.status, error.code];
}
try {
  for await (const _ of await client.chat.completions.create({ model: "breaks", messages, stream: true }));
} catch (error) {
  seen.errors.breaks = [error.constructor.name, error.code];
}
console.log(JSON.stringify(seen));
