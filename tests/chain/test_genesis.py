"""The genesis file: read back what was written, and one clear error for anything else."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import hash_bytes, is_valid_public_key
from chain.exceptions import GenesisError
from chain.genesis import GENESIS_VERSION, Genesis, GenesisAccount, load_genesis, make_genesis
from chain.parameters.parameters import ModelPrice, Parameters, Price
from chain.state.lottery import ServingPeriod, ServingPeriods
from chain.state.records import Account
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.reader import ChainReader
from chain.store.writer import ChainStore
from chain.transition.validators.registry import CommitteeApplicant, compute_committee
from chain.types.operations import Usage
from chain.types.validators import MAX_COMMITTEE, ValidatorSet
from tests.support.chain_builder import PARAMETERS, START, make_test_genesis
from tests.support.keys import make_key, make_keys


def make_rich() -> Genesis:
    """A genesis with something in every field."""
    user = GenesisAccount(make_key("user").public_key, 5, 0, ("a", "b"), None)
    empty = GenesisAccount(make_key("empty").public_key, 0, 0, (), None)
    prices = (ModelPrice("large", Price(1, 2, 3)), ModelPrice("larger", Price(0, 0, 2**40)))
    return make_test_genesis(
        make_keys(3),
        stakes=[3_000, 2_000, 1_000],
        others=[user, empty],
        parameters=replace(PARAMETERS, min_service_bond=2_000, newcomer_share=0, model_prices=prices),
    )


RICH = json.loads(make_rich().to_json())


def load(directory: Path, content: Any) -> Genesis:
    path = directory / "genesis.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_genesis(path)


def test_round_trip(tmp_path: Path) -> None:
    genesis = make_rich()
    loaded = load(tmp_path, genesis.to_json())
    assert loaded == genesis
    assert loaded.chain_id == genesis.chain_id
    assert loaded.header.id == genesis.header.id
    assert Genesis.decode(genesis.encode()) == genesis


def test_parameters_have_defaults(tmp_path: Path) -> None:
    rich = [{**account, "bonded": Parameters().min_validator_bond} for account in RICH["accounts"][:3]]
    content = {**RICH, "accounts": rich, "parameters": {}}
    assert load(tmp_path, content).parameters == Parameters()
    content["parameters"] = {"price": {"per_request": 7}}
    assert load(tmp_path, content).parameters.price == Price(7)


def test_everything_is_part_of_the_chain_id() -> None:
    genesis = make_rich()
    first, *rest = genesis.accounts
    others = [
        replace(genesis, name="other"),
        replace(genesis, timestamp=START + 1),
        replace(genesis, beacon=bytes(32)),
        replace(genesis, parameters=replace(genesis.parameters, fee_per_byte=2)),
        replace(genesis, accounts=(*rest, first)),
        replace(genesis, accounts=(replace(first, bonded=3_001), *rest)),
        replace(genesis, accounts=(replace(first, commitment=None), *rest)),
        replace(genesis, accounts=(replace(first, commitment=bytes([1]) * 32), *rest)),
    ]
    assert len({genesis.chain_id, *(other.chain_id for other in others)}) == 9


def test_state_and_header() -> None:
    genesis = make_rich()
    assert compute_supply(genesis.state) == genesis.state.totals.supply == genesis.supply == 3_000_000 + 6_000 + 5
    assert genesis.header.state_root == genesis.state.root
    assert genesis.header.height == genesis.header.epoch == genesis.header.view == genesis.header.chain_time == 0
    assert [v.stake for v in genesis.validators] == [3_000, 2_000, 1_000]
    # Two have the minimum bond of 2,000 that the draw asks for, and an account with nothing leaves no entry.
    table = genesis.state.serving_table(0)
    assert table is not None and sorted(entry.stake for entry in table.entries) == [2_000, 3_000]
    assert genesis.state.serving_table(1) is genesis.state.committee(2) is None
    assert genesis.state.serving_periods == ServingPeriods(None, (ServingPeriod(0, genesis.beacon),))
    assert genesis.state.committee(0) == genesis.state.committee(1) == genesis.validators
    assert {key for key, _ in genesis.state.validator_records()} == {
        a.public_key for a in genesis.accounts if a.commitment
    }
    assert {key for key, _ in genesis.state.accounts()} == {a.public_key for a in genesis.accounts if a.available}
    assert genesis.state.account(make_key("empty").public_key) == Account()


def test_price_of_a_model() -> None:
    parameters = make_rich().parameters
    assert parameters.get_price("large").compute(Usage(10, 100)) == 1 + 20 + 300
    assert parameters.get_price("other") == parameters.price


def put(*path: str | int, to: Any) -> Any:
    """The rich genesis with one value changed (removed if ``to`` is ...)."""
    content = copy.deepcopy(RICH)
    *inner, last = path
    node = content
    for step in inner:
        node = node[step]
    if to is ...:
        del node[last]
    else:
        node[last] = to
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"version": ' + "9" * 5_000 + "}", "not JSON"),
        ([], "genesis: expected an object"),
        ("null", "genesis: expected an object"),
        ("1", "genesis: expected an object"),
        (put("extra", to=1), "unknown field 'extra'"),
        (put("version", to=...), "missing field 'version'"),
        (put("accounts", to=...), "missing field 'accounts'"),
        (put("beacon", to=...), "missing field 'beacon'"),
        (put("version", to=GENESIS_VERSION - 1), f"a genesis of version {GENESIS_VERSION - 1}, and this program"),
        (put("version", to=GENESIS_VERSION + 1), "version"),
        (put("version", to=True), "version"),
        (put("version", to=1.0), "version"),
        (put("name", to=""), "name"),
        (put("name", to="x" * 65), "name"),
        (put("name", to=5), "name"),
        (put("name", to="\ud800"), "name"),
        (put("timestamp", to=-1), "timestamp"),
        (put("timestamp", to=1.5), "timestamp"),
        (put("timestamp", to="2026"), "timestamp"),
        (put("timestamp", to=None), "timestamp"),
        (put("beacon", to="00"), "beacon"),
        (put("beacon", to="zz" * 32), "beacon"),
        (put("beacon", to=5), "beacon"),
        (put("beacon", to=["00"]), "beacon"),
        (put("parameters", to=[]), "parameters"),
        (put("parameters", "extra", to=1), "unknown field 'extra'"),
        (put("parameters", "idle_beat", to=1), "unknown field 'idle_beat' \\(with its unit: 'idle_beat_ms'\\)"),
        (put("parameters", "epoch_heights", to=0), "epoch_heights"),
        (put("parameters", "epoch_heights", to="4"), "epoch_heights"),
        (put("parameters", "max_attempts", to=9), "max_attempts"),
        (put("parameters", "max_attempts", to=0), "max_attempts"),
        (put("parameters", "idle_beat_ms", to=2**53), "idle_beat_ms"),
        (put("parameters", "fee_per_byte", to=-1), "fee_per_byte"),
        (put("parameters", "fee_per_byte", to=True), "fee_per_byte"),
        (put("parameters", "fee_per_byte", to={}), "fee_per_byte"),
        (put("parameters", "price", to=[1, 2, 3]), "price"),
        (put("parameters", "price", to=5), "price"),
        (put("parameters", "price", "per_request", to=1e3), "per_request"),
        (put("parameters", "price", "cost", to=1), "unknown field 'cost'"),
        (put("parameters", "model_prices", to={}), "model_prices"),
        (put("parameters", "model_prices", 0, to="large"), "model_prices"),
        (put("parameters", "model_prices", 0, "price", to=...), "missing field 'price'"),
        (put("parameters", "model_prices", 0, "price", to=3), "price"),
        (put("parameters", "model_prices", 0, "model", to=3), "model"),
        (put("parameters", "model_prices", 0, "model", to=["a"]), "model"),
        (put("parameters", "model_prices", 1, "model", to="large"), "model_prices: a model is listed twice"),
        (put("accounts", to={}), "accounts: expected a list"),
        (put("accounts", to=[]), "accounts"),
        (put("accounts", 0, to="12D3KooW"), "accounts"),
        (put("accounts", 0, "address", to=...), "missing field 'address'"),
        (put("accounts", 0, "address", to=5), "address: expected text"),
        (put("accounts", 0, "public_key", to="00" * 32), "unknown field 'public_key'"),
        (put("accounts", 0, "address", to="12D3KooWnonsense"), "not the address|not an address"),
        (put("accounts", 0, "address", to="é"), "not an address"),
        (put("accounts", 0, "address", to="\ud800"), "not an address"),
        (put("accounts", 0, "available", to="5"), "available"),
        (put("accounts", 0, "available", to=5.0), "available"),
        (put("accounts", 0, "available", to=-5), "available"),
        (put("accounts", 0, "available", to=2**63), "available"),
        (put("accounts", 0, "available", to=[5]), "available"),
        (put("accounts", 0, "bonded", to=None), "bonded"),
        (put("accounts", 0, "bonded", to=...), "missing field 'bonded'"),
        (put("accounts", 0, "commitment", to=...), "missing field 'commitment'"),
        (put("accounts", 0, "commitment", to=1), "accounts: commitment"),
        (put("accounts", 0, "commitment", to="yes"), "accounts: commitment"),
        (put("accounts", 0, "commitment", to="00"), "commitment"),
        (put("accounts", 0, "commitment", to="00" * 32), "that of no hash chain"),
        (put("accounts", 0, "bonded", to=999), "less than min_validator_bond 1000"),
        (put("accounts", 0, "validator", to=True), "unknown field 'validator'"),
        (put("parameters", "min_validator_bond", to=0), "min_validator_bond"),
        (put("parameters", "missed_lead_fee", to=-1), "missed_lead_fee"),
        (put("parameters", "epoch_heights", to=2**20), "epoch_heights"),
        (put("parameters", "committee_size", to=2), "more than committee_size"),
        (put("accounts", 0, "models", to="smol"), "models"),
        (put("accounts", 0, "models", to={"smol": 1}), "models"),
        (put("accounts", 0, "models", to=[1]), "models"),
        (put("accounts", 0, "models", to=[["smol"]]), "models"),
        (put("accounts", 0, "models", to=["b", "a"]), "models .* sorted"),
        (put("accounts", 0, "models", to=["a", "a"]), "models .* sorted"),
        (put("accounts", 0, "models", to=[""]), "models"),
        (put("accounts", 0, "models", to=["a\x1b[2J"]), "models.* not printable ASCII"),
        (put("accounts", 0, "models", to=[f"m{n:02}" for n in range(17)]), "models"),
        (put("accounts", to=RICH["accounts"] + RICH["accounts"][:1]), "listed twice"),
        (put("accounts", to=RICH["accounts"][3:]), "no account is a validator"),
        (put("accounts", 0, "available", to=2**63 - 1), "supply"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(GenesisError, match=message) as caught:
        load(tmp_path, content)
    assert "genesis.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(GenesisError, match=path.name):
            load_genesis(path)


@pytest.mark.parametrize(
    ("size", "stakes", "is_open"),
    [
        (4, [1_000] * 4, False),
        (5, [1_000] * 4, True),
        (10, [1_000] * 10, False),
        (11, [1_000] * 11, True),
        (4, [20_000, 5_000, 5_000, 3_000], True),
        (4, [20_000, 5_000, 5_000, 3_333], False),
        (1, [1_000], False),
    ],
)
def test_a_full_committee_that_no_account_could_join_is_refused(size: int, stakes: list[int], is_open: bool) -> None:
    """An account that joins gets a tenth of the weight at first, and takes a seat only from a member that has less."""
    parameters, keys = replace(PARAMETERS, committee_size=size), make_keys(len(stakes))
    before = ValidatorSet.of((key.public_key, stake) for key, stake in zip(keys, stakes, strict=True))
    seats = [CommitteeApplicant(key.public_key, stake, 0) for key, stake in zip(keys, stakes, strict=True)]
    rich = CommitteeApplicant(make_key("rich").public_key, 10**9, 1)
    assert (rich.public_key in compute_committee(before, [*seats, rich], size)) == is_open
    if is_open:
        make_test_genesis(keys, stakes=stakes, parameters=parameters)
    else:
        with pytest.raises(GenesisError, match="no account could ever join"):
            make_test_genesis(keys, stakes=stakes, parameters=parameters)


def test_a_genesis_file_may_be_as_large_as_the_stored_genesis(tmp_path: Path) -> None:
    """One limit for both: a file that loads can be kept, and what fits can be loaded."""
    models = tuple(sorted(f"{number:02}".ljust(128, "x") for number in range(16)))

    def make(count: int) -> Genesis:
        keys = (hash_bytes("test key", bytes(4), number.to_bytes(4, "big")) for number in range(10**6))
        usable = (key for key in keys if is_valid_public_key(key))
        others = [GenesisAccount(key, 1, 0, models, None) for key in islice(usable, count)]
        return make_test_genesis(make_keys(4), others=others)

    large = make(1_000)
    assert len(large.encode()) > 2 << 20
    assert load(tmp_path, large.to_json()) == large
    store = MemoryStore()
    ChainStore(store, large)
    assert ChainReader(store).genesis == large
    with pytest.raises(GenesisError, match="more than 8388608"):
        make(4_000)


def test_too_many_validators_are_refused() -> None:
    keys = make_keys(MAX_COMMITTEE + 1)
    with pytest.raises(GenesisError, match="validators"):
        make_test_genesis(keys, available=0)


def test_unusable_keys_are_refused() -> None:
    least = Parameters().min_validator_bond
    validator = GenesisAccount(make_key("a").public_key, 0, least, (), bytes([1]) * 32)
    for key in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(GenesisError, match="usable"):
            make_genesis("test", START, bytes(32), [validator, GenesisAccount(key, 0, 0, (), None)])


def paths(node: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every value of a JSON document stands."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [prefix, *(path for key, value in inner for path in paths(value, (*prefix, key)))]


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["\ud800", "0" * 64, make_key("a").address, "smol"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["address", "public_key", "price", "model", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(path=st.sampled_from(paths(RICH)), value=json_values, action=st.sampled_from(["replace", "delete", "add"]))
def test_whatever_the_file_holds_there_is_one_error(
    path: tuple[str | int, ...], value: Any, action: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = copy.deepcopy(RICH)
    if not path:
        content = value
    else:
        node = content
        for step in path[:-1]:
            node = node[step]
        if action == "replace":
            node[path[-1]] = value
        elif action == "delete":
            del node[path[-1]]
        elif isinstance(node, list):
            node.insert(int(path[-1]), value)
        else:
            node["address" if "models" in node else "x"] = value
    try:
        genesis = load(tmp_path_factory.getbasetemp(), content)
    except GenesisError as error:
        assert "genesis.json" in str(error)
    else:
        assert Genesis.decode(genesis.encode()) == genesis
        assert compute_supply(genesis.state) == genesis.supply


@settings(max_examples=100)
@given(data=st.data())
def test_whatever_the_bytes_are_there_is_one_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(json.dumps(RICH).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(tmp_path_factory.getbasetemp(), bytes(raw))
    except GenesisError as error:
        assert "genesis.json" in str(error)
