// The same as python_v1.py with a line of the official TypeScript SDK.
//
// Usage: typescript_lines.mjs URL 1|2, with tokens in TOKEN and OUTSIDER. The number is the SDK's major version.

const v1 = "@modelcontextprotocol/sdk/client/";
const library =
  process.argv[3] === "1"
    ? { ...(await import(`${v1}index.js`)), ...(await import(`${v1}streamableHttp.js`)) }
    : await import("@modelcontextprotocol/client");

const GOOD = { postgresql_query: "SELECT count(*) AS n FROM orders" };

// Not every release line of the SDK reports the agreed revision, so it is read from the wire.
let version = "";
const fetched = globalThis.fetch;
globalThis.fetch = async (url, init) => {
  const response = await fetched(url, init);
  if (String(init?.body).includes('"initialize"')) {
    version = (await response.clone().json()).result?.protocolVersion ?? version;
  }
  return response;
};

async function connected(token, use) {
  const transport = new library.StreamableHTTPClientTransport(new URL(process.argv[2]), {
    requestInit: { headers: { Authorization: `Bearer ${token}` } },
  });
  const client = new library.Client({ name: "storefence-tests", version: "1" });
  await client.connect(transport);
  const seen = await use(client);
  await client.close();
  return { version, ...seen };
}

async function told(client, name, given) {
  const answer = await client.callTool({ name, arguments: given });
  return { isError: answer.isError ?? false, text: answer.content[0].text };
}

const names = async (client) => (await client.listTools()).tools.map((tool) => tool.name);

const seen = await connected(process.env.TOKEN, async (client) => ({
  tools: await names(client),
  good: await told(client, "execute_sales_query", GOOD),
  bad: await told(client, "execute_sales_query", { postgresql_query: "SELECT nope FROM orders" }),
  denied: await told(client, "get_store_performance", { store: "Redmond" }),
}));
seen.outsider = await connected(process.env.OUTSIDER, async (client) => ({
  instructions: client.getInstructions?.() ?? null,
  tools: await names(client),
  refused: await told(client, "execute_sales_query", GOOD),
  whoami: await told(client, "whoami", {}),
}));
console.log(JSON.stringify(seen));
