"""The keyring: keys are kept by their digests, and no order of requests, writes and crashes overruns a budget."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from chain.exceptions import StoreError
from chain.store.kv import Changes, MemoryStore
from p2p.runtime import RealRuntime
from serving.keys.budget import HEADROOM_SHARE
from serving.keys.keyring import SAVE_INTERVAL_S, Keyring, open_keyring
from serving.keys.records import ConfiguredKey, KeyLimits, KeyRefused, make_record
from serving.keys.usage import MAX_DAYS, Usage
from serving.openai.errors import ApiError

DAY_MS = 86_400_000


class SlowDisk(RealRuntime):
    """Writes take a while, and reach the disk at some moment of it. Time of day is set."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.day = 0

    def now(self) -> int:
        return self.day * DAY_MS

    async def run_sync(self, function: Callable[..., Any], *args: Any) -> Any:
        with trio.CancelScope(shield=True):  # a thread is not cancelled either; what is lost is lost in a crash
            await trio.sleep(self.chance.uniform(0, 0.2))
            if self.has_crashed:
                return None
            result = function(*args)
            await trio.sleep(self.chance.uniform(0, 0.2))
            return result

    has_crashed = False


def run(test: Callable[[], Any]) -> None:
    trio.run(test, clock=MockClock(autojump_threshold=0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([50, 700, 20_000]), st.booleans())
def test_no_order_of_requests_writes_and_crashes_overruns_a_budget(seed: int, budget: int, in_order: bool) -> None:
    chance, store, spent = random.Random(seed), MemoryStore(), 0
    begun = ended = 0

    async def use(keys: Keyring, runtime: SlowDisk) -> None:
        nonlocal spent, begun, ended
        amount = chance.randint(1, max(2, budget // 8))
        await trio.sleep(chance.uniform(0, 20))
        if runtime.has_crashed:
            return
        try:
            charge = await keys.reserve("k", "m", amount, 1)
        except ApiError as error:
            assert (error.status, error.code) == (429, "insufficient_quota")
            return
        if runtime.has_crashed:  # the answer of the disk came too late: the request was never begun
            return
        assert charge is not None
        spent, begun = spent + amount, begun + 1  # whatever it costs in the end, nobody knows in a crash
        await trio.sleep(chance.uniform(0, 3))
        if runtime.has_crashed:
            return
        cost = chance.randint(0, amount)
        keys.settle(charge, Usage(requests=1, spent=cost), 1)
        spent, ended = spent + cost - amount, ended + 1

    async def live(number: int) -> None:
        runtime = SlowDisk(seed + number)
        keys = Keyring(store, runtime)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keys.run)
            for _ in range(chance.randint(1, 12)):
                nursery.start_soon(use, keys, runtime)
            await trio.sleep(30 if in_order else chance.uniform(0, 25))
            runtime.has_crashed = not in_order
            nursery.cancel_scope.cancel()
        if in_order:
            keys.close()

    async def main() -> None:
        await Keyring(store, SlowDisk()).create("k", KeyLimits(budget=budget))
        for number in range(6):
            await live(number)
            assert spent <= budget
        if in_order:  # then nothing is lost either
            left = Keyring(store, SlowDisk()).get_left("k")
            assert left == budget - spent and begun == ended

    run(main)


def test_a_crash_loses_little_of_a_budget() -> None:
    async def main() -> None:
        store, budget = MemoryStore(), 64_000
        keys = Keyring(store, SlowDisk())
        await keys.create("k", KeyLimits(budget=budget))
        for _ in range(20):
            charge = await keys.reserve("k", "m", 100, 1)
            assert charge is not None
            keys.settle(charge, Usage(spent=40), 1)
        open_charge = await keys.reserve("k", "m", 100, 1)
        assert open_charge is not None
        left = Keyring(store, SlowDisk()).get_left("k")
        assert left is not None and 0 <= (budget - 800 - 100) - left <= 100 + budget // HEADROOM_SHARE

    run(main)


def test_a_budget_that_is_used_up_is_final_and_one_that_is_reserved_is_not() -> None:
    async def main() -> None:
        keys = Keyring(MemoryStore(), SlowDisk())
        await keys.create("k", KeyLimits(budget=100))
        first = await keys.reserve("k", "m", 90, 1)
        assert first is not None
        with pytest.raises(ApiError) as caught:
            await keys.reserve("k", "m", 20, 1)
        assert (caught.value.status, caught.value.type) == (429, "insufficient_quota")
        assert caught.value.headers() == [(b"retry-after", b"1")]
        keys.settle(first, Usage(spent=1_000), 1)  # no more is charged than was reserved
        assert keys.get_left("k") == 10
        with pytest.raises(ApiError) as caught:
            await keys.reserve("k", "m", 20, 1)
        assert caught.value.headers() == [(b"x-should-retry", b"false")]
        assert await keys.reserve("k", "m", 10, 1) is not None and keys.get_running("k") == 1

    run(main)


def test_a_key_is_good_until_it_is_revoked_or_expires() -> None:
    async def main() -> None:
        store, runtime = MemoryStore(), SlowDisk()
        keys = Keyring(store, runtime, [ConfiguredKey("of-the-file")])
        secret = await keys.create("alice", KeyLimits(expires=2 * DAY_MS, models=("a", "b")))
        await keys.create("bob", KeyLimits())
        headers = [(b"authorization", b"Bearer " + secret.encode())]
        assert keys.identify(headers) == "alice"
        assert keys.identify([(b"authorization", b"Bearer of-the-file")]) == "config-1"
        assert keys.may_use("alice", "a") and not keys.may_use("alice", "c") and keys.may_use("bob", "c")
        with pytest.raises(ApiError) as caught:
            await keys.reserve("alice", "c", 1, 1)
        assert (caught.value.status, caught.value.param) == (403, "model")
        with pytest.raises(KeyRefused, match="called alice already"):
            await keys.create("alice", KeyLimits())
        for name, reason in (("config-1", "in the configuration file"), ("carol", "no key called")):
            with pytest.raises(KeyRefused, match=reason):
                await keys.revoke(name)
        runtime.day = 2
        with pytest.raises(ApiError, match="has expired"):
            keys.identify(headers)
        runtime.day = 1
        assert (await keys.revoke("alice")).revoked == DAY_MS
        await keys.revoke("bob")
        for ring in (keys, Keyring(store, runtime)):  # and after a restart, when no key is left
            with pytest.raises(ApiError) as caught:
                ring.identify(headers)
            assert caught.value.status == 401 and not ring.is_open

    run(main)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "-a", "ü", "config-9", "a\0b"])
def test_names_that_a_key_cannot_have(name: str) -> None:
    async def main() -> None:
        with pytest.raises(KeyRefused):
            await Keyring(MemoryStore(), SlowDisk()).create(name, KeyLimits())

    run(main)


def test_use_is_summed_by_day_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store, runtime = MemoryStore(), SlowDisk()
        keys = Keyring(store, runtime)
        await keys.create("k", KeyLimits(concurrency=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keys.run)
            for _ in range(MAX_DAYS + 2):
                charge = await keys.reserve("k", "m", 10, 1)
                assert charge is not None
                with pytest.raises(ApiError):
                    await keys.reserve("k", "m", 10, 1)
                keys.settle(charge, Usage(1, 0, 30, 20, 5, 7), 12)
                runtime.day += 1
            await trio.sleep(2 * SAVE_INTERVAL_S)
            nursery.cancel_scope.cancel()
        found = Keyring(store, runtime).get_usage()
        assert len(found) == MAX_DAYS
        assert found[0] == ("k", "1970-01-03", Usage(1, 1, 30, 20, 5, 7)) and found == keys.get_usage()

    run(main)


def test_the_store_has_the_digest_and_not_the_key(tmp_path: Path) -> None:
    async def main() -> None:
        keys = open_keyring(tmp_path / "keys", RealRuntime())
        secret = await keys.create("k", KeyLimits(budget=5))
        keys.close()
        stored = b"".join(path.read_bytes() for path in (tmp_path / "keys").iterdir())
        assert secret.encode() not in stored and secret.removeprefix("sk-").encode() not in stored
        keys = open_keyring(tmp_path / "keys", RealRuntime())
        assert keys.identify([(b"authorization", f"Bearer {secret}".encode())]) == "k"
        keys.close()

    trio.run(main)


def test_a_damaged_store_does_not_begin_anew(tmp_path: Path) -> None:
    open_keyring(tmp_path / "keys", RealRuntime()).close()
    (tmp_path / "keys" / "CURRENT").unlink()
    with pytest.raises(StoreError, match="make the API keys anew"):
        open_keyring(tmp_path / "keys", RealRuntime())


def test_a_record_that_cannot_be_read_is_an_error() -> None:
    changes: Changes = {b"kalice": make_record("alice", "sk-x", KeyLimits(), 0).encode()[:-9]}
    store = MemoryStore()
    store.write(changes)
    with pytest.raises(StoreError, match="cannot be read"):
        Keyring(store, RealRuntime())
