"""Validators and epochs of a stored chain, as JSON."""

from __future__ import annotations

from typing import Any

from chain.crypto import format_address
from chain.exceptions import NotFound
from chain.explorer.plain import header_to_plain
from chain.store.writer import ChainStore
from chain.transition.epochs import get_last_height, get_next_epoch


def list_validators(chain: ChainStore) -> dict[str, Any]:
    """Who votes on the next block, with the share of stake and the part taken in this epoch; the largest first.

    ``votes`` of ``counted_blocks`` blocks of this epoch were seen in later blocks. ``jailed`` are those that are
    enrolled and may not vote.
    """
    epoch, participation = get_next_epoch(chain.genesis, chain.state), chain.state.participation
    validators = epoch.validators
    is_counted = chain.header.epoch == epoch.number and len(participation.votes) == len(validators)
    rows = [
        {
            "address": format_address(each.public_key),
            "stake": each.stake,
            "share": each.stake / validators.total_stake,
            "votes": participation.votes[position] if is_counted else 0,
        }
        for position, each in enumerate(validators)
    ]
    records = chain.state.validator_records()
    return {
        "height": chain.height,
        "epoch": epoch.number,
        "last_height": epoch.last_height,
        "total_stake": validators.total_stake,
        "counted_blocks": participation.blocks if is_counted else 0,
        "validators": sorted(rows, key=lambda row: (-row["stake"], row["address"])),
        "jailed": [
            {"address": format_address(key), "until_epoch": record.jailed_until}
            for key, record in records
            if record.is_enrolled and record.jailed_until
        ],
    }


def show_epoch(chain: ChainStore, number: int) -> dict[str, Any]:
    """An epoch: its heights, who votes in it, and its last block once that is final.

    Raises:
        NotFound: its validators are not decided, or not on record here.
    """
    validators = chain.validators(number)
    if validators is None:
        raise NotFound(f"the validators of epoch {number} are not on record (the last final block is {chain.height})")
    first, last = (
        get_last_height(chain.genesis.parameters, number - 1) + 1,
        get_last_height(chain.genesis.parameters, number),
    )
    end = chain.find_header(last) if last <= chain.height else None
    return {
        "epoch": number,
        "first_height": first,
        "last_height": last,
        "is_over": last <= chain.height,
        "last_block": None if end is None else header_to_plain(end),
        "total_stake": validators.total_stake,
        "validators": [
            {
                "address": format_address(each.public_key),
                "stake": each.stake,
                "share": each.stake / validators.total_stake,
            }
            for each in validators
        ],
    }
