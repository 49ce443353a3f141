"""The ledger of the running node over HTTP: read-only routes under ``/chain``, answered by :mod:`chain.explorer`.

Each answer is made in a thread, from a view of the chain that does not change meanwhile, so that agreement waits for
none. Lists come in pages of at most ``MAX_PAGE`` entries: ``limit`` says how many, ``before`` where to go on, with the
``next`` of the page before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request

from chain.audit.proof_builder import prove_balance, prove_operation
from chain.crypto import parse_address
from chain.exceptions import KeyFormatError, NotFound, ProofError, StoreDamaged, StoreError
from chain.explorer import blocks
from chain.explorer.accounts import AFTER_ALL, list_movements, list_operations, parse_position, show_account
from chain.explorer.blocks import MAX_PAGE
from chain.explorer.validators import list_validators, show_epoch
from chain.light.client import Checkpoint
from chain.light.proofs import format_proof
from chain.store.writer import ChainStore

Answer = dict[str, Any]
Query = Callable[[ChainStore, Request], Answer]

MAX_READS = 2
"""Answers that are made at a time; further ones wait."""
DEFAULT_PAGE = 50
"""Entries of a page unless ``limit`` says otherwise."""


class Ledger:
    """Answers questions about the chain of a running node."""

    def __init__(self, chain: ChainStore) -> None:
        self._chain = chain
        self._limiter = trio.CapacityLimiter(MAX_READS)

    async def answer(self, query: Query, request: Request) -> Answer:
        """The answer to a request.

        Raises:
            HTTPException: 400 malformed, 404 not on this chain, 409 not kept here.
        """
        return await trio.to_thread.run_sync(self._answer, query, request, limiter=self._limiter)

    def _answer(self, query: Query, request: Request) -> Answer:
        try:
            with self._chain.view() as view:
                return query(view, request)
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
    return show_epoch(chain, request.path_params["epoch"])


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
    "/chain/epochs/{epoch:int}": _show_epoch,
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
    if text is None:
        return None
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
