"""Vectors of draws and committees: leaders, executors, serving tables, what follows at the end of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain import crypto
from chain.genesis import compute_serving_table
from chain.state.keys import account_key
from chain.state.lottery import ServingEntry, ServingTable, compute_lottery_seed
from chain.state.records import Account, ReplayWindow
from chain.state.state import State
from chain.transition.validators.registry import CommitteeApplicant as Applicant
from chain.transition.validators.registry import compute_committee
from chain.types.validators import ValidatorSet
from tests.support.chain_builder import PARAMETERS
from tests.support.keys import make_key
from tests.vectors.plain import Json, to_plain

SOURCE = crypto.hash_bytes("beacon", b"vectors")
KEYS = sorted(make_key(f"server {number}").public_key for number in range(12))


def make_leaders() -> Json:
    """Leaders of some views of two committees."""
    committees = [(1, 1, 1, 1), (1_000_000, 500_000, 1), (2**62, 2**61, 7)]
    return {
        "description": "The leaders of views, as positions in the committee.",
        "section": "9.3",
        "source": SOURCE.hex(),
        "cases": [_draw_leaders(stakes) for stakes in committees],
    }


def _draw_leaders(stakes: Sequence[int]) -> Json:
    members = ValidatorSet.of(zip(KEYS, stakes, strict=False))
    views = [*range(1, 17), 2**32 + 1]
    return {
        "validators": to_plain(members),
        "hash": members.hash.hex(),
        "leaders": {str(view): members.get_position(members.compute_leader(SOURCE, view)) for view in views},
    }


def make_lottery() -> Json:
    """Orders of executors, with and without newcomers."""
    tables = {
        "staked alone": _make_table([5, 50, 500, 5_000, 50_000], 0, 50),
        "with newcomers": _make_table([1_000] * 6, 4, 300),
        "newcomers alone": _make_table([], 3, 50),
        "newcomers without a share": _make_table([10, 20], 2, 0),
        "every draw a newcomer's first": _make_table([10, 20], 2, 1000),
    }
    return {
        "description": "Whole orders of executors for (payer, seq, model 'm'), as positions in the serving table.",
        "section": "9.5",
        "source": SOURCE.hex(),
        "cases": [{"what": what, **_draw_orders(table)} for what, table in tables.items()],
    }


def _make_table(stakes: Sequence[int], newcomers: int, share: int) -> ServingTable:
    weights = [*stakes, *[0] * newcomers]
    entries = [ServingEntry(key, stake, ("m",)) for key, stake in zip(KEYS, weights, strict=False)]
    entries = [replace(entry, models=("m", "n")) if number % 2 else entry for number, entry in enumerate(entries)]
    odd = ServingEntry(KEYS[11], 77, ("n",))  # serves something else
    return ServingTable(tuple(sorted([*entries, odd], key=lambda entry: entry.public_key)), share)


def _draw_orders(table: ServingTable) -> Json:
    positions = {entry.public_key: number for number, entry in enumerate(table.entries)}
    orders = []
    for payer in (make_key("user 0").public_key, table.entries[0].public_key):
        for seq in range(3):
            seed = compute_lottery_seed(SOURCE, payer, seq)
            order = [positions[key] for key in table.lottery("m").order(seed, payer)]
            orders.append({"payer": payer.hex(), "seq": seq, "seed": seed.hex(), "order": order})
    return {"table": to_plain(table), "encoded_table": table.encode().hex(), "orders": orders}


def make_serving_tables() -> Json:
    """Who comes into a serving table."""
    accounts = {
        KEYS[0]: Account(bonded=5_000, models=("m",)),
        KEYS[1]: Account(bonded=1_000, models=("m", "n")),
        KEYS[2]: Account(bonded=999, models=("m",)),
        KEYS[3]: Account(available=1, models=("n",)),
        KEYS[4]: Account(bonded=9_000),
    }
    state = State().update({account_key(key): account for key, account in accounts.items()})
    cases = [
        (parameters, compute_serving_table(state, parameters, SOURCE))
        for parameters in (PARAMETERS, replace(PARAMETERS, newcomer_share=0), replace(PARAMETERS, min_service_bond=0))
    ]
    return {
        "description": "Serving tables of a few accounts. (Who drops out of a table that is full is not shown.)",
        "section": "9.4",
        "beacon": SOURCE.hex(),
        "accounts": {key.hex(): to_plain(account) for key, account in accounts.items()},
        "newcomer_order": sorted(
            (key.hex() for key in accounts), key=lambda key: crypto.hash_bytes("newcomer", SOURCE, bytes.fromhex(key))
        ),
        "cases": [
            {
                "min_service_bond": parameters.min_service_bond,
                "newcomer_share": parameters.newcomer_share,
                "table": to_plain(table),
            }
            for parameters, table in cases
        ],
    }


def make_committees() -> Json:
    """Committees that follow from one before and the applicants."""
    k = KEYS
    cases: list[tuple[str, list[tuple[bytes, int]], list[Applicant], int]] = [
        ("nothing changes", [(k[0], 100), (k[1], 100)], [Applicant(k[0], 100, 0), Applicant(k[1], 100, 0)], 4),
        ("a newcomer gets a tenth", [(k[0], 100), (k[1], 100)],
         [Applicant(k[0], 100, 0), Applicant(k[1], 100, 0), Applicant(k[2], 500, 7)], 4),
        ("who waited longest comes first", [(k[0], 100), (k[1], 100)],
         [Applicant(k[0], 109, 9), Applicant(k[1], 115, 3), Applicant(k[2], 500, 7)], 4),
        ("less weight counts at once", [(k[0], 100), (k[1], 100)], [Applicant(k[0], 1, 0), Applicant(k[1], 100, 0)], 4),
        ("who is no applicant is gone", [(k[0], 100), (k[1], 100)], [Applicant(k[1], 100, 0)], 4),
        ("no member is left: the old one stays", [(k[0], 100), (k[1], 100)], [], 4),
        ("no seat is free, the newcomer is larger", [(k[0], 200), (k[1], 5)],
         [Applicant(k[0], 200, 0), Applicant(k[1], 5, 0), Applicant(k[2], 50, 4)], 2),
        ("no seat is free, the newcomer is not larger", [(k[0], 200), (k[1], 20)],
         [Applicant(k[0], 200, 0), Applicant(k[1], 20, 0), Applicant(k[2], 20, 4)], 2),
        ("equal smallest: the smaller key goes", [(k[0], 100), (k[1], 5), (k[2], 5)],
         [Applicant(k[0], 100, 0), Applicant(k[1], 5, 0), Applicant(k[2], 5, 0), Applicant(k[3], 50, 4)], 3),
        ("displaced, and back with the rest of the room", [(k[0], 200), (k[1], 5)],
         [Applicant(k[0], 200, 0), Applicant(k[1], 30, 9), Applicant(k[2], 7, 4)], 2),
        ("a committee too small to grow", [(k[0], 9)], [Applicant(k[0], 9, 0), Applicant(k[1], 50, 1)], 4),
        ("equal waits: the smaller key first", [(k[5], 100)],
         [Applicant(k[5], 100, 0), Applicant(k[2], 8, 3), Applicant(k[1], 8, 3)], 4),
    ]  # fmt: skip
    return {
        "description": (
            "Committee e + 2 from committee e + 1 ('before') and the applicants: bonded, and the height since which "
            "each waits. Validators are (key, stake)."
        ),
        "section": "8.5",
        "cases": [_compute_case(*case) for case in cases],
    }


def _compute_case(what: str, before: list[tuple[bytes, int]], applicants: list[Applicant], size: int) -> Json:
    old = ValidatorSet.of(before)
    new = compute_committee(old, applicants, size)
    return {
        "what": what,
        "committee_size": size,
        "before": [[validator.public_key.hex(), validator.stake] for validator in old],
        "applicants": [
            {"public_key": each.public_key.hex(), "bonded": each.bonded, "waiting_since": each.waiting_since}
            for each in applicants
        ],
        "committee": [[validator.public_key.hex(), validator.stake] for validator in new],
    }


def make_hold_windows() -> Json:
    """Which hold numbers are usable, and the window after each use."""
    window, steps = ReplayWindow(), []
    for seq, attempt in (
        (0, 0),
        (0, 0),
        (0, 7),
        (3, 1),
        (2, 0),
        (258, 0),
        (3, 2),
        (2, 1),
        (259, 0),
        (600, 0),
        (515, 3),
        (600, 1),
    ):
        usable = window.is_usable(seq, attempt)
        window = window.use(seq, attempt) if usable else window
        steps.append({"seq": seq, "attempt": attempt, "usable": usable, "window": to_plain(window)})
    return {
        "description": "Holds of one payer in order: whether (seq, attempt) is usable, and the window afterwards.",
        "section": "7.3",
        "steps": steps,
    }
