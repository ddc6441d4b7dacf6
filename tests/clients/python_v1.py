"""Drives a gateway with a 1.x line of the official Python SDK and prints what it saw as one JSON object.

Usage: python_v1.py URL, with tokens in TOKEN and, of somebody whom no rule lets in, in OUTSIDER.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

GOOD = {"postgresql_query": "SELECT count(*) AS n FROM orders"}


async def connected(url, token, use):
    headers = {"Authorization": f"Bearer {token}"}
    async with streamablehttp_client(url, headers=headers) as (read, write, _):
        async with ClientSession(read, write) as session:
            return await use(session, await session.initialize())


async def told(session, name, arguments):
    answer = await session.call_tool(name, arguments)
    return {"isError": bool(answer.isError), "text": answer.content[0].text}


async def insider(session, initialized):
    return {
        "version": initialized.protocolVersion,
        "tools": [tool.name for tool in (await session.list_tools()).tools],
        "good": await told(session, "execute_sales_query", GOOD),
        "bad": await told(session, "execute_sales_query", {"postgresql_query": "SELECT nope FROM orders"}),
        "denied": await told(session, "get_store_performance", {"store": "Redmond"}),
    }


async def outsider(session, initialized):
    seen = {"instructions": initialized.instructions, "tools": [tool.name for tool in (await session.list_tools()).tools]}
    # The refusal first: the session outlives it.
    seen["refused"] = await told(session, "execute_sales_query", GOOD)
    seen["whoami"] = await told(session, "whoami", {})
    return seen


async def main():
    url = sys.argv[1]
    seen = await connected(url, os.environ["TOKEN"], insider)
    seen["outsider"] = await connected(url, os.environ["OUTSIDER"], outsider)
    print(json.dumps(seen))


asyncio.run(main())
