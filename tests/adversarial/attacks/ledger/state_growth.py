"""Memory of every node is bought where it is cheapest: what a byte costs in each way to enlarge the state.

The measure is an account that owns nothing, which costs ``entry_fee``. Credit that is bound as long as the memory is
taken counts as spent, as a fee does.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Mapping

from chain.codec import Record
from chain.crypto import hash_bytes
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.keys import account_key, due_captures_key, hold_key, replay_window_key, validator_key
from chain.state.state import State
from chain.transition.deposits import compute_least_unbonding
from chain.types.operations import SignedOperation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.chain_builder import Chain, do
from tests.support.keys import make_key

COPIES = 1_000
"""How often an entry is put into a state, to see what one takes."""
TOLERANCE_PERCENT = 5
"""By how much another way may be cheaper: versions of Python differ by more in what they take for an object."""
LONGEST = "m" * 128
LONG = tuple(f"{number:0128}" for number in range(16))
SHORT = tuple(f"{number:02}" for number in range(16))
PARAMETERS = Parameters()


def make_chain() -> Chain:
    return Chain(models=(LONGEST,), parameters=PARAMETERS, stakes=[2_000 * CREDIT] * 4, available=5_000 * CREDIT)


def measure_bytes(state: State, *keys: bytes) -> float:
    """Memory that the entries under ``keys`` take, if many accounts have such ones. A missing entry takes nothing."""
    entries: Mapping[bytes, Record | None] = {key: state.get(key) for key in keys}
    encoded = {
        key[:1] + hash_bytes("test copy", key, number.to_bytes(4, "big"))[: len(key) - 1]: record.encode()
        for key, record in entries.items()
        if record is not None
        for number in range(COPIES)
    }
    State.load(encoded)  # what is remembered of these entries outside of a state is remembered now
    gc.collect()
    tracemalloc.start()
    copy = State.load(encoded)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(1 for _ in copy.entries()) == len(encoded)
    return taken / COPIES


def count_free(chain: Chain) -> int:
    """Micro-credits of all accounts that are neither spent nor bound to what they take in the state."""
    return sum(account.available + account.bonded for _, account in chain.state.accounts())


def price_growth(chain: Chain, operations: list[SignedOperation], *keys: bytes) -> int:
    """What a gigabyte costs, in credits, by operations that make the entries under ``keys`` or enlarge them."""
    free, taken = count_free(chain), measure_bytes(chain.state, *keys)
    do(chain, *operations)
    spent, grown = free - count_free(chain), measure_bytes(chain.state, *keys) - taken
    assert grown > 0
    return round(spent / grown * 2**30 / CREDIT)


def price_account() -> int:
    chain, stranger = make_chain(), make_key("stranger")
    return price_growth(chain, [chain.transfer(chain.users[0], stranger, 1)], account_key(stranger.public_key))


def price_others() -> dict[str, int]:
    """What a gigabyte costs in each other way."""
    chain, prices = make_chain(), {}
    user, server = chain.users
    for way, models in (("one short model", SHORT[:1]), ("16 short models", SHORT), ("16 long models", LONG)):
        prices[way] = price_growth(chain, [chain.serve(server, *models)], account_key(server.public_key))
        do(chain, chain.serve(server))
    do(chain, chain.bond(user, 2_000 * CREDIT))
    unbond = chain.unbond(user, compute_least_unbonding(PARAMETERS))
    prices["unbonding"] = price_growth(chain, [unbond], account_key(user.public_key))
    prices["validator"] = price_growth(chain, [chain.enroll(user)], validator_key(user.public_key))
    least, payee = PARAMETERS.price.per_request, chain.executor(user, 0, model=LONGEST)
    hold, refund = chain.hold(user, 0, amount=least, model=LONGEST), chain.delivery(user, 0, amount=0)
    payment = [hold, chain.capture(payee, refund)]
    prices["first payment"] = price_growth(chain, payment, replay_window_key(user.public_key))
    hold, payee = chain.hold(user, 1, amount=least, model=LONGEST), chain.executor(user, 1, model=LONGEST)
    payment = [hold, chain.capture(payee, chain.delivery(user, 1, amount=1))]
    keys = hold_key(hold.id), due_captures_key(0)
    prices["payment that waits"] = price_growth(chain, payment, *keys)
    return prices


def run() -> Outcome:
    account, others = price_account(), price_others()
    cheapest = min(others, key=lambda way: others[way])
    least = account * (100 - TOLERANCE_PERCENT) // 100
    ways = ", ".join(f"{name} {price:,}" for name, price in others.items())
    return Outcome(others[cheapest], least, 0, f"a gigabyte of accounts costs {account:,}, by {ways}", "credits/GB")


ATTACK = Attack(
    "memory of every node, bought by what is cheapest for its bytes",
    Outcome(2_166, 14_838, 0, "accounts with 16 long models, at a seventh of the price of accounts", "credits/GB"),
    run,
)
