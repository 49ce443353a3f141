"""Choosing operations for a block: what is turned down costs time that no fee pays, so it has a budget."""

from __future__ import annotations

from dataclasses import dataclass

from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Operation,
    SignedOperation,
    Transfer,
    Usage,
    sign_operation,
)
from consensus.mempool.packing import LINE_REJECTED_WORK_BUDGET, REJECTED_WORK_BUDGET, BlockPacker
from tests.support.keys import make_key

KEY, OTHER = make_key(1), make_key(2)


@dataclass
class Pending:
    """An operation that waits for a block."""

    operation: SignedOperation
    arrival: int
    size: int = 1
    ready: bool = True


def sign(operation: Operation) -> SignedOperation:
    return sign_operation(KEY, bytes(32), operation)


def make_capture(line: int, number: int, receipts: int, bare: int = 0) -> SignedOperation:
    """A capture of so many deliveries with and without a receipt."""
    names = [(line << 32 | number << 16 | seq).to_bytes(32, "big") for seq in range(receipts + bare)]
    deliveries = [Delivery(name, 1, bytes(32), Usage(1, 1), "stop") for name in names]
    items = [CaptureItem(each, bytes(64) if n < receipts else None) for n, each in enumerate(deliveries)]
    return sign(Capture(tuple(items)))


def make_lines(*lines: list[SignedOperation]) -> list[list[Pending]]:
    return [[Pending(operation, 100 * n + k) for n, operation in enumerate(line)] for k, line in enumerate(lines)]


def reject_all(packer: BlockPacker) -> list[SignedOperation]:
    """What is tried before the packer gives up, if nothing can be included."""
    tried = []
    for operation in packer:
        tried.append(operation)
        packer.reject(operation)
    return tried


def test_captures_use_up_the_budget_by_their_receipts() -> None:
    for receipts in (15, 31):
        lines = make_lines(*[[make_capture(line, 0, receipts)] for line in range(200)])
        assert len(reject_all(BlockPacker(lines, 10**9))) == REJECTED_WORK_BUDGET // (1 + receipts)


def test_deliveries_without_a_receipt_cost_no_signature_check() -> None:
    lines = make_lines(*[[make_capture(line, n, 1, bare=10) for n in range(30)] for line in range(40)])
    assert len(reject_all(BlockPacker(lines, 10**9))) == REJECTED_WORK_BUDGET // 2


def test_one_account_uses_up_its_share_alone() -> None:
    """And the others get what they would get without it."""
    flood = [make_capture(0, number, 7) for number in range(1_000)]
    honest = [sign(Transfer(nonce, OTHER.public_key, 1)) for nonce in range(50)]
    packer, included, tried = BlockPacker(make_lines(flood, honest), 10**9), [], 0
    for operation in packer:
        if isinstance(operation.operation, Capture):
            packer.reject(operation)
            tried += 1
        else:
            included.append(operation)
    assert included == honest
    assert tried == LINE_REJECTED_WORK_BUDGET // 8
