"""Sections 7.5, 7.6, 8.1 and 8.2: the validator registry, evidence, votes and certificates."""

from __future__ import annotations

from collections.abc import Iterable

from tests.chain.specification.ledger import NO_VALIDATOR, Ledger, get_own_bond, need
from tests.chain.specification.notation import Record, encode, is_signed

NOTARIZE, NULLIFY, FINALIZE = 1, 2, 3
DOMAINS = {NOTARIZE: "notarize", NULLIFY: "nullify", FINALIZE: "finalize"}
FINDER_REWARD_QUOTIENT = 10


def is_quorum(members: list[Record], signers: Iterable[int]) -> bool:
    """Whether these positions have more than two thirds of the stake."""
    stake = sum(members[position]["stake"] for position in set(signers))
    return bool(3 * stake > 2 * sum(each["stake"] for each in members))


def is_statement(chain_id: bytes, vote: Record, signer: bytes, signature: bytes) -> bool:
    """Whether ``signer`` signed the kind, epoch, view and block id of a vote or a certificate."""
    message = encode([vote["epoch"], vote["view"], vote["block_id"]])
    names_none = vote["block_id"] == bytes(32)
    return names_none == (vote["kind"] == NULLIFY) and is_signed(
        signer, DOMAINS[vote["kind"]], chain_id, message, signature
    )


def is_vote(chain_id: bytes, vote: Record) -> bool:
    """Whether a vote is valid."""
    return is_statement(chain_id, vote, vote["signer"], vote["signature"])


def is_certificate(chain_id: bytes, members: list[Record], certificate: Record) -> bool:
    """Whether a certificate is valid for a committee."""
    signers, signatures = certificate["signers"], certificate["signatures"]
    if len(signers) != len(signatures) or signers != sorted(set(signers)):
        return False
    if any(position >= len(members) for position in signers) or not is_quorum(members, signers):
        return False
    return all(
        is_statement(chain_id, certificate, members[position]["public_key"], signature)
        for position, signature in zip(signers, signatures, strict=True)
    )


def is_slashable(first: Record, second: Record) -> bool:
    """Whether no rule allows one validator both votes (section 12.3)."""
    same = all(first[name] == second[name] for name in ("signer", "epoch", "view"))
    kinds = {first["kind"], second["kind"]}
    return same and (kinds == {NULLIFY, FINALIZE} or (len(kinds) == 1 and first["block_id"] != second["block_id"]))


def enroll(ledger: Ledger, operation: Record, signer: bytes) -> None:
    is_new = b"v" + signer not in ledger.entries
    account, validator = ledger.account(signer), ledger.get(b"v" + signer, NO_VALIDATOR)
    need(not validator["is_enrolled"])
    need(get_own_bond(account) >= ledger.parameters["min_validator_bond"])
    validator |= {"is_enrolled": True, "waiting_since": ledger.height}
    announce(ledger, validator, operation)
    if is_new:
        ledger.pay_entry(signer, times=2)


def recommit(ledger: Ledger, operation: Record, signer: bytes) -> None:
    announce(ledger, get_enrolled(ledger, signer), operation)


def retire(ledger: Ledger, operation: Record, signer: bytes) -> None:
    get_enrolled(ledger, signer)["is_enrolled"] = False


def unjail(ledger: Ledger, operation: Record, signer: bytes) -> None:
    validator = get_enrolled(ledger, signer)
    need(0 < validator["jailed_until"] <= ledger.epoch)
    validator |= {"jailed_until": 0, "waiting_since": ledger.height}


def get_enrolled(ledger: Ledger, signer: bytes) -> Record:
    validator = ledger.entries.get(b"v" + signer, NO_VALIDATOR)
    need(validator["is_enrolled"])
    return validator


def announce(ledger: Ledger, validator: Record, operation: Record) -> None:
    need(operation["commitment"] != bytes(32) and not validator["next_epoch"])
    validator |= {
        "next_commitment": operation["commitment"],
        "next_hash_chain": operation["hash_chain"],
        "next_epoch": ledger.epoch + 2,
    }


def punish(ledger: Ledger, operation: Record, signer: bytes) -> None:
    """The effect of ``Evidence``."""
    votes = [operation["first"], operation["second"]]
    offender, epoch, years = votes[0]["signer"], votes[0]["epoch"], ledger.parameters["unbonding_epochs"]
    need(b"v" + offender in ledger.entries)
    validator, account = ledger.entries[b"v" + offender], ledger.account(offender)
    need(epoch <= ledger.epoch <= epoch + years and epoch >= validator["clean_from"])
    stake = account["bonded"] + sum(part["amount"] for part in account["unbonding"])
    need(stake)
    need(all(is_vote(ledger.chain_id, vote) for vote in votes))
    reward = (stake - account["bonded"] + get_own_bond(account)) // FINDER_REWARD_QUOTIENT
    account |= {"bonded": 0, "unbonding": [], "grant": 0}
    ledger.account(signer)["available"] += reward
    ledger.fill_treasury(stake - reward)
    validator |= {"jailed_until": ledger.epoch + years, "clean_from": ledger.epoch + 2}
