"""The same as python_v1.py with a client that is one object: the official SDK 2.x (`mcp`) or `fastmcp`.

Usage: python_v2.py URL mcp|fastmcp, with tokens in TOKEN and OUTSIDER.
"""

import asyncio
import contextlib
import json
import os
import sys

GOOD = {"postgresql_query": "SELECT count(*) AS n FROM orders"}


@contextlib.asynccontextmanager
async def connected(library, url, token):
    if library == "fastmcp":
        from fastmcp import Client

        async with Client(url, auth=token) as client:
            yield client
        return
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def main():
    url, library = sys.argv[1:3]

    async def told(client, name, arguments):
        more = {"raise_on_error": False} if library == "fastmcp" else {}
        answer = await client.call_tool(name, arguments, **more)
        return {"isError": bool(answer.is_error), "text": answer.content[0].text}

    async def names(client):
        tools = await client.list_tools()
        return [tool.name for tool in getattr(tools, "tools", tools)]

    async with connected(library, url, os.environ["TOKEN"]) as client:
        seen = {
            "version": getattr(client, "protocol_version", None) or "",
            "tools": await names(client),
            "good": await told(client, "execute_sales_query", GOOD),
            "bad": await told(client, "execute_sales_query", {"postgresql_query": "SELECT nope FROM orders"}),
            "denied": await told(client, "get_store_performance", {"store": "Redmond"}),
        }
    async with connected(library, url, os.environ["OUTSIDER"]) as client:
        seen["outsider"] = {
            "instructions": None,
            "tools": await names(client),
            "refused": await told(client, "execute_sales_query", GOOD),
            "whoami": await told(client, "whoami", {}),
        }
    print(json.dumps(seen))


asyncio.run(main())
