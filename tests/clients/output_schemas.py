"""Holds what the tools answer against what they declare, by the jsonschema package that the Python SDK itself uses.

Usage: output_schemas.py URL CALLS, with the token in TOKEN. CALLS is a JSON array of calls, each with `name`, `arguments`
and `isError`. Prints one JSON array with what is wrong: empty where nothing is.
"""

import asyncio
import json
import os
import sys

import httpx2
import jsonschema
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    url, calls = sys.argv[1], json.loads(sys.argv[2])
    wrong = []
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        for missing in tools.keys() ^ {call["name"] for call in calls}:
            wrong.append(f"{missing}: not called, or not there")
        for call in calls:
            schema = tools[call["name"]].output_schema
            validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
            validator.check_schema(schema)
            # The client validates as well, and raises.
            answer = await client.call_tool(call["name"], call["arguments"])
            for error in validator(schema).iter_errors(answer.structured_content):
                wrong.append(f"{call['name']} {call['arguments']}: {error.json_path}: {error.message[:200]}")
            if bool(answer.is_error) != call["isError"]:
                wrong.append(f"{call['name']} {call['arguments']}: {answer.structured_content}"[:300])
            # A schema that holds for everything proves nothing: what it names is there.
            missing = schema["properties"].keys() - answer.structured_content.keys()
            if missing and not answer.is_error:
                wrong.append(f"{call['name']}: {sorted(missing)} not answered")
    print(json.dumps(wrong))


asyncio.run(main())
