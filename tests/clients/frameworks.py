"""Drives a gateway with the MCP client of an agent framework and prints what it saw as one JSON object.

Usage: frameworks.py langchain|llama_index|openai_agents|google_genai URL, with tokens in TOKEN and, of somebody whom no
rule lets in, in OUTSIDER. Tools go through the framework's own conversion, which is what drops or refuses a schema.
"""

import asyncio
import contextlib
import json
import os
import sys

GOOD = {"postgresql_query": "SELECT count(*) AS n FROM orders"}
BAD = {"postgresql_query": "SELECT nope FROM orders"}
DENIED = {"store": "Redmond"}


class Langchain:
    """langchain-mcp-adapters: every tool becomes a BaseTool, every error a message of status error."""

    @contextlib.asynccontextmanager
    async def connect(self, url, headers):
        from langchain_mcp_adapters.sessions import StreamableHttpConnection
        from langchain_mcp_adapters.tools import convert_mcp_tool_to_langchain_tool, load_mcp_tools
        from mcp.types import Tool

        connection = StreamableHttpConnection(transport="streamable_http", url=url, headers=headers)
        tools = {tool.name: tool for tool in await load_mcp_tools(None, connection=connection)}

        async def call(name, arguments):
            # A tool that the list does not hold, as a model invents it.
            plain = Tool(name=name, description="", inputSchema={"type": "object", "properties": {}})
            tool = tools.get(name) or convert_mcp_tool_to_langchain_tool(None, plain, connection=connection)
            message = await tool.ainvoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
            return message.status == "error", message.content[0]["text"]

        yield list(tools), None, call


class LlamaIndex:
    """llama-index-tools-mcp: every tool becomes a FunctionTool whose arguments are a model made of the schema."""

    @contextlib.asynccontextmanager
    async def connect(self, url, headers):
        from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

        client = BasicMCPClient(url, headers=headers)
        tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}

        async def call(name, arguments):
            if name in tools:
                answer = (await tools[name].acall(**arguments)).raw_output
            else:
                answer = await client.call_tool(name, arguments)
            return answer.is_error, answer.content[0].text

        yield list(tools), None, call


class OpenaiAgents:
    """openai-agents: every tool with arguments must become a function in strict mode.

    A tool without any is served in plain mode unless its schema forbids additional properties, which other clients refuse.
    """

    @contextlib.asynccontextmanager
    async def connect(self, url, headers):
        from agents.mcp import MCPServerStreamableHttp, MCPUtil

        async with MCPServerStreamableHttp({"url": url, "headers": headers}, client_session_timeout_seconds=60) as server:
            listed = await server.list_tools()
            functions = [MCPUtil.to_function_tool(tool, server, convert_schemas_to_strict=True) for tool in listed]
            loose = [
                function.name
                for function in functions
                if function.params_json_schema["properties"] and not function.strict_json_schema
            ]
            if loose:
                raise SystemExit(f"not in strict mode: {loose}")

            async def call(name, arguments):
                answer = await server.call_tool(name, arguments)
                is_error = getattr(answer, "is_error", None)
                return bool(answer.isError if is_error is None else is_error), answer.content[0].text

            yield [function.name for function in functions], None, call


class GoogleGenai:
    """google-genai: every schema must become a declaration of a function without losing a property."""

    @contextlib.asynccontextmanager
    async def connect(self, url, headers):
        from google.genai import types
        from google.genai._mcp_utils import mcp_to_gemini_tools
        from mcp import ClientSession
        from mcp.client.streamable_http import streamablehttp_client

        async with streamablehttp_client(url, headers=headers) as (read, write, _):
            async with ClientSession(read, write) as session:
                initialized = await session.initialize()
                listed = (await session.list_tools()).tools
                names = []
                for tool, converted in zip(listed, mcp_to_gemini_tools(listed)):
                    declaration = converted.function_declarations[0]
                    schema = declaration.parameters or declaration.parameters_json_schema
                    kept = schema.properties if isinstance(schema, types.Schema) else schema.get("properties")
                    if set(kept or {}) != set(tool.inputSchema.get("properties", {})):
                        raise SystemExit(f"{tool.name} lost a property: {declaration}")
                    names.append(declaration.name)

                async def call(name, arguments):
                    answer = await session.call_tool(name, arguments)
                    return bool(answer.isError), answer.content[0].text

                yield names, initialized.instructions, call


FRAMEWORKS = {"langchain": Langchain, "llama_index": LlamaIndex, "openai_agents": OpenaiAgents, "google_genai": GoogleGenai}


async def result(call, name, arguments):
    is_error, text = await call(name, arguments)
    return {"isError": bool(is_error), "text": text}


async def main():
    framework, url = FRAMEWORKS[sys.argv[1]](), sys.argv[2]
    headers = lambda token: {"Authorization": f"Bearer {os.environ[token]}"}
    async with framework.connect(url, headers("TOKEN")) as (tools, _, call):
        seen = {
            "version": "",
            "tools": tools,
            "good": await result(call, "execute_sales_query", GOOD),
            "bad": await result(call, "execute_sales_query", BAD),
            "denied": await result(call, "get_store_performance", DENIED),
        }
    async with framework.connect(url, headers("OUTSIDER")) as (tools, instructions, call):
        seen["outsider"] = {
            "instructions": instructions,
            "tools": tools,
            "refused": await result(call, "execute_sales_query", GOOD),
            "whoami": await result(call, "whoami", {}),
        }
    print(json.dumps(seen))


asyncio.run(main())
