"""Genesis: the parameters, first accounts and first validators of a chain, and the file that holds them.

The chain id is the hash of the canonical genesis, so that no signature or hash of one chain means anything on another.
``genesis.json`` is its readable form: addresses as text, amounts in micro-credits, times in milliseconds.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from chain import crypto
from chain.codec import Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record
from chain.exceptions import CodecError, GenesisError, JsonFormError, KeyFormatError
from chain.json_form import from_plain, to_plain
from chain.merkle.mountain_range import MountainRange
from chain.parameters.check_economics import check_checks
from chain.parameters.duel_economics import check_duels
from chain.parameters.parameters import Parameters
from chain.state.beacon import NO_COMMITMENT, Beacon, make_hash_chain
from chain.state.keys import (
    BEACON_KEY,
    HISTORY_KEY,
    PARTICIPATION_KEY,
    PERIODS_KEY,
    TOTALS_KEY,
    account_key,
    committee_key,
    table_key,
    validator_key,
)
from chain.state.lottery import ServingPeriod, ServingPeriods, ServingTable
from chain.state.records import Account, Participation, Totals, ValidatorRecord
from chain.state.state import State
from chain.types.blocks import NO_REVEAL, VERSION, Body, Header
from chain.types.operations import MAX_MODELS
from chain.types.validators import ValidatorSet

GENESIS_VERSION = 6
"""Version of the genesis record."""
MAX_CHAIN_NAME_BYTES = 64
"""Longest name of a chain, in UTF-8."""


MAX_SERVERS = 4096
"""Accounts in the executor lottery: the table is one entry of the state, and must stay readable."""


MAX_GENESIS_BYTES = 8 << 20
"""Largest encoded genesis that is read: thousands of accounts with models."""


MAX_RESTARTS = 64
"""Restart blocks that one genesis file may accept."""


MAX_NEWCOMERS = 256
"""Accounts without stake among them."""


@dataclass(frozen=True, slots=True)
class GenesisAccount(Record):
    """Credits of an account at the beginning. A validator, which votes with the weight of its bond, has a
    ``commitment``.

    That is the commitment to its hash chain number 0 (:func:`make_validator`); it is None for all other accounts.
    """

    public_key: PublicKey
    available: Amount
    bonded: Amount
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_MODELS)]
    commitment: Hash | None


@dataclass(frozen=True)
class Genesis(Record):
    """Everything that defines a chain. ``timestamp`` is ms since the Unix epoch, ``beacon`` 32 random bytes.

    ``restarts`` are ids of restart blocks that its reader accepts (:mod:`chain.transition.restart`); they are no part
    of the chain id.
    """

    version: Annotated[int, Bounds(GENESIS_VERSION, GENESIS_VERSION)]
    name: Annotated[str, Bounds(1, MAX_CHAIN_NAME_BYTES)]
    timestamp: Natural
    beacon: Hash
    parameters: Parameters
    accounts: Annotated[tuple[GenesisAccount, ...], Bounds(1, 4096)]
    restarts: Annotated[tuple[Hash, ...], Bounds(0, MAX_RESTARTS)] = ()

    def check(self) -> None:
        """Check what the field types cannot say.

        Raises:
            GenesisError: too large, an unusable or repeated key, unsorted models, a model priced twice, epochs that are
                no whole number of rounds, duels or checks that cannot work, no validator, too many, one with too small
                a bond, a committee that no account can join, or too much credit.
        """
        size = len(self.encode())
        if size > MAX_GENESIS_BYTES:
            raise GenesisError(f"the genesis has {size} bytes, more than {MAX_GENESIS_BYTES}")
        keys = [account.public_key for account in self.accounts]
        if len(set(keys)) != len(keys):
            raise GenesisError("an account is listed twice")
        for account in self.accounts:
            if not crypto.is_valid_public_key(account.public_key):
                raise GenesisError(f"{account.public_key.hex()} is not a usable public key")
            if list(account.models) != sorted(set(account.models)):
                raise GenesisError(f"models of {crypto.format_address(account.public_key)} must be sorted and distinct")
        heights, round_heights = self.parameters.epoch_heights, self.parameters.round_heights
        if heights % round_heights:
            raise GenesisError(f"round_heights {round_heights} does not divide epoch_heights {heights}")
        priced = [entry.model for entry in self.parameters.model_prices]
        if len(set(priced)) != len(priced):
            raise GenesisError("model_prices: a model is listed twice")
        check_duels(self.parameters)
        check_checks(self.parameters)
        validators = [account for account in self.accounts if account.commitment is not None]
        if not validators:
            raise GenesisError("no account is a validator")
        least = self.parameters.min_validator_bond
        for account in validators:
            name = crypto.format_address(account.public_key)
            if account.commitment == NO_COMMITMENT:
                raise GenesisError(f"the commitment of validator {name} is that of no hash chain")
            if account.bonded < least:
                raise GenesisError(f"validator {name} bonds {account.bonded}, less than min_validator_bond {least}")
        if len(validators) > self.parameters.committee_size:
            raise GenesisError(f"{len(validators)} validators, more than committee_size")
        smallest = min(account.bonded for account in validators)
        # A new member begins with a tenth of the weight, and takes a seat only from a member with less.
        if len(validators) == self.parameters.committee_size and self.validators.total_stake // 10 <= smallest:
            raise GenesisError(
                f"no account could ever join the committee: its {len(validators)} seats are taken, and the smallest, "
                f"{smallest}, is not less than a tenth of all; set committee_size to 11 or more"
            )
        if self.supply >= 2**63:
            raise GenesisError("the supply must stay below 2^63 micro-credits")

    @cached_property
    def chain_id(self) -> bytes:
        """Hash of the canonical genesis, without the restarts that came after it."""
        return crypto.hash_bytes("genesis", replace(self, restarts=()).encode())

    @cached_property
    def supply(self) -> int:
        return sum(account.available + account.bonded for account in self.accounts)

    @cached_property
    def validators(self) -> ValidatorSet:
        """The committee of the first epochs."""
        return ValidatorSet.of((a.public_key, a.bonded) for a in self.accounts if a.commitment is not None)

    @cached_property
    def state(self) -> State:
        """The state before the first block."""
        entries: dict[bytes, Record | None] = {
            account_key(account.public_key): Account(
                available=account.available, bonded=account.bonded, models=account.models
            )
            for account in self.accounts
            if account.available or account.bonded or account.models
        }
        entries |= {
            validator_key(account.public_key): ValidatorRecord(is_enrolled=True, commitment=account.commitment)
            for account in self.accounts
            if account.commitment is not None
        }
        table = compute_serving_table(State().update(entries), self.parameters, self.beacon)
        return State().update(
            {
                **entries,
                TOTALS_KEY: Totals(0, self.supply),
                HISTORY_KEY: MountainRange(0, ()),
                BEACON_KEY: Beacon(0, self.beacon, self.beacon, bytes(32)),
                PARTICIPATION_KEY: Participation(0, (), ()),
                committee_key(0): self.validators,
                committee_key(1): self.validators,
                table_key(0): table,
                PERIODS_KEY: ServingPeriods(None, (ServingPeriod(0, self.beacon),)),
            }
        )

    @cached_property
    def header(self) -> Header:
        """The header at height 0, the parent of the first block. It is not signed: the chain id commits to it."""
        return Header(
            version=VERSION,
            chain_id=self.chain_id,
            epoch=0,
            height=0,
            view=0,
            parent_id=bytes(32),
            timestamp=self.timestamp,
            chain_time=0,
            proposer=bytes(32),
            body_root=Body((), None, (), ()).root,
            state_root=self.state.root,
            history_root=MountainRange(0, ()).root,
            validators_hash=self.validators.hash,
            next_validators_hash=self.validators.hash,
            beacon_reveal=NO_REVEAL,
        )

    def to_json(self) -> str:
        """The content of a genesis file."""
        return json.dumps(to_plain(self), indent=2) + "\n"


def compute_serving_table(state: State, parameters: Parameters, beacon: bytes) -> ServingTable:
    """The accounts that serve some model, or judge, by key.

    First come the accounts with at least the minimum bond, the largest ``MAX_SERVERS`` of them. The rest of the room is
    for newcomers, which have less and serve some model, drawn by ``beacon``.
    """
    least, newcomer_count = max(1, parameters.min_service_bond), MAX_NEWCOMERS if parameters.newcomer_share else 0
    # Both lists may be much longer than what is taken from them.
    staked = heapq.nsmallest(
        MAX_SERVERS,
        (entry for entry in state.servers() if entry.stake >= least),
        key=lambda entry: (-entry.stake, entry.public_key),
    )
    newcomers = heapq.nsmallest(
        newcomer_count,
        (entry for entry in state.servers() if entry.stake < least and entry.models),
        key=lambda entry: crypto.hash_bytes("newcomer", beacon, entry.public_key),
    )
    if parameters.duels.rate:
        exponent = parameters.duels.exposure_exponent
        staked = [
            replace(entry, exposure=state.rating(entry.public_key).compute_exposure(exponent)) for entry in staked
        ]
    entries = [*staked, *(replace(entry, stake=0) for entry in newcomers)]
    min_judge_share = parameters.duels.min_judge_share if parameters.duels.rate else 0
    entries.sort(key=lambda entry: entry.public_key)
    return ServingTable(tuple(entries), parameters.newcomer_share, min_judge_share)


def make_validator(
    key: crypto.KeyPair,
    beacon: bytes,
    parameters: Parameters,
    available: int,
    bonded: int,
    models: tuple[str, ...] = (),
) -> GenesisAccount:
    """The account of a validator in the genesis with this beacon and these parameters."""
    commitment = make_hash_chain(key, beacon, 0, parameters.epoch_heights).commitment
    return GenesisAccount(key.public_key, available, bonded, models, commitment)


def make_genesis(
    name: str, timestamp: int, beacon: bytes, accounts: Sequence[GenesisAccount], parameters: Parameters | None = None
) -> Genesis:
    """A checked genesis of the current version.

    Raises:
        GenesisError: it contradicts itself.
    """
    genesis = Genesis(GENESIS_VERSION, name, timestamp, beacon, parameters or Parameters(), tuple(accounts))
    genesis.check()
    return genesis


def load_genesis(path: Path) -> Genesis:
    """Read a genesis file.

    Raises:
        GenesisError: missing, unreadable, or not a genesis; the message names the file and the field.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GenesisError(f"cannot read the genesis file {path}: {error.strerror}") from error
    return parse_genesis(content, str(path))


def parse_genesis(content: bytes, source: str) -> Genesis:
    """The genesis in the content of a genesis file; ``source`` is what errors call it.

    Raises:
        GenesisError: it is none; the message names the source and the field.
    """
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise GenesisError(f"{source} is not JSON: {error}") from error
    version = plain.get("version") if isinstance(plain, dict) else None
    if type(version) is int and version != GENESIS_VERSION:  # before its fields, which are not those of this version
        raise GenesisError(
            f"{source} is a genesis of version {version}, and this program knows version {GENESIS_VERSION}: a chain "
            "keeps the rules that it began with, so go on with the program that made it, or begin a new chain"
        )
    try:
        genesis = from_plain(Genesis, plain, "genesis")
        Genesis.decode(genesis.encode(), MAX_GENESIS_BYTES)  # applies the types and bounds of every field
        genesis.check()
    except (CodecError, JsonFormError, KeyFormatError, GenesisError) as error:
        raise GenesisError(f"{source}: {error}") from error
    return genesis
