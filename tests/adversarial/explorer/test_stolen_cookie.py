"""Another user of the owner's machine serves a page there, and gets the cookie of the owner's session.

Browsers keep cookies by host and send them to all of its ports. So who listens on any other port of 127.0.0.1 is sent
the cookie as soon as the owner's browser is led there. It does not get what the page keeps for its own origin.
"""

from __future__ import annotations

import httpx

from chain.parameters.parameters import CREDIT
from node import Node
from serving.dashboard import pages
from tests.serving.admin.client import expect, log_in, with_admin
from tests.support.solo_node import MODEL, OTHER

THEFT = {"recipient": OTHER.address, "amount": 10 * CREDIT}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Write a long book."}]}


@with_admin
async def test_the_cookie_alone_changes_and_spends_nothing(node: Node, client: httpx.AsyncClient) -> None:
    await log_in(client)
    key = client.headers.pop(pages.KEY)
    own_page = httpx.AsyncClient(base_url=client.base_url, cookies=dict(client.cookies), headers={pages.KEY: key})
    async with own_page:
        assert (await expect(client, "GET", "/dashboard/session"))["level"] == "reading"
        for wrong in ("", "x", key[:-1], key.upper(), client.cookies[f"wwwserve-{client.base_url.port}"]):
            client.headers[pages.KEY] = wrong
            await expect(client, "POST", "/dashboard/unlock", 401, {})
            await expect(client, "POST", "/v1/chat/completions", 401, CHAT)
        await expect(own_page, "POST", "/dashboard/unlock", 200, {})
        assert (await expect(client, "GET", "/dashboard/session"))["level"] == "acting", "by the owner, on its page"
        for method, path, order in (("POST", "/wallet/transfer", THEFT), ("PUT", "/policy", {"max_queue": 0})):
            await expect(client, method, path, 401, order)
        await expect(client, "POST", "/dashboard/code", 401, {})
        await expect(own_page, "POST", "/wallet/transfer", 202, THEFT)
