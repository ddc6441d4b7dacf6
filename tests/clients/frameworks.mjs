// The same as frameworks.py with clients of the Node.js world.
//
// Usage: frameworks.mjs ai-sdk|inspector|mcp-remote URL, with tokens in TOKEN and OUTSIDER.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [kind, url] = process.argv.slice(2);
const GOOD = { postgresql_query: "SELECT count(*) AS n FROM orders" };
const packages = fileURLToPath(new URL("node_modules", import.meta.url));
const plain = (answer) => ({ isError: answer.isError ?? false, text: answer.content[0].text });

const clients = {
  // Every tool becomes one of the AI SDK's; what it executes is what a model would call.
  "ai-sdk": async (token, use) => {
    const { createMCPClient } = await import("@ai-sdk/mcp");
    const headers = { Authorization: `Bearer ${token}` };
    const client = await createMCPClient({ transport: { type: "http", url, headers } });
    const tools = await client.tools();
    const call = async (name, given) => plain(await tools[name].execute(given, { toolCallId: "1", messages: [] }));
    const seen = await use(Object.keys(tools), call);
    await client.close();
    return seen;
  },

  // MCP Inspector on the command line: a process for each request; an error of a tool is exit code 5.
  inspector: async (token, use) => {
    const run = (...more) =>
      new Promise((resolve, reject) => {
        const program = join(packages, "@modelcontextprotocol/inspector/clients/launcher/build/index.js");
        const options = ["--cli", url, "--transport", "http", "--header", `Authorization: Bearer ${token}`];
        const child = spawn(process.execPath, [program, ...options, ...more]);
        let [out, err] = ["", ""];
        child.stdout.on("data", (data) => (out += data));
        child.stderr.on("data", (data) => (err += data));
        child.on("close", (code) => (code === 0 || code === 5 ? resolve(JSON.parse(out)) : reject(new Error(`${code}: ${out}${err}`))));
      });
    const listed = await run("--method", "tools/list");
    const call = async (name, given) => {
      const pairs = Object.entries(given).flatMap(([key, value]) => ["--tool-arg", `${key}=${value}`]);
      return plain(await run("--method", "tools/call", "--tool-name", name, ...pairs));
    };
    return use(listed.tools.map((tool) => tool.name), call);
  },

  // mcp-remote between a client that knows only stdio and the gateway.
  "mcp-remote": async (token, use) => {
    const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
    const { StdioClientTransport } = await import("@modelcontextprotocol/sdk/client/stdio.js");
    const home = mkdtempSync(join(tmpdir(), "mcp-remote-"));
    const program = join(packages, "mcp-remote/dist/proxy.js");
    const args = [program, url, "--allow-http", "--transport", "http-only", "--header", `Authorization: Bearer ${token}`];
    const env = { PATH: process.env.PATH, HOME: home, MCP_REMOTE_CONFIG_DIR: home, NO_PROXY: "*" };
    const client = new Client({ name: "storefence-tests", version: "1" });
    await client.connect(new StdioClientTransport({ command: process.execPath, args, env, stderr: "ignore" }));
    const tools = (await client.listTools()).tools.map((tool) => tool.name);
    const seen = await use(tools, async (name, given) => plain(await client.callTool({ name, arguments: given })));
    await client.close();
    rmSync(home, { recursive: true });
    return { ...seen, instructions: client.getInstructions?.() ?? null };
  },
};

const seen = await clients[kind](process.env.TOKEN, async (tools, call) => ({
  version: "",
  tools,
  good: await call("execute_sales_query", GOOD),
  bad: await call("execute_sales_query", { postgresql_query: "SELECT nope FROM orders" }),
  denied: await call("get_store_performance", { store: "Redmond" }),
}));
seen.outsider = await clients[kind](process.env.OUTSIDER, async (tools, call) => ({
  instructions: null,
  tools,
  // The others offer only the tools that are listed.
  refused: kind === "mcp-remote" ? await call("execute_sales_query", GOOD) : null,
  whoami: await call("whoami", {}),
}));
console.log(JSON.stringify(seen));
