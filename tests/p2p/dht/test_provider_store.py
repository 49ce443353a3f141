"""Which records are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.provider_store import (
    MAX_PROVIDER_RECORDS,
    MAX_RECORDS_PER_KEY,
    MAX_RECORDS_PER_PEER,
    PROVIDER_TTL_S,
    ProviderStore,
)
from tests.p2p.dht.servers import KEY, make_info


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9), st.floats(0, PROVIDER_TTL_S)), max_size=400
    )
)
def test_records_are_bounded_in_every_way_and_expire(steps: list[tuple[int, int, int, float]]) -> None:
    store, now, said = ProviderStore(KEY), 0.0, dict[tuple[bytes, bytes], float]()
    for key_number, number, subnet, seconds in steps:
        now += seconds / 100
        key, provider = bytes([key_number, 0]), make_info(number, subnet)
        if store.add(key, provider, now, str(subnet)):
            said[key, provider.peer] = now
        for known in (key, KEY):
            found = store.find(known, now)
            assert len(found) <= MAX_RECORDS_PER_KEY and len({one.peer for one in found}) == len(found)
            assert all(now - said[known, one.peer] < PROVIDER_TTL_S for one in found)
    assert len(store) <= MAX_PROVIDER_RECORDS
    assert all(count <= MAX_RECORDS_PER_PEER for count in store._per_peer.values())
    assert store._per_peer.total() == len(store._order) == sum(map(len, store._keys.values()))
    store.add(KEY, make_info(1), now + PROVIDER_TTL_S)
    assert len(store) == 1


def test_a_crowd_from_one_network_pushes_out_itself() -> None:
    store = ProviderStore(KEY)
    honest = [make_info(number) for number in range(5)]
    for one in honest:
        store.add(KEY, one, 0.0, one.addresses[0])
    for number in range(1000, 1500):  # whatever addresses they name
        assert store.add(KEY, make_info(number), 1.0, "the crowd")
    found = store.find(KEY, 2.0)
    assert len(found) == MAX_RECORDS_PER_KEY and set(honest) <= set(found)
    for number in range(2000, 2010):  # and newcomers from elsewhere get in
        store.add(KEY, make_info(number), 3.0, str(number))
    assert {make_info(number) for number in range(2000, 2010)} | set(honest) <= set(store.find(KEY, 4.0))


def test_records_of_the_own_key_are_not_pushed_out_by_others() -> None:
    store = ProviderStore(KEY)
    store.add(KEY, make_info(1), 0.0)
    for number in range(MAX_PROVIDER_RECORDS + 100):
        store.add(number.to_bytes(4, "big"), make_info(number // MAX_RECORDS_PER_PEER + 2), 1.0)
    assert len(store) == MAX_PROVIDER_RECORDS and store.find(KEY, 2.0) == [make_info(1)]
    assert not store.find((0).to_bytes(4, "big"), 2.0)
    crowd = make_info(5000)
    added = [store.add(number.to_bytes(5, "big"), crowd, 2.0) for number in range(MAX_RECORDS_PER_PEER + 1)]
    assert added == [True] * MAX_RECORDS_PER_PEER + [False]
