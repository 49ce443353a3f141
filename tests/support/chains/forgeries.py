"""Every single way to forge a chain, and where the audit must find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chain.state.beacon import NO_COMMITMENT
from chain.types.blocks import NO_REVEAL, Header, sign_block
from chain.types.operations import (
    Capture,
    CaptureItem,
    Enroll,
    Evidence,
    Hold,
    Recommit,
    Release,
    Retire,
    SignedOperation,
    Transfer,
    Unjail,
)
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import Chain, find_reveal
from tests.support.chains.chain_store import OTHER, flip
from tests.support.chains.forger import Forger
from tests.support.keys import make_key


@dataclass(frozen=True)
class Forgery:
    """One forgery: what is done, and the field and the height (counted from the forger's) that the audit must name."""

    name: str
    forge: Callable[[Forger], Any]
    field: str
    offset: int = 0
    kind: type | None = None
    """The fault is in the block of the first operation of this kind instead; ``field`` may name its ``{index}``."""

    def get_place(self, forger: Forger) -> tuple[int, str]:
        """Height and field of the fault on the chain of ``forger``, not yet forged."""
        if self.kind is None:
            return forger.height + self.offset, self.field
        height, index = forger.find(self.kind)
        return height + self.offset, self.field.format(index=index)


def _header(field: str, value: Callable[[Forger], Any]) -> Forgery:
    return Forgery(f"header: {field}", lambda forger: forger.header(**{field: value(forger)}), field)


def _get_later_view(forger: Forger) -> int:
    """A view above the struck block's that the same validator leads."""
    header = forger.block.header
    view = header.view + 1
    while forger.chain.leader(view, header.epoch).public_key != header.proposer:
        view += 1
    return view


def _get_other_validator(forger: Forger) -> bytes:
    proposer = forger.block.header.proposer
    return next(key.public_key for key in forger.chain.validators if key.public_key != proposer)


def _get_tip(forger: Forger) -> bytes:
    validator = forger.chain.states[forger.height - 1].validator_record(forger.block.header.proposer)
    assert validator is not None
    return validator.commitment


def _get_deeper(forger: Forger) -> bytes:
    """What lies under the right reveal."""
    key, state = forger.chain.keys[forger.block.header.proposer], forger.chain.states[forger.height]
    return find_reveal(key, forger.genesis, state)


HEADERS = [
    _header("version", lambda f: f.block.header.version + 1),
    _header("chain_id", lambda f: OTHER),
    _header("epoch", lambda f: f.block.header.epoch + 1),
    _header("height", lambda f: f.height + 1),
    _header("view", lambda f: f.blocks[f.height - 1].header.view),
    _header("parent_id", lambda f: OTHER),
    _header("timestamp", lambda f: f.blocks[f.height - 1].header.timestamp),
    _header("chain_time", lambda f: f.block.header.chain_time + 1),
    _header("proposer", _get_other_validator),
    _header("body_root", lambda f: OTHER),
    _header("state_root", lambda f: OTHER),
    _header("history_root", lambda f: OTHER),
    _header("validators_hash", lambda f: OTHER),
    _header("next_validators_hash", lambda f: OTHER),
    _header("beacon_reveal", lambda f: flip(f.block.header.beacon_reveal)),
    Forgery(
        "the next committee in place of this",
        lambda f: f.header(validators_hash=f.block.header.next_validators_hash),
        "validators_hash",
    ),
    Forgery(
        "this committee in place of the next",
        lambda f: f.header(next_validators_hash=f.block.header.validators_hash),
        "next_validators_hash",
    ),
    Forgery(
        "the committee of the epoch before",
        lambda f: f.header(validators_hash=f.blocks[f.height - 4].header.validators_hash),
        "validators_hash",
    ),
    Forgery("a reveal of nothing", lambda f: f.header(beacon_reveal=NO_REVEAL), "view"),
    Forgery("the tip as its own reveal", lambda f: f.header(beacon_reveal=_get_tip(f)), "beacon_reveal"),
    Forgery("a layer too deep", lambda f: f.header(beacon_reveal=_get_deeper(f)), "beacon_reveal"),
    Forgery(
        "the reveal of the block before",
        lambda f: f.header(beacon_reveal=f.blocks[f.height - 1].header.beacon_reveal),
        "beacon_reveal",
    ),
    Forgery("a stranger proposes", lambda f: f.header(proposer=make_key("stranger").public_key), "proposer"),
    Forgery("a later view", lambda f: f.header(view=_get_later_view(f)), "nullifications"),
    Forgery("a view without end", lambda f: f.header(view=2**62), "proposer"),
    Forgery("only the timestamp", lambda f: f.header(timestamp=f.block.header.timestamp + 1), "chain_time"),
    # Everybody signed this one, so that nothing is wrong with it but that the next block has another parent.
    Forgery(
        "history rewritten",
        lambda f: f.header(timestamp=f.block.header.timestamp + 1, chain_time=f.block.header.chain_time + 1),
        "parent_id",
        offset=1,
    ),
    Forgery("not certified", lambda f: f.header(state_root=OTHER, certify=False), "finality"),
    Forgery("signature", lambda f: f.put(replace(f.block, signature=flip(f.block.signature))), "signature"),
    Forgery(
        "signed by another",
        lambda f: f.put(sign_block(make_key("stranger"), f.block.header, f.block.body)),
        "signature",
    ),
    Forgery("credit out of nothing", Forger.steal, "state_root"),
    Forgery("a deposit that is spent", Forger.spend_deposit, "state_root"),
]


def _operation(kind: type, name: str, value: Any, field: str) -> Forgery:
    what = f"{kind.__name__}: {name} {value.hex()[:8] if isinstance(value, bytes) else value}"
    return Forgery(what, lambda forger: forger.operation(kind, **{name: value}), field, kind=kind)


def _stolen(kind: type, **fields: Any) -> Forgery:
    what = f"{kind.__name__}: {next(iter(fields))}, signed by another"
    return Forgery(what, lambda f: f.operation(kind, make_key("stranger"), **fields), "operations[{index}]", kind=kind)


def _capture(what: str, field: str, **fields: Any) -> Forgery:
    return Forgery(f"Capture: {what}", lambda forger: forger.capture(**fields), field, kind=Capture)


def _without_receipt(forger: Forger) -> None:
    height, index = forger.find(Capture)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Capture)
    forger.operation(Capture, items=(CaptureItem(operation.items[0].delivery, None),))


def _with_false_receipt(forger: Forger) -> None:
    height, index = forger.find(Capture)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Capture)
    forger.operation(Capture, items=(forger.chain.receipt(make_key("stranger"), operation.items[0].delivery),))


def _show(forger: Forger, change: Callable[[Vote, Vote], Any]) -> None:
    """Change the votes of the first evidence."""
    height, index = forger.find(Evidence)
    operation = forger.blocks[height].body.operations[index].operation
    assert isinstance(operation, Evidence)
    first, second = change(operation.first, operation.second)
    forger.operation(Evidence, first=first, second=second)


def _append(make: Callable[[Forger], SignedOperation]) -> Callable[[Forger], None]:
    return lambda forger: forger.operations(lambda operations: operations.append(make(forger)))


BODIES = [
    Forgery(
        "against its root",
        lambda f: f.put(replace(f.block, body=replace(f.block.body, operations=f.block.body.operations[1:]))),
        "body_root",
    ),
    Forgery("an operation left out", lambda f: f.operations(lambda operations: operations.pop()), "state_root"),
    Forgery("no operation", lambda f: f.operations(lambda operations: operations.clear()), "state_root"),
    Forgery("an operation twice", _append(lambda f: f.block.body.operations[0]), "operations"),
    Forgery("an old operation again", _append(lambda f: f.blocks[1].body.operations[1]), "operations"),
    Forgery("a poor account", _append(lambda f: f.sign(make_key("stranger"), Transfer(0, OTHER, 0))), "operations"),
    Forgery("no such hold", _append(lambda f: f.sign(f.chain.users[0], Release(OTHER))), "operations"),
    _stolen(Transfer, amount=6),
    _stolen(Transfer, memo=b"x"),
    _stolen(Hold, amount=1),
    _stolen(Release, hold=OTHER),
    _operation(Transfer, "amount", 6, "state_root"),
    _operation(Transfer, "amount", 2**62, "state_root"),  # fails, and that is another state
    _operation(Transfer, "nonce", 1, "operations"),
    _operation(Transfer, "recipient", make_key("other").public_key, "state_root"),
    _operation(Transfer, "recipient", bytes(32), "operations"),
    _operation(Transfer, "memo", b"x", "state_root"),  # by its fee
    _operation(Hold, "payee", make_key("other").public_key, "operations"),
    _operation(Hold, "amount", 4_999, "state_root"),
    _operation(Hold, "amount", 2**62, "operations"),
    _operation(Hold, "round", 1, "operations"),
    _operation(Hold, "seq", 256, "operations"),
    _operation(Hold, "attempt", 3, "operations"),
    _operation(Hold, "model", "unknown", "operations"),
    _operation(Hold, "request_digest", OTHER, "state_root"),
    _operation(Hold, "deadline", 0, "operations"),
    _capture("amount above the hold", "operations", amount=5_001),
    _capture("amount", "state_root", amount=1),
    _capture("no such hold", "operations", hold=OTHER),
    _operation(Enroll, "commitment", OTHER, "state_root"),
    _operation(Enroll, "hash_chain", 99, "state_root"),
    _operation(Enroll, "nonce", 99, "operations"),
    _operation(Retire, "nonce", 99, "operations"),
    _operation(Unjail, "nonce", 99, "operations"),
    _operation(Recommit, "commitment", OTHER, "state_root"),
    _operation(Recommit, "commitment", NO_COMMITMENT, "state_root"),  # fails, and that is another state
    _stolen(Recommit, commitment=OTHER),
    _stolen(Retire, nonce=99),
    Forgery("Evidence: in disorder", lambda f: _show(f, lambda a, b: (b, a)), "operations", kind=Evidence),
    Forgery("Evidence: one vote twice", lambda f: _show(f, lambda a, b: (a, a)), "operations", kind=Evidence),
    Forgery(
        "Evidence: a vote forged",
        lambda f: _show(f, lambda a, b: (a, replace(b, signature=flip(b.signature)))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: against another",
        lambda f: _show(f, lambda a, b: tuple(replace(vote, signer=_get_present(f)) for vote in (a, b))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: of another epoch",
        lambda f: _show(f, lambda a, b: tuple(replace(vote, epoch=vote.epoch + 1) for vote in (a, b))),
        "operations",
        kind=Evidence,
    ),
    Forgery(
        "Evidence: shown by another",
        lambda f: f.operation(Evidence, make_key("stranger")),
        "operations[{index}]",
        kind=Evidence,
    ),
    Forgery("Capture: no receipt", _without_receipt, "state_root", kind=Capture),
    Forgery("Capture: false receipt", _with_false_receipt, "operations", kind=Capture),
]

Change = Callable[[Certificate], dict[str, Any]]


def _without_quorum(certificate: Certificate) -> dict[str, Any]:
    return {"signers": certificate.signers[:2], "signatures": certificate.signatures[:2]}


def _with_bad_signature(certificate: Certificate) -> dict[str, Any]:
    *rest, last = certificate.signatures
    return {"signatures": (*rest, flip(last))}


CERTIFICATE_CHANGES: dict[str, Change] = {
    "epoch": lambda c: {"epoch": c.epoch + 1},
    "view": lambda c: {"view": c.view + 1},
    "a signature": _with_bad_signature,
    "a signature missing": lambda c: {"signatures": c.signatures[1:]},
    "no quorum": _without_quorum,
    "no signer": lambda c: {"signers": (), "signatures": ()},
    "signers in disorder": lambda c: {"signers": (1, 0, 2, 3, 4)},
    "a signer twice": lambda c: {"signers": (0, 0, 1, 2, 3)},
    "no such signer": lambda c: {"signers": (0, 1, 2, 3, 5)},
}
"""What can be wrong with a certificate of any kind."""


def _parent(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.block.body.parent_certificate
        assert certificate is not None
        forger.body(parent_certificate=replace(certificate, **change(certificate)))

    return Forgery(f"parent certificate: {what}", forge, "parent_certificate")


def _nullification(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        first, *rest = forger.block.body.nullifications
        forger.body(nullifications=(replace(first, **change(first)), *rest))

    return Forgery(f"nullification: {what}", forge, "nullifications")


def _nullifications(what: str, change: Callable[[list[Certificate]], list[Certificate]]) -> Forgery:
    def forge(forger: Forger) -> None:
        forger.body(nullifications=tuple(change(list(forger.block.body.nullifications))))

    return Forgery(f"nullifications: {what}", forge, "nullifications")


def _finality(what: str, change: Change) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.finals[forger.height]
        assert certificate is not None
        forger.finals[forger.height] = replace(certificate, **change(certificate))

    return Forgery(f"finality: {what}", forge, "finality")


def _finality_votes(what: str, kind: VoteKind, change: Callable[[Header], dict[str, Any]]) -> Forgery:
    """A certificate that everybody signed, of something else."""

    def forge(forger: Forger) -> None:
        header = forger.block.header
        fields = {"epoch": header.epoch, "view": header.view, "block_id": header.id, **change(header)}
        forger.finals[forger.height] = forger.chain.certify_id(kind, **fields)

    return Forgery(f"finality: {what}", forge, "finality")


def _finalize_by_next(forger: Forger) -> None:
    """A certificate that all of the next epoch's committee signed, in its own positions."""
    header = forger.block.header
    following = forger.chain.get_epoch(header.epoch).next_validators
    votes = [
        sign_vote(
            forger.chain.keys[each.public_key], forger.genesis.chain_id, VoteKind.FINALIZE,
            header.epoch, header.view, header.id,
        )
        for each in following
    ]  # fmt: skip
    forger.finals[forger.height] = make_certificate(votes, following)


def _finality_bytes(what: str, change: Callable[[bytes], bytes]) -> Forgery:
    def forge(forger: Forger) -> None:
        certificate = forger.finals[forger.height]
        assert certificate is not None
        forger.raw_finals[forger.height] = change(certificate.encode())

    return Forgery(f"finality: {what}", forge, "finality")


def _late(what: str, change: Callable[[Forger, Vote], Sequence[Vote]], field: str = "late_votes") -> Forgery:
    """Change the late votes of the struck block, which has one."""

    def forge(forger: Forger) -> None:
        (vote,) = forger.block.body.late_votes
        forger.body(late_votes=tuple(change(forger, vote)))

    return Forgery(f"late votes: {what}", forge, field)


def _vote_again(forger: Forger, vote: Vote, kind: VoteKind = VoteKind.NOTARIZE, **fields: Any) -> Vote:
    """The late vote with other content, signed by the validator that it names."""
    changed = replace(vote, **fields)
    key = forger.chain.keys.get(changed.signer, make_key("stranger"))
    return sign_vote(key, forger.genesis.chain_id, kind, changed.epoch, changed.view, changed.block_id)


def _get_present(forger: Forger) -> bytes:
    """A member whose vote is in the certificates."""
    return next(
        each.public_key
        for each in forger.chain.get_epoch(forger.block.header.epoch).validators
        if each.public_key != forger.chain.validators[3].public_key
    )


LATE_VOTES = [
    _late("left out", lambda f, vote: [], "state_root"),
    _late("twice", lambda f, vote: [vote, vote]),
    _late("signature", lambda f, vote: [replace(vote, signature=flip(vote.signature))]),
    _late("signer", lambda f, vote: [replace(vote, signer=_get_present(f))]),
    _late("of one counted already", lambda f, vote: [vote, _vote_again(f, vote, signer=_get_present(f))]),
    _late("of a stranger", lambda f, vote: [_vote_again(f, vote, signer=make_key("stranger").public_key)]),
    _late("to finalize", lambda f, vote: [_vote_again(f, vote, VoteKind.FINALIZE)]),
    _late("to nullify", lambda f, vote: [_vote_again(f, vote, VoteKind.NULLIFY, block_id=NO_BLOCK)]),
    _late("claiming another kind", lambda f, vote: [replace(vote, kind=int(VoteKind.FINALIZE))]),
    _late("view", lambda f, vote: [_vote_again(f, vote, view=vote.view + 1)]),
    _late("epoch", lambda f, vote: [_vote_again(f, vote, epoch=vote.epoch - 1)]),
    _late("block", lambda f, vote: [_vote_again(f, vote, block_id=OTHER)]),
    _late(
        "for the last block of the epoch before",
        lambda f, vote: [
            vote,
            f.chain.vote(f.chain.validators[3], f.blocks[4 * f.block.header.epoch]),
        ],
    ),
]

EVIDENCE = [
    Forgery("no parent certificate", lambda f: f.body(parent_certificate=None), "parent_certificate"),
    _parent("a finalization", lambda c: {"kind": 3}),
    _parent("a nullification", lambda c: {"kind": 2, "block_id": NO_BLOCK}),
    _parent("block", lambda c: {"block_id": OTHER}),
    _nullification("a notarization", lambda c: {"kind": 1, "block_id": OTHER}),
    _nullification("block", lambda c: {"block_id": OTHER}),
    _nullifications("none", lambda all: []),
    _nullifications("one missing", lambda all: all[1:]),
    _nullifications("one twice", lambda all: [all[0]] * len(all)),
    _nullifications("in disorder", lambda all: all[::-1]),
    _nullifications("one too many", lambda all: [*all, all[-1]]),
    _finality("kind", lambda c: {"kind": 1}),
    _finality("block", lambda c: {"block_id": OTHER}),
    _finality_votes("a notarization", VoteKind.NOTARIZE, lambda header: {}),
    _finality_votes("of another block", VoteKind.FINALIZE, lambda header: {"block_id": OTHER}),
    _finality_votes("in a later view", VoteKind.FINALIZE, lambda header: {"view": header.view + 1}),
    _finality_votes("in an earlier view", VoteKind.FINALIZE, lambda header: {"view": header.view - 1}),
    Forgery("finality: of another committee", lambda f: _finalize_by_next(f), "finality"),
    _finality_bytes("garbage", lambda raw: b"garbage"),
    _finality_bytes("a trailing byte", lambda raw: raw + b"\0"),
    _finality_bytes("cut short", lambda raw: raw[:-1]),
    *[_parent(what, change) for what, change in CERTIFICATE_CHANGES.items()],
    *[_nullification(what, change) for what, change in CERTIFICATE_CHANGES.items()],
    *[_finality(what, change) for what, change in CERTIFICATE_CHANGES.items()],
]


def _swap(forger: Forger) -> None:
    here = forger.height
    forger.order[here - 1], forger.order[here] = forger.order[here], forger.order[here - 1]


def _write_version_longer(forger: Forger) -> None:
    """The version as an integer of two bytes: the same value, but not its canonical encoding."""
    forger.raw[forger.height] = forger.block.encoded.replace(b"\x01", b"\xcc\x01", 1)


ENCODINGS = [
    Forgery("garbage", lambda f: f.raw.update({f.height: b"garbage"}), "encoding"),
    Forgery("empty", lambda f: f.raw.update({f.height: b""}), "encoding"),
    Forgery("cut short", lambda f: f.raw.update({f.height: f.block.encoded[:-1]}), "encoding"),
    Forgery("a trailing byte", lambda f: f.raw.update({f.height: f.block.encoded + b"\0"}), "encoding"),
    Forgery("not canonical", _write_version_longer, "encoding"),
    Forgery("another record", lambda f: f.raw.update({f.height: f.block.header.encode()}), "encoding"),
    Forgery("a block missing", lambda f: f.order.remove(f.height), "height"),
    Forgery("a block twice", lambda f: f.order.insert(f.height, f.height), "height", offset=1),
    Forgery("blocks swapped", _swap, "height"),
    Forgery("a block of another chain", lambda f: f.put(Chain(name="other").append(), f.height), "chain_id"),
]

FORGERIES = [*HEADERS, *BODIES, *EVIDENCE, *LATE_VOTES, *ENCODINGS]
