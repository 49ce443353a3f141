"""The API keys of a node: who may use the API, and what is left to each.

Keys come from two places. Those in the configuration file have a rate and nothing else. Those that the owner makes by
``wwwserve keys`` are kept in a store of their own by their digest, with all limits. As soon as one key was ever made,
everybody needs one: revoking the last key opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from chain.amounts import format_credits
from chain.exceptions import StoreDamaged, StoreError
from chain.store.kv import Changes, LevelStore, Store
from p2p.runtime import Runtime
from serving.http.messages import Headers, find_header
from serving.keys.budget import KeyBudget
from serving.keys.rates import KeyRates
from serving.keys.records import (
    CONFIGURED_PREFIX,
    ConfiguredKey,
    KeyLimits,
    KeyRecord,
    KeyRefused,
    check_key_name,
    hash_secret,
    make_record,
    make_secret,
)
from serving.keys.usage import MAX_DAYS, Usage, get_day
from serving.openai.errors import ApiError, key_forbids_model, quota_exceeded, unauthorized

MAX_KEYS = 4096
"""Keys that a node keeps, revoked ones included."""
SAVE_INTERVAL_S = 5.0
"""Seconds between writes of what was used."""
_RECORD, _SPENT, _USAGE = b"k", b"s", b"u"
"""Beginnings of the store's keys: a record and what was spent by name, and use by name and day."""


@dataclass(slots=True)
class KeyCounters:
    """What a key did since the node started."""

    admitted: int = 0
    refused: int = 0
    completion_tokens: int = 0
    spent: int = 0


@dataclass(slots=True)
class _Key:
    record: KeyRecord
    rates: KeyRates
    budget: KeyBudget | None
    counters: KeyCounters = field(default_factory=KeyCounters)


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What one request under way has reserved: micro-credits and tokens."""

    key: str
    amount: int
    tokens: int


class Keyring:
    """The keys of one node."""

    def __init__(
        self, store: Store, runtime: Runtime, configured: Iterable[ConfiguredKey] = (), *, required: bool = False
    ) -> None:
        """``required``: everybody needs a key, even if there is none.

        Raises:
            StoreError: what is stored cannot be read.
        """
        self._store = store
        self._runtime = runtime
        self._required = required
        self._keys: dict[str, _Key] = {}
        self._by_digest: dict[bytes, _Key] = {}
        self._usage: dict[tuple[str, str], Usage] = {}
        self._unsaved: set[tuple[str, str]] = set()
        self._writing = trio.Lock()
        for number, entry in enumerate(configured, 1):
            limits = KeyLimits(requests_per_minute=entry.requests_per_minute)
            self._add(make_record(f"{CONFIGURED_PREFIX}{number}", entry.key, limits, 0))
        try:
            for name, value in store.items(_RECORD):
                stored = int.from_bytes(store.get(_SPENT + name[1:]) or b"", "big")
                self._add(KeyRecord.decode(value), stored)
            for name, value in store.items(_USAGE):
                key, _, day = name[1:].decode().partition("\0")
                self._usage[key, day] = Usage.decode(value)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the stored API keys cannot be read: {error!r}") from error

    def _add(self, record: KeyRecord, stored: int = 0) -> None:
        limit = record.limits.budget
        budget = None if limit is None else KeyBudget(limit, stored)
        key = _Key(record, KeyRates(record.limits, trio_time()), budget)
        self._keys[record.name] = self._by_digest[record.digest] = key

    # Requests

    @property
    def is_open(self) -> bool:
        """Whether requests need no key."""
        return not self._keys and not self._required

    def admit(self, headers: Headers) -> None:
        """Admit one request by its head.

        Raises:
            ApiError: 401 without a good key, 429 above its rate.
        """
        key = self._find(headers)
        if key is not None:
            try:
                key.rates.admit(trio_time())
            except ApiError:
                self._note_refused(key)
                raise

    def identify(self, headers: Headers) -> str:
        """The name of the key that a request carries; empty where none is needed.

        Raises:
            ApiError: 401 without a good key.
        """
        key = self._find(headers)
        return "" if key is None else key.record.name

    def _find(self, headers: Headers) -> _Key | None:
        if self.is_open:
            return None
        # What is looked up is the digest, so that the time taken tells nothing about keys that are close.
        secret = read_secret(headers)
        if not secret:
            raise unauthorized("No API key was given: send it in the header 'Authorization: Bearer KEY'.")
        key = self._by_digest.get(hash_secret(secret))
        if key is None or key.record.revoked is not None:
            raise unauthorized()
        expires = key.record.limits.expires
        if expires is not None and self._runtime.now() >= expires:
            raise unauthorized("This API key has expired.")
        return key

    def may_use(self, name: str, model: str) -> bool:
        """Whether the key called ``name`` (empty: none) is good for a model."""
        models = self._keys[name].record.limits.models if name in self._keys else ()
        return not models or model in models

    async def reserve(self, name: str, model: str, amount: int, tokens: int) -> Charge | None:
        """Reserve what a request can cost at most, in micro-credits and tokens. To be settled.

        Returns None without a key.

        Raises:
            ApiError: 403, the key is not good for the model; 429, a limit or the budget is reached.
        """
        key = self._keys.get(name)
        if key is None:
            return None
        try:
            if not self.may_use(name, model):
                raise key_forbids_model(model)
            key.rates.begin(tokens, trio_time())
            charge = Charge(name, amount, tokens)
            if key.budget is None:
                return charge
            if not key.budget.reserve(amount):
                key.rates.end(tokens, 0)
                raise _describe_exhausted(key.budget, amount)
        except ApiError:
            self._note_refused(key)
            raise
        try:
            await self._cover(key, key.budget, amount)
        except BaseException:
            key.rates.end(tokens, 0)
            key.budget.settle(amount, 0)
            raise
        return charge

    async def _cover(self, key: _Key, budget: KeyBudget, amount: int) -> None:
        """Return once the disk says enough for all that is reserved of a budget."""
        while not budget.is_covered:
            async with self._writing:
                if not budget.is_covered:
                    spent = budget.begin_write(amount)
                    await self._runtime.run_sync(self._store.write, {_name_spent(key): _encode(spent)})
                    budget.end_write()

    def settle(self, charge: Charge, usage: Usage, tokens: int) -> None:
        """A request is over: it used ``tokens`` in all, and the rest as ``usage`` says."""
        key = self._keys[charge.key]
        key.rates.end(charge.tokens, tokens)
        usage.spent = min(usage.spent, charge.amount)
        if key.budget is not None:
            key.budget.settle(charge.amount, usage.spent)
        key.counters.admitted += 1
        key.counters.completion_tokens += usage.completion_tokens
        key.counters.spent += usage.spent
        self._note(charge.key, usage)

    def _note_refused(self, key: _Key) -> None:
        key.counters.refused += 1
        self._note(key.record.name, Usage(refused=1))

    def _note(self, name: str, usage: Usage) -> None:
        entry = name, get_day(self._runtime.now())
        self._usage.setdefault(entry, Usage()).add(usage)
        self._unsaved.add(entry)

    # The store

    async def run(self) -> None:
        """Write what was used now and then, until cancelled."""
        while True:
            await trio.sleep(SAVE_INTERVAL_S)
            async with self._writing:
                if changes := self._take_changes():
                    await self._runtime.run_sync(self._store.write, changes)
                    self._end_writes()

    def close(self) -> None:
        """Write what was used, and release the store; no request is under way."""
        if changes := self._take_changes():
            self._store.write(changes)
        self._store.close()

    def _take_changes(self) -> Changes:
        changes: dict[bytes, bytes | None] = {}
        for key in self._keys.values():
            if key.budget is not None:
                if key.budget.is_exact:
                    key.budget.begin_write()  # writes nothing else
                else:
                    changes[_name_spent(key)] = _encode(key.budget.begin_write())
        for name in {name for name, _ in self._unsaved}:
            for day in sorted(day for key_name, day in self._usage if key_name == name)[:-MAX_DAYS]:
                del self._usage[name, day]
                changes[_name_usage(name, day)] = None
        for entry in self._unsaved & self._usage.keys():
            changes[_name_usage(*entry)] = self._usage[entry].encode()
        self._unsaved.clear()
        return changes

    def _end_writes(self) -> None:
        for key in self._keys.values():
            if key.budget is not None:
                key.budget.end_write()

    # The owner

    async def create(self, name: str, limits: KeyLimits) -> str:
        """Make a key, and return it: it is known to nobody else, and cannot be shown again.

        Raises:
            KeyRefused: there is one of that name, or there are too many.
        """
        check_key_name(name)
        async with self._writing:
            if name in self._keys:
                raise KeyRefused(f"there is a key called {name} already")
            if len(self._keys) >= MAX_KEYS:
                raise KeyRefused(f"a node keeps {MAX_KEYS} keys, and this one has as many")
            secret = make_secret()
            record = make_record(name, secret, limits, self._runtime.now())
            await self._runtime.run_sync(self._store.write, {_RECORD + name.encode(): record.encode()})
            self._add(record)
        return secret

    async def revoke(self, name: str) -> KeyRecord:
        """Make a key good for nothing from now on. What it has under way goes on.

        Raises:
            KeyRefused: there is no such key, or it is in the configuration file.
        """
        async with self._writing:
            key = self._keys.get(name)
            if key is None:
                raise KeyRefused(f"there is no key called {name!r}")
            if name.startswith(CONFIGURED_PREFIX):
                raise KeyRefused(f"{name} is in the configuration file: take it out there, and start the node again")
            if key.record.revoked is None:
                record = key.record.revoke(self._runtime.now())
                await self._runtime.run_sync(self._store.write, {_RECORD + name.encode(): record.encode()})
                key.record = record
        return key.record

    def get_records(self) -> list[KeyRecord]:
        """All keys: those of the configuration, then those that were made, by name."""
        return [key.record for key in self._keys.values()]

    def export(self) -> list[dict[str, Any]]:
        """The keys that were made, with what was spent of their budgets, for :func:`import_keyring`."""
        return [
            {"record": key.record.encode().decode(), "spent": 0 if key.budget is None else key.budget.spent}
            for name, key in self._keys.items()
            if not name.startswith(CONFIGURED_PREFIX)
        ]

    def get_left(self, name: str) -> int | None:
        """What is left of the budget of a key, in micro-credits; None without one."""
        budget = self._keys[name].budget
        return None if budget is None else budget.left

    def get_running(self, name: str) -> int:
        """Requests of a key under way."""
        return self._keys[name].rates.running

    def get_counters(self) -> Iterator[tuple[str, KeyCounters]]:
        """The name of each key, with what it did since the node started."""
        for name, key in self._keys.items():
            yield name, key.counters

    def get_usage(self) -> list[tuple[str, str, Usage]]:
        """Key, day and use, by key and day."""
        return [(name, day, usage) for (name, day), usage in sorted(self._usage.items(), key=lambda entry: entry[0])]


def trio_time() -> float:
    """The time by which rates are measured: trio's clock, or 0 where no loop runs and no request comes."""
    try:
        return trio.current_time()
    except RuntimeError:
        return 0.0


def read_secret(headers: Headers) -> bytes:
    """The key that a request carries, as OpenAI's clients send it or as Anthropic's do; empty if none."""
    scheme, _, secret = (find_header(headers, b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return secret.strip()
    return (find_header(headers, b"x-api-key") or b"").strip()


def open_keyring(
    directory: Path, runtime: Runtime, configured: Iterable[ConfiguredKey] = (), *, required: bool = False
) -> Keyring:
    """The keys in a database of their own in ``directory``.

    Raises:
        StoreError: it cannot be opened or read. It does not begin anew, because that would open the API.
    """
    try:
        store = LevelStore(directory)
    except StoreDamaged as error:
        raise StoreError(f"{error}; move it away, start the node again, and make the API keys anew") from error
    try:
        return Keyring(store, runtime, configured, required=required)
    except BaseException:
        store.close()
        raise


def check_exported(entries: Sequence[Mapping[str, Any]]) -> Changes:
    """What a store holds of exported keys.

    Raises:
        ValueError, KeyError, TypeError: they are none.
    """
    changes: dict[bytes, bytes | None] = {}
    for entry in entries:
        record = KeyRecord.decode(entry["record"].encode())
        changes[_RECORD + record.name.encode()] = record.encode()
        changes[_SPENT + record.name.encode()] = _encode(int(entry["spent"]))
    return changes


def import_keyring(directory: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Begin the database of API keys in ``directory`` with keys that :meth:`Keyring.export` gave.

    Raises:
        StoreError: it cannot be written.
    """
    store = LevelStore(directory)
    try:
        store.write(check_exported(entries))
    finally:
        store.close()


def _describe_exhausted(budget: KeyBudget, amount: int) -> ApiError:
    """What to say to a request that is not covered by what is left of a budget."""
    message = f"The budget of this key does not cover the request: it can cost {format_credits(amount)} credits, "
    message += f"and {format_credits(budget.left)} are left. A lower max_tokens costs less."
    may_be_freed = budget.reserved > 0 and amount <= budget.limit - budget.spent
    return quota_exceeded(message, 1.0 if may_be_freed else 0.0)


def _name_spent(key: _Key) -> bytes:
    return _SPENT + key.record.name.encode()


def _name_usage(name: str, day: str) -> bytes:
    return _USAGE + name.encode() + b"\0" + day.encode()


def _encode(amount: int) -> bytes:
    return amount.to_bytes(8, "big")
