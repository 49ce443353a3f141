"""The audit: it passes what is right, with the right figures, and names the place of everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import mean

import pytest

from chain.amounts import format_credits
from chain.audit.audit import LOOKAHEAD_BLOCKS, _Audit, audit_chain
from chain.audit.draws import PayerDraws
from chain.audit.report import Fault, Report
from chain.audit.sources import StoreSource
from chain.cli.report_text import describe_report
from chain.codec import pack
from chain.exceptions import StoreError
from chain.genesis import Genesis
from chain.state.keys import account_key
from chain.state.state import StateOverlay
from chain.store.kv import MemoryStore, Store
from chain.store.writer import ChainStore
from chain.transition.fees import compute_fee
from chain.transition.payments import get_executor
from chain.types.blocks import Block
from chain.types.operations import Hold
from chain.types.votes import VoteKind
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import OTHER, Finals, ListSource, fill_store, flip
from tests.support.chains.forger import Forger
from tests.support.chains.forgeries import FORGERIES, Forgery

Busy = tuple[Chain, Finals]


@pytest.fixture(scope="module")
def short() -> Busy:
    """A few epochs, to be forged."""
    return make_busy_chain(24)


@pytest.fixture(scope="module")
def year() -> Busy:
    """Ten rounds of changing committees, to be forged as well; no forgery makes the audit longer than it must be."""
    return make_busy_chain(500)


@pytest.fixture(scope="module")
def long() -> Busy:
    """More than the audit looks ahead, three times over."""
    return make_busy_chain(120)


@pytest.fixture(scope="module")
def filled(short: Busy) -> MemoryStore:
    store = MemoryStore()
    fill_store(store, *short)
    return store


def make_source(busy: Busy) -> ListSource:
    return Forger(*busy).source


def copy_store(store: Store) -> MemoryStore:
    copy = MemoryStore()
    copy.write(dict(store.items(b"")))
    return copy


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def test_a_long_chain_is_in_order(long: Busy) -> None:
    chain, finals = long
    kinds = {type(signed.operation).__name__ for block in chain.blocks for signed in block.body.operations}
    validators = {"Enroll", "Retire", "Unjail", "Recommit", "Evidence"}
    assert kinds == validators | {
        "Transfer", "Bond", "Unbond", "Withdraw", "Serve", "Hold", "Capture", "Release", "Dispute",
    }  # fmt: skip
    assert not any(
        failure
        for block, failures in zip(chain.blocks, chain.failures, strict=True)
        for signed, failure in zip(block.body.operations, failures, strict=True)
        if type(signed.operation).__name__ in validators
    )
    committees = [block.header.validators_hash for block in chain.blocks]
    assert len(set(committees)) > 10 and any(block.body.late_votes for block in chain.blocks)
    assert chain.head.epoch == 29 and any(block.body.nullifications for block in chain.blocks)
    assert any(failure is not None for failures in chain.failures for failure in failures)
    assert len(chain.blocks) > len(finals) > len(chain.blocks) / 3  # several blocks under some certificates

    seen: list[int] = []
    store = MemoryStore()
    fill_store(store, chain, finals)
    report = audit_chain(StoreSource(store), seen.append)

    assert report.ok, report.fault
    assert seen == list(range(1, 121))
    bodies = [block.body for block in chain.blocks]
    certificates = [
        *finals.values(),
        *(body.parent_certificate for body in bodies if body.parent_certificate is not None),
        *(nullification for body in bodies for nullification in body.nullifications),
    ]
    operations = sum(len(body.operations) for body in bodies)
    committee = chain.epoch.validators
    stakes = [validator.stake for validator in committee]  # which of them lost a part to disputes, the draws decide
    assert len(stakes) == 6 and stakes[0] < committee.total_stake / 3 < sum(stakes[:2])
    assert report == Report(
        name="test",
        chain_id=chain.genesis.chain_id,
        height=120,
        block_id=chain.head.id,
        state_root=chain.state.root,
        operations=operations,
        signatures=120
        + operations
        + sum(len(certificate.signatures) for certificate in certificates)
        + sum(len(body.late_votes) for body in bodies),
        epochs=30,
        smallest_certificate=1.0,
        smallest_height=min(finals),
        validators=len(committee),
        blocking_group=2,
        supply=chain.genesis.supply,
        treasury=chain.state.totals.treasury,
        payers=count_draws(chain),
        fault=None,
    )
    assert report.treasury > 0


def count_draws(chain: Chain) -> dict[bytes, PayerDraws]:
    """Holds, attempts without one and numbers left out, of each payer; here each hold is the only one of its number."""
    draws: dict[bytes, PayerDraws] = {}
    tops: dict[bytes, int] = {}
    met: list[tuple[bytes, bytes, bool]] = []
    for block in chain.blocks:
        for signed in block.body.operations:
            if isinstance(signed.operation, Hold):
                entry = draws.setdefault(signed.signer, PayerDraws())
                entry.holds += 1
                entry.skipped += signed.operation.attempt
                for attempt in range(signed.operation.attempt + 1):
                    hold, state = signed.operation, chain.states[block.height - 1]
                    drawn = get_executor(state, hold.round, signed.signer, hold.seq, attempt, hold.model)
                    assert drawn is not None
                    met.append((signed.signer, drawn, attempt < hold.attempt))
                tops[signed.signer] = max(tops.get(signed.signer, 0), signed.operation.seq + 1)
                entry.unused = tops[signed.signer] - entry.holds
    assert sorted((entry.holds, entry.skipped, entry.unused) for entry in draws.values()) == [(15, 22, 14), (30, 0, 0)]
    for payer, entry in draws.items():
        others = [(drawn, skipped) for other, drawn, skipped in met if other != payer]
        entry.expected = pytest.approx(
            sum(
                mean([skipped for other, skipped in others if other == drawn] or [skipped for _, skipped in others])
                for other, drawn, _ in met
                if other == payer
            )
        )
    return draws


def test_skipped_draws_are_compared_with_how_often_the_same_executors_failed_others() -> None:
    """A payer stands out that passes over executors that serve all others, not one that draws a failed executor."""
    chain = Chain(users=3, parameters=replace(PARAMETERS, epoch_heights=100, max_attempts=8))
    down, *up = chain.validators
    honest, unlucky, choosy = chain.users
    for seq in range(40):
        operations = []
        for payer in (honest, unlucky):
            drawn = chain.executor(payer, seq)
            operations.append(chain.hold(payer, seq, 1 if drawn is down else 0, amount=100))
        favourite = next(attempt for attempt in range(4) if chain.executor(choosy, seq, attempt) is up[0])
        operations.append(chain.hold(choosy, seq, favourite, amount=100))
        chain.append(operations)
    report = audit_chain(make_source((chain, {40: chain.finality(chain.blocks[-1])})))
    assert report.ok
    draws = [report.payers[key.public_key] for key in (honest, unlucky, choosy)]
    for entry in draws[:2]:
        assert entry.expected is not None and entry.skipped < 2 * entry.expected + 3
    assert draws[2].expected is not None and draws[2].skipped > 2 * draws[2].expected
    assert f"({draws[2].expected:.1f} by chance)" in describe_report(report)


def test_draws_tried_in_order_are_not_skipped() -> None:
    chain = Chain()
    user = chain.users[0]
    chain.append([chain.hold(user, 0), chain.hold(user, 0, 1), chain.hold(user, 1, 2)])
    chain.append([chain.hold(user, 0, 2), chain.hold(user, 2, 1), chain.hold(user, 1, 1)])
    report = audit_chain(make_source((chain, {2: chain.finality(chain.blocks[-1])})))
    assert report.ok and report.payers == {user.public_key: PayerDraws(holds=6, skipped=3)}


def test_numbers_left_out_are_counted() -> None:
    """A payer that wants another draw may pass over a number instead of an attempt."""
    chain = Chain()
    user = chain.users[0]
    chain.append([chain.hold(user, 4), chain.hold(user, 1)])
    chain.append([chain.hold(user, 9), chain.hold(user, 9, 1), chain.hold(user, 2)])
    report = audit_chain(make_source((chain, {2: chain.finality(chain.blocks[-1])})))
    assert report.ok and report.payers[user.public_key].unused == 10 - 4


def test_what_a_payer_forfeited_for_numbers_left_out_is_told() -> None:
    chain = Chain(parameters=replace(PARAMETERS, unused_number_fee=100))
    aiming, honest = chain.users
    for seq in (4, 200, 400):
        chain.append([chain.hold(aiming, seq)])
    chain.append([chain.hold(honest, 1)])
    chain.append([chain.hold(honest, 0)])
    finals = {4: chain.finality(chain.blocks[3]), 5: chain.finality(chain.blocks[4])}
    report = audit_chain(make_source((chain, finals)))
    assert report.ok
    fees = sum(compute_fee(chain.genesis, signed) for block in chain.blocks for signed in block.body.operations)
    forfeited = chain.state.totals.treasury - fees
    assert forfeited > 0
    assert [report.payers[user.public_key].forfeited for user in (aiming, honest)] == [forfeited, 0]
    assert f"({format_credits(forfeited)} forfeited)" in describe_report(report)


def test_the_smallest_certificate_is_found(short: Busy) -> None:
    chain, finals = short
    height = sorted(finals)[3]
    votes = chain.certify(chain.blocks[height - 1].header, VoteKind.FINALIZE, signers=chain.validators[:3])
    report = audit_chain(make_source((chain, {**finals, height: votes})))
    assert report.ok
    assert (report.smallest_certificate, report.smallest_height) == (0.75, height)


def test_the_last_block_of_an_epoch_may_be_final_in_a_later_view(short: Busy) -> None:
    chain, finals = short
    height = next(height for height in sorted(finals) if height % 4 == 0)
    votes = chain.certify(chain.blocks[height - 1].header, VoteKind.FINALIZE, view=99)
    assert audit_chain(make_source((chain, {**finals, height: votes}))).ok
    early = chain.certify(chain.blocks[height - 1].header, VoteKind.FINALIZE, view=0)
    assert audit_chain(make_source((chain, {**finals, height: early}))).fault == Fault(
        height, "finality", f"is of view 0, the block of view {chain.blocks[height - 1].header.view}"
    )


def test_a_chain_without_blocks_is_in_order() -> None:
    chain = Chain()
    report = audit_chain(ListSource(chain.genesis, [], 0))
    assert report.ok and report.height == 0
    assert report.supply == chain.genesis.supply and report.state_root == chain.genesis.state.root
    store = MemoryStore()
    ChainStore(store, chain.genesis)
    assert audit_chain(StoreSource(store)).ok


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(short: Busy, threads: int) -> None:
    assert audit_chain(make_source(short), threads=threads) == audit_chain(make_source(short), threads=3)
    forger = Forger(*short)
    forger.put(replace(forger.block, signature=flip(forger.block.signature)))
    fault = audit_chain(forger.source, threads=threads).fault
    assert fault == Fault(forger.height, "signature", "the signature does not hold")


def test_forgeries_are_many_and_distinct() -> None:
    assert len({forgery.name for forgery in FORGERIES}) == len(FORGERIES) > 100


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda forgery: forgery.name)
def test_a_forgery_is_caught_in_its_place(year: Busy, forgery: Forgery) -> None:
    forger = Forger(*year)
    height, field = forgery.get_place(forger)
    forgery.forge(forger)
    report = audit_chain(forger.source, threads=2)
    assert report.fault is not None
    assert (report.fault.height, report.fault.field) == (height, field), report.fault.reason
    assert report.fault.reason
    assert report.height == height - 1  # everything below is sound


DEEP = [
    "header: next_validators_hash", "header: beacon_reveal", "late votes: twice", "finality: a signature",
    *(forgery.name for forgery in FORGERIES[6::20]),
]  # fmt: skip
"""Of all that are caught there; each takes an audit of four hundred blocks or more."""


@pytest.mark.parametrize("name", [*DEEP[:4], *(pytest.param(name, marks=pytest.mark.long) for name in DEEP[4:])])
def test_a_forgery_deep_in_the_chain_is_caught_in_its_place(year: Busy, name: str) -> None:
    forgery = next(forgery for forgery in FORGERIES if forgery.name == name)
    forger = Forger(*year, above=400, after=400)
    height, field = forgery.get_place(forger)
    assert height > 400
    forgery.forge(forger)
    report = audit_chain(forger.source, threads=2)
    assert report.fault is not None and (report.fault.height, report.fault.field) == (height, field)
    assert report.height == height - 1


def test_without_a_forgery_the_same_chain_is_in_order(year: Busy) -> None:
    report = audit_chain(Forger(*year).source, threads=2)
    assert report.ok and report.height == 500


@pytest.mark.parametrize("at", [1, 3, 4, 7])
def test_credit_from_nothing_is_found_though_every_node_agrees_on_it(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A mistake in the rules that all share: the sum over what changes does not rest on them."""
    chain = Chain()
    fill_treasury = StateOverlay.fill_treasury

    def fill_too_much(overlay: StateOverlay, amount: int) -> None:
        fill_treasury(overlay, amount + (overlay.history.count == at))

    monkeypatch.setattr(StateOverlay, "fill_treasury", fill_too_much)
    for _ in range(9):
        chain.append([chain.transfer(chain.users[0], chain.users[1], 1)])
    fault = audit_chain(make_source((chain, {9: chain.finality(chain.blocks[-1])}))).fault
    assert fault == Fault(at, "supply", "all credit grows by 1, of which 0 was granted")


def test_the_sum_over_all_accounts_is_taken_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block changes without saying so would escape the sums of its changes."""
    monkeypatch.setattr("chain.audit.audit._sum_changes", lambda before, transition: 0)
    fill_treasury = StateOverlay.fill_treasury
    monkeypatch.setattr(StateOverlay, "fill_treasury", lambda overlay, amount: fill_treasury(overlay, amount + 1))
    chain = Chain()
    for _ in range(6):
        chain.append([chain.transfer(chain.users[0], chain.users[1], 1)])
    fault = audit_chain(make_source((chain, {6: chain.finality(chain.blocks[-1])}))).fault
    supply = chain.genesis.supply
    assert fault == Fault(6, "supply", f"all credit adds up to {supply + 6}, not to {supply}")


def test_the_audit_remembers_of_each_payer_no_more_than_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.audit.draws.REPLAY_WINDOW_SIZE", 2)
    chain = Chain()
    user = chain.users[0]
    for seq in range(24):
        chain.append([chain.hold(user, seq, seq % 3, amount=100)])
    audits: list[_Audit] = []
    run = _Audit.run
    monkeypatch.setattr(_Audit, "run", lambda audit: (audits.append(audit), run(audit)))
    report = audit_chain(make_source((chain, {24: chain.finality(chain.blocks[-1])})))
    assert report.ok and report.payers == {user.public_key: PayerDraws(holds=24, skipped=24)}
    assert len(audits[0]._draws._attempts[user.public_key]) <= 4


def test_an_audit_without_a_block_says_so() -> None:
    chain = Chain()
    text = describe_report(audit_chain(ListSource(chain.genesis, [], 0)))
    assert text.startswith("ok, but there is no block") and "100" not in text.splitlines()[0]


def test_nothing_is_final_without_a_certificate(short: Busy) -> None:
    forger = Forger(*short)
    last = len(forger.blocks)
    before = sorted(forger.finals)[-2]
    forger.finals[last] = None
    assert audit_chain(forger.source).fault == Fault(
        before + 1, "finality", f"no finality certificate covers the blocks after {before}"
    )


def test_a_certificate_in_the_middle_may_be_missing(short: Busy) -> None:
    forger = Forger(*short)
    forger.finals[forger.height] = None
    assert audit_chain(forger.source).ok


@pytest.mark.parametrize(("claimed", "at"), [(23, 24), (25, 24), (0, 24)])
def test_a_source_that_miscounts_its_blocks(short: Busy, claimed: int, at: int) -> None:
    forger = Forger(*short)
    forger.claimed_height = claimed
    assert audit_chain(forger.source).fault == Fault(at, "database", f"ends at block 24, not at {claimed}")


class FailingSource(ListSource):
    """A source that cannot be read from a height on."""

    def __init__(self, source: ListSource, height: int) -> None:
        super().__init__(source.genesis, source.rows[: height - 1], source.height)

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        yield from self.rows
        raise StoreError("the disk is gone")


LATER: dict[str, Callable[[Forger, int], object]] = {
    "encoding": lambda forger, later: forger.raw.update({later: b"garbage"}),
    "parent_id": lambda forger, later: forger.header(later, parent_id=OTHER),
    "finality": lambda forger, later: forger.raw_finals.update({later: b"garbage"}),
    "database": lambda forger, later: None,
}
"""Faults that are seen as soon as a block is read, before any earlier one is executed."""


@pytest.mark.parametrize("distance", [1, LOOKAHEAD_BLOCKS - 1, LOOKAHEAD_BLOCKS + 5])
@pytest.mark.parametrize("field", LATER)
def test_the_first_fault_is_named_though_a_later_one_is_seen_before(long: Busy, field: str, distance: int) -> None:
    def find_fault(forger: Forger) -> tuple[int, str]:
        LATER[field](forger, later)
        source = forger.source
        fault = audit_chain(FailingSource(source, later) if field == "database" else source).fault
        assert fault is not None
        return fault.height, fault.field

    forger = Forger(*long)
    height, later = forger.height, forger.height + distance
    assert find_fault(forger) == (later, field)
    forger = Forger(*long)
    forger.put(replace(forger.block, signature=flip(forger.block.signature)))
    assert find_fault(forger) == (height, "signature")


def test_a_genesis_that_contradicts_itself_is_a_fault(short: Busy) -> None:
    chain, _ = short
    twice = Genesis(**{**_fields(chain.genesis), "accounts": (*chain.genesis.accounts, chain.genesis.accounts[0])})
    assert audit_chain(ListSource(twice, [], 0)).fault == Fault(0, "genesis", "an account is listed twice")
    without = Genesis(**{**_fields(chain.genesis), "accounts": chain.genesis.accounts[-1:]})
    fault = audit_chain(ListSource(without, [], 0)).fault
    assert fault is not None and fault.field == "genesis"


def _fields(genesis: Genesis) -> dict[str, object]:
    return {name: getattr(genesis, name) for name in Genesis.__dataclass_fields__}


def test_a_store_is_in_order(filled: MemoryStore) -> None:
    assert audit_chain(StoreSource(filled)).ok
    source = StoreSource(filled)
    assert audit_chain(source) == audit_chain(source)  # it can be audited twice


def test_what_else_a_node_keeps_is_no_fault(filled: MemoryStore) -> None:
    store = copy_store(filled)
    store.write({b"e" + bytes(17): b"anything"})
    assert audit_chain(StoreSource(store)).ok


Tamper = Callable[[MemoryStore, Chain], dict[bytes, bytes | None]]


def _block_with(chain: Chain, kind: str) -> Block:
    """The first block with an operation of this kind, and it is no other's."""
    return next(
        block
        for block in chain.blocks
        if any(type(signed.operation).__name__ == kind for signed in block.body.operations)
    )


def _failed(chain: Chain) -> int:
    """The first height at which an operation failed."""
    return next(height for height, failures in enumerate(chain.failures, start=1) if any(failures))


def _account(chain: Chain, amount: int) -> dict[bytes, bytes | None]:
    key = chain.users[0].public_key
    account = chain.state.account(key)
    return {b"s" + account_key(key): replace(account, available=account.available + amount).encode()}


STORE_FORGERIES: dict[str, tuple[Tamper, Callable[[Chain], int], str]] = {
    "state: richer": (lambda store, chain: _account(chain, 1), lambda chain: 24, "state on disk"),
    "state: removed": (
        lambda store, chain: {b"s" + account_key(chain.users[0].public_key): None},
        lambda chain: 24,
        "state on disk",
    ),
    "state: added": (
        lambda store, chain: {b"s" + account_key(OTHER): chain.state.account(chain.users[0].public_key).encode()},
        lambda chain: 24,
        "state on disk",
    ),
    "state: garbage": (lambda store, chain: {b"s" + account_key(OTHER): b"garbage"}, lambda chain: 24, "state on disk"),
    "state: unknown kind": (lambda store, chain: {b"s?": b""}, lambda chain: 24, "state on disk"),
    "block: missing": (lambda store, chain: {b"b" + number(7): None}, lambda chain: 7, "block 7 is missing"),
    "block: above the last": (
        lambda store, chain: {b"b" + number(25): chain.blocks[-1].encoded},
        lambda chain: 24,
        "25 entries under 'b', 24 of which",
    ),
    "certificate: above the last": (
        lambda store, chain: {b"f" + number(25): chain.finality(chain.blocks[-1]).encode()},
        lambda chain: 24,
        "entries under 'f'",
    ),
    "blocks: index missing": (
        lambda store, chain: {b"n" + chain.blocks[8].id: None},
        lambda chain: 9,
        "index of blocks",
    ),
    "blocks: index wrong": (
        lambda store, chain: {b"n" + chain.blocks[8].id: number(8)},
        lambda chain: 9,
        "index of blocks",
    ),
    "blocks: index of nothing": (
        lambda store, chain: {b"n" + OTHER: number(8)},
        lambda chain: 24,
        "25 entries under 'n', 24",
    ),
    "operations: index missing": (
        lambda store, chain: {b"o" + chain.blocks[0].body.operations[1].id: None},
        lambda chain: 1,
        "index of operations does not lead to number 1",
    ),
    "operations: index wrong": (
        lambda store, chain: {b"o" + chain.blocks[0].body.operations[1].id: number(1) + number(0)},
        lambda chain: 1,
        "index of operations does not lead to number 1",
    ),
    "operations: index of nothing": (
        lambda store, chain: {b"o" + OTHER: number(1) + number(0)},
        lambda chain: 24,
        "entries under 'o'",
    ),
    "failures: missing": (lambda store, chain: {b"x" + number(_failed(chain)): None}, _failed, "recorded as failed"),
    "failures: denied": (
        lambda store, chain: {
            b"x" + number(_failed(chain)): pack([None] * len(chain.blocks[_failed(chain) - 1].body.operations))
        },
        _failed,
        "recorded as failed",
    ),
    "failures: invented": (
        lambda store, chain: {b"x" + number(1): pack(["no"] * len(chain.blocks[0].body.operations))},
        lambda chain: 1,
        "recorded as failed",
    ),
    "failures: garbage": (lambda store, chain: {b"x" + number(1): b"garbage"}, lambda chain: 1, "failures of block 1"),
    "failures: of another kind": (lambda store, chain: {b"x" + number(1): pack([1])}, lambda chain: 1, "failures of"),
    "failures: above the last": (
        lambda store, chain: {b"x" + number(99): pack(["no"])},
        lambda chain: 24,
        "entries under 'x'",
    ),
    "an unknown kind": (lambda store, chain: {b"?": b""}, lambda chain: 24, "1 entries under '?', 0 of which"),
    "height: one less": (lambda store, chain: {b"mheight": number(23)}, lambda chain: 23, "finality: no"),
    "height: one more": (lambda store, chain: {b"mheight": number(25)}, lambda chain: 25, "block 25 is missing"),
}


@pytest.mark.parametrize("name", STORE_FORGERIES)
def test_a_store_that_was_tampered_with(filled: MemoryStore, short: Busy, name: str) -> None:
    tamper, get_height, reason = STORE_FORGERIES[name]
    store = copy_store(filled)
    store.write(tamper(store, short[0]))
    fault = audit_chain(StoreSource(store)).fault
    assert fault is not None and fault.height == get_height(short[0]), fault
    assert reason in f"{fault.field}: {fault.reason}"


@pytest.mark.parametrize("forgery", FORGERIES[::7], ids=lambda forgery: forgery.name)
def test_a_forgery_in_a_store_is_caught_in_the_same_place(filled: MemoryStore, short: Busy, forgery: Forgery) -> None:
    forger = Forger(*short)
    height, field = forgery.get_place(forger)
    forgery.forge(forger)
    store = copy_store(filled)
    for position, (block, final) in enumerate(forger.source.rows, start=1):
        store.write({b"b" + number(position): block, b"f" + number(position): final})
    fault = audit_chain(StoreSource(store)).fault
    assert fault is not None and (fault.height, fault.field) == (height, field)


@pytest.mark.parametrize("key", [b"mheight", b"mgenesis", b"mformat"])
@pytest.mark.parametrize("value", [None, b"", b"garbage"])
def test_a_store_without_a_beginning_cannot_be_audited(filled: MemoryStore, key: bytes, value: bytes | None) -> None:
    store = copy_store(filled)
    store.write({key: value})
    with pytest.raises(StoreError):
        StoreSource(store)
