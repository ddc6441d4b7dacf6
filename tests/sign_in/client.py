"""An MCP client that nobody gave a token: the official SDK signs a person in.

Arguments: the gateway's endpoint, an SQL statement. Prints the URL that a browser must open, as `open URL`, waits for the
browser to come back, and then prints one line of JSON: the tools, the answer, and what was stored. SSL_CERT_FILE names the
authority's root.
"""

import asyncio
import http.server
import json
import ssl
import sys
import threading
import urllib.parse

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata


class Callback(http.server.BaseHTTPRequestHandler):
    """What the browser comes back to."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/callback":
            self.server.answers.put_nowait(query)
        self.send_response(200 if url.path == "/callback" else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>Signed in</title><p>You can close this page.")

    def log_message(self, *_):
        pass


class Memory:
    """Where the SDK keeps what it got."""

    tokens = None
    client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def main(url, statement):
    loop = asyncio.get_running_loop()
    received = asyncio.Queue()
    server = http.server.HTTPServer(("127.0.0.1", 0), Callback)

    class Answers:
        @staticmethod
        def put_nowait(query):
            loop.call_soon_threadsafe(received.put_nowait, query)

    server.answers = Answers
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def open_browser(url):
        print("open", url, flush=True)

    async def come_back():
        query = await asyncio.wait_for(received.get(), 60)
        if "error" in query:
            raise RuntimeError(f"{query['error']}: {query.get('error_description')}")
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    memory = Memory()
    provider = OAuthClientProvider(
        server_url=url,
        client_metadata=OAuthClientMetadata(
            client_name="Storefence's test", redirect_uris=[f"http://127.0.0.1:{server.server_port}/callback"]
        ),
        storage=memory,
        redirect_handler=open_browser,
        callback_handler=come_back,
    )
    async with httpx2.AsyncClient(auth=provider, verify=ssl.create_default_context(), timeout=60, trust_env=False) as http_client:
        async with Client(streamable_http_client(url, http_client=http_client)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            answer = await client.call_tool("execute_sales_query", {"postgresql_query": statement})
            me = await client.call_tool("whoami", {})
            # The token is over: the SDK gets another one without a browser.
            provider.context.token_expiry_time = 1
            first = memory.tokens.access_token
            again = await client.call_tool("whoami", {})
            same = all(again.structured_content[field] == me.structured_content[field] for field in ("objectId", "stores"))
    print(
        json.dumps(
            {
                "tools": tools,
                "isError": answer.is_error,
                "answer": answer.structured_content,
                "whoami": me.structured_content,
                "refreshed": memory.tokens.access_token != first and same,
                "secret": memory.client.client_secret,
                "scope": memory.tokens.scope,
            }
        ),
        flush=True,
    )


asyncio.run(main(*sys.argv[1:]))
