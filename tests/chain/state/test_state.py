"""The window of hold numbers against a set, the state against a dict, and drafts that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.exceptions import CodecError, StoreError
from chain.merkle.sparse_tree import Leaf, SparseMerkleTree
from chain.state.keys import TOTALS_KEY, account_key, hold_key, validator_key
from chain.state.lottery import ServingEntry
from chain.state.records import REPLAY_WINDOW_SIZE, Account, ReplayWindow, Totals, ValidatorRecord
from chain.state.state import State, StateOverlay, compute_supply
from tests.support.chain_builder import Chain
from tests.support.keys import make_key

steps = st.one_of(
    st.integers(-5, 5), st.integers(-300, 300), st.sampled_from([0, 254, 255, 256, -256, -257, -255, 2**40])
)


@settings(max_examples=200)
@given(moves=st.lists(st.tuples(steps, st.integers(0, 7)), max_size=80))
def test_window_is_a_set_that_forgets_only_what_it_refuses(moves: list[tuple[int, int]]) -> None:
    """Never replayed: what was used is never usable again. Never stalled: the next number always is."""
    window, used, top = ReplayWindow(), set[tuple[int, int]](), 0
    for move, attempt in moves:
        seq = max(0, top + move)
        expected = (seq, attempt) not in used and top - REPLAY_WINDOW_SIZE <= seq < top + REPLAY_WINDOW_SIZE
        assert window.is_usable(seq, attempt) is expected
        if expected:
            window = window.use(seq, attempt)
            used.add((seq, attempt))
            top = max(top, seq + 1)
        assert window.top == top
        assert not any(window.is_usable(*pair) for pair in used)
        assert all(window.is_usable(top + ahead, a) for ahead in (0, 1, REPLAY_WINDOW_SIZE - 1) for a in range(8))
        assert not window.is_usable(top + REPLAY_WINDOW_SIZE, 0)
        assert ReplayWindow.decode(window.encode()) == window
    for seq in range(max(0, top - REPLAY_WINDOW_SIZE), top):
        for attempt in range(8):
            assert window.is_usable(seq, attempt) is ((seq, attempt) not in used)


def test_a_window_has_one_form_whatever_the_order_of_use() -> None:
    pairs = [(0, 0), (3, 1), (3, 0), (10, 7), (255, 0)]
    windows = set()
    for order in (pairs, pairs[::-1], pairs[2:] + pairs[:2]):
        window = ReplayWindow()
        for seq, attempt in order:
            window = window.use(seq, attempt)
        windows.add(window.encode())
    assert len(windows) == 1


def test_a_window_stays_small() -> None:
    window = ReplayWindow()
    for seq in range(0, 5_000, 3):
        window = window.use(seq, seq % 8)
    assert len(window.used) == REPLAY_WINDOW_SIZE and len(window.encode()) < 300


amounts = st.integers(0, 5)
accounts = st.one_of(
    st.none(),
    st.builds(Account, nonce=amounts, bonded=amounts, models=st.sampled_from([(), (), ("a",), ("b", "c")])),
)
PEOPLE = [make_key(f"person {number}").public_key for number in range(6)]


@given(batches=st.lists(st.dictionaries(st.sampled_from(PEOPLE), accounts, max_size=6), max_size=5))
def test_drafts_nest_and_states_do_not_change(batches: list[dict[bytes, Account | None]]) -> None:
    state, model = State(), dict[bytes, Account]()
    for changes in batches:
        before, root = state, state.root
        overlay = StateOverlay(state)
        abandoned = StateOverlay(overlay)
        for key, account in changes.items():
            inner = StateOverlay(overlay)
            inner.put_account(key, account or Account())
            abandoned.put_account(key, Account(nonce=99))
            assert inner.account(key) == (account or Account()) and overlay.account(key) == model.get(key, Account())
            overlay.merge(inner)
            model[key] = account or Account()
        for key in PEOPLE:
            assert overlay.account(key) == model.get(key, Account())
        state = state.update(overlay.changes)
        assert before.root == root
        assert dict(state.accounts()) == {key: account for key, account in model.items() if account != Account()}
        loaded = State.load({leaf.key: leaf.encoded for leaf in state.entries()})
        assert loaded.root == state.root
        for known in (state, loaded):
            assert sorted(known.servers(), key=lambda entry: entry.public_key) == [
                ServingEntry(key, account.bonded, account.models, account.judge, identities=account.identities)
                for key, account in sorted(model.items())
                if account.models or account.judge
            ]


@given(
    batches=st.lists(
        st.dictionaries(st.sampled_from(PEOPLE), st.one_of(st.none(), st.builds(ValidatorRecord)), max_size=4)
    )
)
def test_a_state_knows_which_accounts_are_validators(batches: list[dict[bytes, ValidatorRecord | None]]) -> None:
    states, model = [State()], dict[bytes, ValidatorRecord]()
    copies = []
    for changes in batches:
        states.append(states[-1].update({validator_key(key): validator for key, validator in changes.items()}))
        model = {key: validator for key, validator in {**model, **changes}.items() if validator is not None}
        copies.append(dict(model))
    assert [dict(state.validator_records()) for state in states[1:]] == copies
    assert [list(state.validator_records()) for state in states[1:]] == [sorted(copy.items()) for copy in copies]


def test_the_end_of_an_epoch_does_not_look_at_every_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a million that serve nothing and vote on nothing."""
    chain = Chain()

    def walk(tree: SparseMerkleTree) -> Iterator[Leaf]:
        raise AssertionError("a walk over the whole state")

    monkeypatch.setattr(SparseMerkleTree, "__iter__", walk)
    chain.append_epochs(1)
    table = chain.state.serving_table(2)
    assert table is not None and {entry.public_key for entry in table.entries} == {
        key.public_key for key in chain.validators
    }


def test_an_emptied_account_leaves_no_entry() -> None:
    state = State()
    overlay = StateOverlay(state)
    overlay.put_account(PEOPLE[0], Account(available=5))
    full = state.update(overlay.changes)
    overlay = StateOverlay(full)
    overlay.put_account(PEOPLE[0], Account())
    assert full.update(overlay.changes).root == state.root != full.root


def test_loading_refuses_what_is_no_state() -> None:
    good = {leaf.key: leaf.encoded for leaf in Chain().state.entries()}
    assert State.load(good).root == Chain().state.root
    for key in (b"", b"z", b"A" + bytes(32), b"a", b"v", b"a" + bytes(31), b"v" + bytes(33)):
        with pytest.raises(StoreError):
            State.load({**good, key: b"\x90"})
    for key in (TOTALS_KEY, account_key(PEOPLE[0]), hold_key(bytes(32))):
        with pytest.raises(CodecError):
            State.load({**good, key: b"\x91\xc1"})
        with pytest.raises(CodecError):
            State.load({**good, key: b""})


def test_any_difference_changes_the_root() -> None:
    good = {leaf.key: leaf.encoded for leaf in Chain().state.entries()}
    root = State.load(good).root
    for key in good:
        assert State.load({k: v for k, v in good.items() if k != key}).root != root
    assert State.load({**good, TOTALS_KEY: Totals(1, 5).encode()}).root != root
    assert State.load({**good, account_key(PEOPLE[0]): Account(available=1).encode()}).root != root


def test_supply_counts_everything() -> None:
    chain = Chain()
    user = chain.users[0]
    chain.append([chain.hold(user, 0), chain.bond(user, 3_000), chain.unbond(user, 1_000, nonce=1)])
    account = chain.account(user)
    assert account.held == 5_000 and account.bonded == 2_000 and account.unbonding[0].amount == 1_000
    assert chain.state.totals.treasury == 1_000_000 - account.total > 0
    assert compute_supply(chain.state) == chain.genesis.supply == 6 * 1_000_000 + 4 * 100_000
