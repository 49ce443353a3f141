"""Who may answer a request, as its field ``provider`` says, and a model that is left open (``auto``). Pure.

The field is OpenRouter's. Of its keys these mean something here:

* ``only`` and ``ignore``: addresses of nodes, and ``local`` for the node that is asked;
* ``max_price``: the most credits that the answer may cost, by the tokens that the request allows;
* ``quantizations``, ``activation_quantizations`` and ``kv_cache_quantizations``: classes of number formats, one of
  which the weights, the activations and the key-value cache must be of, as their node says; with ``auto`` they may be
  of any;
* ``sort``: by ``latency`` the first token, by ``throughput`` the whole answer is to come soonest, and nothing else
  counts: neither who has answered the conversation, nor that others would be measured. All ask the same ``price``;
* ``require_parameters``: nothing is to be done for it, for no node gets a request that it cannot take.

Every other key is refused by its name, so that nobody believes in a rule that is not followed, and so are rules that
leave nobody. The field goes no further than this node: neither a backend nor another node sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from chain.crypto import parse_address
from chain.exceptions import KeyFormatError
from chain.parameters.parameters import CREDIT
from serving.openai.errors import MAX_SHOWN_CHARS, bad_request
from serving.openai.number_formats import NOT_KNOWN, NUMBER_FORMATS, UNKNOWN, NumberFormats

FIELD = "provider"
"""The field of a request."""
AUTO = "auto"
"""The name of a model, and of a number format, that leaves the choice open."""
HERE = "local"
"""How the rules call the node that is asked."""
Sort = Literal["price", "throughput", "latency"]
SORTS: tuple[Sort, ...] = get_args(Sort)
"""What providers can be sorted by."""
FASTEST = ("throughput", "latency")
"""Values of ``sort`` that allow no other criterion: the fastest is asked first."""
FORMATS = {
    "quantizations": "weights",
    "activation_quantizations": "activations",
    "kv_cache_quantizations": "cache",
}
"""The keys for number formats, each with the part of :class:`NumberFormats` to which it applies."""
FOLLOWED = ("only", "ignore", "max_price", *FORMATS, "sort", "require_parameters", "allow_fallbacks")
"""All keys that are known."""
MAX_NAMED = 64
"""Nodes that a list may name."""

_ME = b""
"""The node that is asked, in the place of a public key."""


class ProviderRules(msgspec.Struct, frozen=True, gc=False):
    """Who may answer: the public keys of ``only`` (none: all) but those of ``ignore``; the empty key is this node.

    ``max_price`` is in micro-credits. ``formats`` are the classes of number formats, or ``unknown``, that are allowed
    for each part; none: any.
    """

    only: frozenset[bytes] = frozenset()
    ignore: frozenset[bytes] = frozenset()
    max_price: int | None = None
    formats: NumberFormats = NOT_KNOWN
    sort: Sort | None = None

    def allows(self, public_key: bytes) -> bool:
        """Whether a node may answer."""
        return public_key not in self.ignore and (not self.only or public_key in self.only)

    @property
    def has_formats(self) -> bool:
        """Whether not every number format may answer."""
        return self.formats is not NOT_KNOWN and self.formats != NOT_KNOWN

    def allows_formats(self, formats: NumberFormats) -> bool:
        """Whether a model may answer that is served in ``formats``."""
        return not self.has_formats or all(self.allows_part(part, getattr(formats, part)) for part in FORMATS.values())

    def allows_part(self, part: str, classes: frozenset[str]) -> bool:
        """Whether a part of a model whose format is one of ``classes`` is allowed; no classes: the format is
        unknown."""
        wanted: frozenset[str] = getattr(self.formats, part)
        return not wanted or (classes <= wanted if classes else UNKNOWN in wanted)

    @property
    def allows_here(self) -> bool:
        """Whether the node that is asked may answer with a backend of its own."""
        return self.allows(_ME)


ANYBODY = ProviderRules()
"""The rules of a request without the field."""


def has_rules(body: bytes) -> bool:
    """Whether a body may have the field or leave its model open. Most bodies have neither, and need not be parsed."""
    return b'"provider"' in body or b'"auto"' in body


def take_rules(
    content: dict[str, Any], choose_model: Callable[[ProviderRules], str]
) -> tuple[ProviderRules, dict[str, Any]]:
    """The rules of a request, and the request without them; ``choose_model`` finds the model if it is left open.

    Raises:
        ApiError: 400, naming the key at fault.
    """
    rest = {name: value for name, value in content.items() if name != FIELD}
    found, rules = content.get(FIELD), ANYBODY
    if found is not None:
        if not isinstance(found, dict):
            raise bad_request(f"'{FIELD}' must be an object.", param=FIELD)
        rules = _read(found)
    if rest.get("model") == AUTO:
        rest["model"] = choose_model(rules)
    return rules, rest


def _read(rules: Mapping[str, Any]) -> ProviderRules:
    for name in rules:
        if name not in FOLLOWED:
            param = f"{FIELD}.{name[:MAX_SHOWN_CHARS]}"
            raise bad_request(f"'{param}' is not followed here. '{FIELD}' may have {', '.join(FOLLOWED)}.", param=param)
    if not isinstance(rules.get("require_parameters"), bool | None):
        param = f"{FIELD}.require_parameters"
        raise bad_request(f"'{param}' must be true or false.", param=param)
    if rules.get("allow_fallbacks") not in (None, True):
        param = f"{FIELD}.allow_fallbacks"
        raise bad_request(f"'{param}' can only be true: '{FIELD}.only' says who may answer.", param=param)
    only, ignore = _read_nodes(rules, "only"), _read_nodes(rules, "ignore")
    if only and only <= ignore:
        message = f"'{FIELD}.only' names no node that '{FIELD}.ignore' does not name: nobody is left."
        raise bad_request(message, param=f"{FIELD}.only")
    formats = NumberFormats(**{part: _read_formats(rules, name) for name, part in FORMATS.items()})
    return ProviderRules(only, ignore, _read_price(rules.get("max_price")), formats, _read_sort(rules.get("sort")))


def _read_sort(sort: object) -> Sort | None:
    found = next((name for name in SORTS if name == sort), None)
    if found is None and sort is not None:
        raise bad_request(f"'{FIELD}.sort' must be one of {', '.join(SORTS)}.", param=f"{FIELD}.sort")
    return found


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


def _read_formats(rules: Mapping[str, Any], key: str) -> frozenset[str]:
    named, param, known = rules.get(key), f"{FIELD}.{key}", (*NUMBER_FORMATS, UNKNOWN, AUTO)
    if named is None or named == AUTO:
        return frozenset()
    if not isinstance(named, list) or not named or not all(isinstance(name, str) and name in known for name in named):
        raise bad_request(f"'{param}' must be a list of some of {', '.join(known)}.", param=param)
    return frozenset() if AUTO in named else frozenset(named)


def _read_price(price: object) -> int | None:
    if price is None:
        return None
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= 10**9 or math.isnan(price):
        param = f"{FIELD}.max_price"
        raise bad_request(f"'{param}' must be a number of credits, which the answer may cost at most.", param=param)
    return round(price * CREDIT)
