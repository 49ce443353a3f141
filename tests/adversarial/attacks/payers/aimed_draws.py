"""A payer leaves out hold numbers until its accomplice, with 5 % of the stake, is drawn first: 1,000 requests for it.

Tried in two ways: by one account that goes on and on, and by fresh accounts, each of which is abandoned with its
deposit after so many numbers as are cheapest for the attacker. The cheaper way counts.
"""

from __future__ import annotations

from chain.crypto import hash_bytes
from chain.parameters.parameters import Parameters
from chain.state.lottery import Lottery, ServingEntry, compute_lottery_seed
from chain.state.records import REPLAY_WINDOW_SIZE, ReplayWindow
from chain.transition.deposits import compute_deposit, compute_forfeit
from chain.types.operations import Usage
from tests.adversarial.attacks.table import Attack, Outcome

REQUESTS = 1_000
SHARE = 20
"""The accomplice has one of so many parts of the stake."""
PARAMETERS = Parameters()
PRICE = PARAMETERS.price.compute(Usage(prompt_bytes=400, completion_bytes=2_000))
"""Of one of the requests: some 500 tokens."""
SERVERS = [ServingEntry(hash_bytes("test server", bytes([number])), 1_000, ("m",)) for number in range(SHARE)]
LOTTERY = Lottery(SERVERS)
SOURCES = [hash_bytes("test source", bytes([epoch])) for epoch in range(2)]
"""Of two epochs: a number that waits for the next one is drawn twice."""


def is_first(payer: bytes, seq: int) -> bool:
    """Whether the accomplice is drawn first for a number in either epoch."""
    seeds = (compute_lottery_seed(source, payer, seq) for source in SOURCES)
    return any(LOTTERY.get_executor(seed, payer, 0) == SERVERS[0].public_key for seed in seeds)


def aim_from_one_account() -> int:
    """Micro-credits that the numbers cost."""
    payer, window, lost, made, seq = bytes(32), ReplayWindow(), 0, 0, 0
    while made < REQUESTS:
        if is_first(payer, seq):
            after = window.use(seq, 0)
            lost += compute_forfeit(PARAMETERS, window, after)
            window, made = after, made + 1
        seq += 1
    return lost + compute_deposit(PARAMETERS, window.unused)


def aim_from_fresh_accounts(numbers: int) -> int:
    """The same, with accounts of which each makes what it can of its first ``numbers``."""
    cost = made = account = 0
    while made < REQUESTS:
        payer, window, account = hash_bytes("test payer", account.to_bytes(4, "big")), ReplayWindow(), account + 1
        for seq in filter(lambda each: is_first(payer, each), range(numbers)):
            window = window.use(seq, 0)
            made += 1
        cost += 2 * PARAMETERS.entry_fee + compute_deposit(PARAMETERS, window.unused)
    return cost


def run() -> Outcome:
    worth = REQUESTS * PRICE
    costs = {"one account": aim_from_one_account()}
    for numbers in (8, 16, 24, 32, 64, REPLAY_WINDOW_SIZE):
        costs[f"accounts of {numbers} numbers"] = aim_from_fresh_accounts(numbers)
    cheapest = min(costs, key=lambda way: costs[way])
    detail = f"{REQUESTS:,} requests of {PRICE:,} each, aimed; cheapest by {cheapest}"
    return Outcome(costs[cheapest], worth, 0, detail)


ATTACK = Attack(
    "numbers left out until an accomplice is drawn first",
    Outcome(0, 16 * PRICE, 0, "first for 16 of the 256 numbers of a window, which cost nothing"),
    run,
)
