"""Drives a gateway with the official Python SDK and prints what it saw as one JSON object.

Usage: python_sdk.py URL MODE, with the token in TOKEN. MODE is the SDK's: `auto` finds out what the server speaks,
`legacy` opens with the handshake of the older revision.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    url, mode = sys.argv[1:3]
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        tools = await client.list_tools()
        good = await client.call_tool("execute_sales_query", {"postgresql_query": "SELECT count(*) AS n FROM orders"})
        bad = await client.call_tool("execute_sales_query", {"postgresql_query": "SELECT nope FROM orders"})
        prompts = await client.list_prompts()
        resource = await client.read_resource("storefence://schema/orders")
        print(
            json.dumps(
                {
                    "version": client.protocol_version,
                    "tools": [tool.name for tool in tools.tools],
                    "rows": good.structured_content["rows"],
                    "goodIsError": good.is_error,
                    "badIsError": bad.is_error,
                    "bad": bad.structured_content,
                    "prompts": [prompt.name for prompt in prompts.prompts],
                    "resource": resource.contents[0].text,
                }
            )
        )


asyncio.run(main())
