"""Who may answer a request, as its field ``provider`` says, and a model that is left open (``auto``). Pure.

The field is OpenRouter's. Of its keys these mean something here:

* ``only`` and ``ignore``: addresses of nodes, and ``local`` for the node that is asked;
* ``max_price``: the most credits that the answer may cost, by the tokens that the request allows;
* ``quantizations``: classes of number formats, one of which the weights must be of, as their node says;
* ``sort``: by ``latency`` the first token, by ``throughput`` the whole answer is to come soonest, and nothing else
  counts: neither who has answered the conversation, nor that others would be measured. All ask the same ``price``;
* ``require_parameters``: nothing is to be done for it, for no node gets a request that it cannot take.

Every other key is refused by its name, so that nobody believes in a rule that is not followed. The field goes no
further than this node: neither a backend nor another node sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from chain.crypto import parse_address
from chain.exceptions import KeyFormatError
from chain.parameters import CREDIT
from serving.openai.errors import bad_request
from serving.openai.number_formats import NUMBER_FORMATS, UNKNOWN

FIELD = "provider"
"""The field of a request."""
AUTO = "auto"
"""The name of a model that leaves the choice open."""
HERE = "local"
"""How the rules call the node that is asked."""
Sort = Literal["price", "throughput", "latency"]
SORTS = get_args(Sort)
"""What providers can be sorted by."""
FASTEST = ("throughput", "latency")
"""Those that leave nothing to weigh: the first is asked first."""
MAX_NAMED = 64
"""Nodes that a list may name."""

_ME = b""
"""The node that is asked, in the place of a public key."""


@dataclass(frozen=True, slots=True)
class ProviderRules:
    """Who may answer: the public keys of ``only`` (none: all) but those of ``ignore``; the empty key is this node.

    ``max_price`` is in micro-credits. ``quantizations`` are classes of number formats, or ``unknown``; none: any.
    """

    only: frozenset[bytes] = frozenset()
    ignore: frozenset[bytes] = frozenset()
    max_price: int | None = None
    quantizations: frozenset[str] = frozenset()
    sort: Sort | None = None

    def allows(self, public_key: bytes) -> bool:
        """Whether a node may answer."""
        return public_key not in self.ignore and (not self.only or public_key in self.only)

    def allows_formats(self, formats: frozenset[str]) -> bool:
        """Whether weights may answer that are of one of ``formats``; of none: it is not known of which."""
        if not self.quantizations:
            return True
        return formats <= self.quantizations if formats else UNKNOWN in self.quantizations

    @property
    def allows_here(self) -> bool:
        """Whether the node that is asked may answer with a backend of its own."""
        return self.allows(_ME)


ANYBODY = ProviderRules()
"""The rules of a request without the field."""


def has_rules(body: bytes) -> bool:
    """Whether a body may have the field or leave its model open. Most have neither, and need not be read for it."""
    return b'"provider"' in body or b'"auto"' in body


def take_rules(content: dict[str, Any], choose_model: Callable[[], str]) -> tuple[ProviderRules, dict[str, Any]]:
    """The rules of a request, and the request without them; ``choose_model`` finds the model if it is left open.

    Raises:
        ApiError: 400, naming the key at fault.
    """
    rest = {name: value for name, value in content.items() if name != FIELD}
    if rest.get("model") == AUTO:
        rest["model"] = choose_model()
    rules = content.get(FIELD)
    if rules is None:
        return ANYBODY, rest
    if not isinstance(rules, dict):
        raise bad_request(f"'{FIELD}' must be an object.", param=FIELD)
    return _read(rules), rest


def _read(rules: Mapping[str, Any]) -> ProviderRules:
    for name, value in rules.items():
        is_known = name in ("only", "ignore", "max_price", "quantizations") or (
            name == "sort" and (value is None or value in SORTS)
        )
        is_idle = (name == "require_parameters" and isinstance(value, bool)) or (
            name == "allow_fallbacks" and value is True
        )
        if not is_known and not is_idle:
            raise bad_request(f"'{FIELD}.{name}' with this value cannot be followed here.", param=f"{FIELD}.{name}")
    return ProviderRules(
        _read_nodes(rules, "only"),
        _read_nodes(rules, "ignore"),
        _read_price(rules.get("max_price")),
        _read_formats(rules.get("quantizations")),
        rules.get("sort"),
    )


def _read_nodes(rules: Mapping[str, Any], name: str) -> frozenset[bytes]:
    named, param = rules.get(name), f"{FIELD}.{name}"
    if named is None:
        return frozenset()
    if not isinstance(named, list) or len(named) > MAX_NAMED:
        raise bad_request(f"'{param}' must be a list of at most {MAX_NAMED} addresses of nodes.", param=param)
    found = set()
    for address in named:
        try:
            found.add(_ME if address == HERE else parse_address(address))
        except (KeyFormatError, TypeError, AttributeError):
            message = f"'{param}' must name nodes by their addresses, or '{HERE}' for this one."
            raise bad_request(message, param=param) from None
    return frozenset(found)


def _read_formats(named: object) -> frozenset[str]:
    known, param = (*NUMBER_FORMATS, UNKNOWN), f"{FIELD}.quantizations"
    if named is None:
        return frozenset()
    if not isinstance(named, list) or not named or not all(isinstance(name, str) and name in known for name in named):
        raise bad_request(f"'{param}' must be a list of some of {', '.join(known)}.", param=param)
    return frozenset(named)


def _read_price(price: object) -> int | None:
    if price is None:
        return None
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= 10**9 or math.isnan(price):
        param = f"{FIELD}.max_price"
        raise bad_request(f"'{param}' must be a number of credits, which the answer may cost at most.", param=param)
    return round(price * CREDIT)
