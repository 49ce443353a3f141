"""The ledger of the running node over HTTP: read-only routes under ``/chain``, answered by :mod:`chain.explorer`.

Each answer is made in a thread, from a view of the chain that does not change meanwhile, so that agreement waits for
none. It is made once and used for all requests until the chain changes. A client that has it already gets status 304.
Lists come in pages of at most ``MAX_PAGE`` entries: ``limit`` says how many, ``before`` where to go on, with the
``next`` of the page before.

Some answers take long: a proof that a block is in the history reads all of it. Threads take turns with the event loop.
So the time in which strangers are answered is a bounded share, whatever they ask for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chain.audit.proof_builder import prove_balance, prove_operation
from chain.crypto import parse_address
from chain.exceptions import KeyFormatError, NotFound, ProofError, StoreDamaged, StoreError
from chain.explorer import blocks
from chain.explorer.accounts import AFTER_ALL, list_movements, list_operations, parse_position, show_account
from chain.explorer.blocks import MAX_PAGE
from chain.explorer.flows import list_flows
from chain.explorer.validators import list_validators, show_epoch
from chain.light.client import Checkpoint
from chain.light.proofs import format_proof
from chain.store.writer import ChainStore
from p2p.limits.rate_limit import Bucket
from serving.admin.page_cache import Page, PageCache, make_page

Answer = dict[str, Any]
Query = Callable[[ChainStore, Request], Answer]

MAX_READS = 2
"""Answers that are made at a time; further ones wait."""
PUBLIC_SHARE = 0.25
"""Share of the time in which answers are made for strangers, on the public's listener."""
PUBLIC_BURST_S = 5.0
"""Seconds of making answers that they may use up at once."""
DEFAULT_PAGE = 50
"""Entries of a page unless ``limit`` says otherwise."""


class Ledger:
    """Answers questions about the chain of a running node.

    ``share``: part of the time in which answers may be made, one at a time; None: as much as it takes.
    """

    def __init__(self, chain: ChainStore, share: float | None = None) -> None:
        self._chain = chain
        self._limiter = trio.CapacityLimiter(MAX_READS if share is None else 1)
        self._pages = PageCache()
        self._share = share
        self._budget: Bucket | None = None
        """Seconds of making answers that may be used up now."""

    async def answer(self, query: Query, request: Request) -> Response:
        """The answer to a request.

        Raises:
            HTTPException: 400 malformed, 404 not on this chain, 409 not kept here, 503 the time is used up.
        """
        page = await self._get_page(query, request)
        headers = {"etag": page.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == page.etag:
            return Response(status_code=304, headers=headers)
        return Response(page.body, headers=headers, media_type="application/json")

    async def _get_page(self, query: Query, request: Request) -> Page:
        key = request.scope["raw_path"] + b"?" + request.scope["query_string"]
        page = self._pages.find(key, self._chain.revision)
        if page is None:
            async with self._limiter:
                page = self._pages.find(key, self._chain.revision)  # another may have asked for it meanwhile
                if page is None:
                    with self._charge():
                        page = await trio.to_thread.run_sync(self._make, query, request)
                    self._pages.put(key, page)
        return page

    @contextmanager
    def _charge(self) -> Iterator[None]:
        """Charge the time within the context to the share.

        Raises:
            HTTPException: 503, it is used up.
        """
        if self._share is None:
            yield
            return
        began_at = trio.current_time()
        budget = self._budget = self._budget or Bucket(PUBLIC_BURST_S, began_at, PUBLIC_BURST_S)
        if budget.fill(began_at, self._share) <= 0:
            wait_s = math.ceil(-budget.level / self._share) + 1
            raise HTTPException(503, "the ledger is asked too much; try again later", {"retry-after": str(wait_s)})
        try:
            yield
        finally:
            budget.level -= trio.current_time() - began_at

    def _make(self, query: Query, request: Request) -> Page:
        try:
            with self._chain.view() as view:
                return make_page(query(view, request), view.revision)
        except NotFound as error:
            raise HTTPException(404, str(error)) from None
        except StoreDamaged:
            raise
        except StoreError as error:
            raise HTTPException(409, str(error)) from None
        except (KeyFormatError, ProofError, ValueError) as error:
            raise HTTPException(400, str(error)) from None


def _list_blocks(chain: ChainStore, request: Request) -> Answer:
    return blocks.list_blocks(chain, _read_number(request, "before"), _read_limit(request))


def _show_block(chain: ChainStore, request: Request) -> Answer:
    what = request.path_params["block"]
    if what != "head" and not blocks.is_height(what) and chain.find_operation(_read_hash(what)) is not None:
        raise NotFound(f"{what} is an operation: ask for it under /chain/operations")
    return blocks.show(chain, what)


def _show_operation(chain: ChainStore, request: Request) -> Answer:
    return blocks.show_operation(chain, _read_hash(request.path_params["operation"]).hex())


def _show_account(chain: ChainStore, request: Request) -> Answer:
    return show_account(chain, parse_address(request.path_params["address"]))


def _list_operations(chain: ChainStore, request: Request) -> Answer:
    before = request.query_params.get("before")
    position = AFTER_ALL if before is None else parse_position(before)
    return list_operations(chain, parse_address(request.path_params["address"]), position, _read_limit(request))


def _list_movements(chain: ChainStore, request: Request) -> Answer:
    before = request.query_params.get("before")
    position = AFTER_ALL if before is None else parse_position(before)
    return list_movements(chain, parse_address(request.path_params["address"]), position, _read_limit(request))


def _show_epoch(chain: ChainStore, request: Request) -> Answer:
    return show_epoch(chain, _parse_number("epoch", request.path_params["epoch"]))


def _prove_balance(chain: ChainStore, request: Request) -> Answer:
    key = parse_address(request.path_params["address"])
    return {"proof": format_proof(prove_balance(chain, key, _read_checkpoint(request)))}


def _prove_operation(chain: ChainStore, request: Request) -> Answer:
    operation = _read_hash(request.path_params["operation"])
    return {"proof": format_proof(prove_operation(chain, operation, _read_checkpoint(request)))}


QUERIES: Mapping[str, Query] = {
    "/chain/head": lambda chain, request: blocks.show_head(chain),
    "/chain/blocks": _list_blocks,
    "/chain/blocks/{block}": _show_block,
    "/chain/operations/{operation}": _show_operation,
    "/chain/accounts/{address}": _show_account,
    "/chain/accounts/{address}/operations": _list_operations,
    "/chain/accounts/{address}/movements": _list_movements,
    "/chain/validators": lambda chain, request: list_validators(chain),
    "/chain/epochs/{epoch}": _show_epoch,
    "/chain/flows": lambda chain, request: list_flows(
        chain, _read_number(request, "since"), _read_number(request, "before")
    ),
    "/chain/search": lambda chain, request: blocks.search(chain, request.query_params.get("q", "")[:128]),
    "/chain/proof/accounts/{address}": _prove_balance,
    "/chain/proof/operations/{operation}": _prove_operation,
}
"""What is answered to ``GET`` of a path."""


def _read_limit(request: Request) -> int:
    limit = _read_number(request, "limit")
    if limit is not None and not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"limit: must be a number from 1 to {MAX_PAGE}, got {limit}")
    return DEFAULT_PAGE if limit is None else limit


def _read_number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else _parse_number(name, text)


def _parse_number(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{name}: must be a number, got {text[:32]!r}")
    return int(text)


def _read_hash(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError(f"{text[:80]!r} is not an id (64 hexadecimal digits)")
    return bytes.fromhex(text)


def _read_checkpoint(request: Request) -> Checkpoint | None:
    text = request.query_params.get("checkpoint")
    return None if text is None else Checkpoint.parse(text)
