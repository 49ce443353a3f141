"""The JSON form of records: what is written is read back, and what it says of keys, bytes and what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from chain.crypto import format_address
from chain.exceptions import JsonFormError, KeyFormatError
from chain.genesis import GenesisAccount
from chain.json_form import from_plain, to_plain
from chain.parameters.parameters import ModelPrice, Parameters, Price
from chain.types.operations import Hold
from chain.types.votes import Vote
from tests.support.keys import make_key
from tests.vectors.plain import Sampler

KEY = make_key("holder").public_key
ACCOUNT = GenesisAccount(KEY, 5, 7, ("large", "small"), bytes([1]) * 32)
PLAIN = {
    "address": format_address(KEY), "available": 5, "bonded": 7, "models": ["large", "small"], "commitment": "01" * 32
}  # fmt: skip


def test_a_key_is_an_address_and_other_bytes_are_digits() -> None:
    assert to_plain(ACCOUNT) == PLAIN
    assert from_plain(GenesisAccount, PLAIN, "account") == ACCOUNT


def test_zeros_are_no_address() -> None:
    hold = Sampler(is_rich=False).make(Hold)
    assert to_plain(type(hold)(**{**_get_fields(hold), "payee": bytes(32)}))["payee"] == "00" * 32
    assert to_plain(type(hold)(**{**_get_fields(hold), "payee": KEY}))["payee"] == format_address(KEY)


@pytest.mark.parametrize("record", [Parameters(), Parameters(model_prices=(ModelPrice("m", Price(1, 2, 3)),)), ACCOUNT])
def test_what_is_written_is_read_back(record: Any) -> None:
    assert from_plain(type(record), to_plain(record), "record") == record


def test_what_is_not_named_has_its_default() -> None:
    assert from_plain(Parameters, {"price": {"per_request": 7}}, "parameters") == Parameters(price=Price(7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "account: expected an object"),
        ({**PLAIN, "public_key": KEY.hex()}, "account: unknown field 'public_key'"),
        ({name: value for name, value in PLAIN.items() if name != "address"}, "account: missing field 'address'"),
        ({**PLAIN, "address": 5}, "address: expected text"),
        ({**PLAIN, "models": "large"}, "models: expected a list"),
        ({**PLAIN, "commitment": "zz"}, "commitment: expected 64 hexadecimal digits"),
    ],
)
def test_what_is_not_of_the_form_is_named(content: Any, message: str) -> None:
    with pytest.raises(JsonFormError, match=message):
        from_plain(GenesisAccount, content, "account")


def test_a_malformed_address_is_refused() -> None:
    with pytest.raises(KeyFormatError):
        from_plain(GenesisAccount, {**PLAIN, "address": "nonsense"}, "account")


def test_a_vote_names_its_signer_by_address() -> None:
    vote = Sampler(is_rich=True).make(Vote)
    assert to_plain(vote)["signer"] == format_address(vote.signer)


def _get_fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}
