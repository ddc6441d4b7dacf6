// Drives a gateway with the official TypeScript SDK and prints what it saw as one JSON object.
//
// Usage: typescript_sdk.mjs URL CALLS, with the token in TOKEN. CALLS is a JSON array of further calls with `name` and
// `arguments`: the SDK holds each answer against the tool's output schema and throws where it does not fit.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), {
  requestInit: { headers: { Authorization: `Bearer ${process.env.TOKEN}` } },
});
const client = new Client({ name: "storefence-tests", version: "1" });
await client.connect(transport);
const call = (sql) => client.callTool({ name: "execute_sales_query", arguments: { postgresql_query: sql } });
const { tools } = await client.listTools();
const good = await call("SELECT count(*) AS n FROM orders");
const bad = await call("SELECT nope FROM orders");
const calls = JSON.parse(process.argv[3]);
for (const { name, arguments: given, isError } of calls) {
  const answer = await client.callTool({ name, arguments: given });
  if ((answer.isError ?? false) !== isError) throw new Error(`${name}: ${JSON.stringify(answer.structuredContent)}`);
}
const { prompts } = await client.listPrompts();
const { contents } = await client.readResource({ uri: "storefence://schema/orders" });
console.log(
  JSON.stringify({
    version: transport.protocolVersion,
    tools: tools.map((tool) => tool.name),
    rows: good.structuredContent.rows,
    goodIsError: good.isError ?? false,
    badIsError: bad.isError ?? false,
    bad: bad.structuredContent,
    prompts: prompts.map((prompt) => prompt.name),
    resource: contents[0].text,
  }),
);
await client.close();
