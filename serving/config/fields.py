"""The values and the base of the sections of a node's configuration file: types, checks, and what is said of faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from chain.codec import MAX_MODEL_NAME_BYTES, is_printable_ascii
from p2p.addresses import check_dialable_address, check_listen_address, parse_peer_address, parse_proxy
from serving.http.access import is_loopback
from serving.http.client import BaseUrl
from serving.scheduling.weekly_schedule import find_zone, parse_entry

MAX_AMOUNT = 2**63 - 1
"""Largest amount on the ledger, in micro-credits."""


class ConfigError(Exception):
    """The configuration cannot be used. The message has a line per fault: file, line, key, and what is wrong."""


# Values


def checked_by(parse: Callable[[str], object]) -> AfterValidator:
    """A validator that leaves a text as it is, unless ``parse`` raises ``ValueError``."""

    def check(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(check)


def check_secret(secret: str) -> str:
    if not re.fullmatch(r"[!-~]+", secret):
        raise ValueError("must consist of visible ASCII characters, at least one")
    return secret


def _check_model_name(name: str) -> str:
    if not is_printable_ascii(name):
        raise ValueError(f"must consist of printable ASCII characters, got {name!r}")
    return name


def _check_host(host: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+", host):
        raise ValueError(f"must be a host name or address without a port, such as api.example.org, got {host!r}")
    return host


def _check_origin(origin: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin, re.ASCII | re.IGNORECASE):
        raise ValueError(f"must be an origin such as https://chat.example.org (no path), got {origin!r}")
    return origin


def _check_loopback(host: str) -> str:
    if not is_loopback(host):
        raise ValueError(
            f"must be a loopback address such as 127.0.0.1, got {host!r}: anyone who reaches this listener and has "
            "its token can spend the node's credits (use a tunnel to reach it from elsewhere)"
        )
    return host


def _check_digest(digest: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"must be 64 hexadecimal digits, got {digest!r}")
    return digest


def _check_label(label: str) -> str:
    if not is_printable_ascii(label):
        raise ValueError(f"must consist of printable ASCII characters, got {label!r}")
    return label


Port = Annotated[int, Field(ge=0, le=65535)]
Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Capacity = Annotated[int, Field(ge=1, le=100_000)]
Text = Annotated[str, Field(min_length=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME_BYTES), AfterValidator(_check_model_name)]
Digest = Annotated[str, AfterValidator(_check_digest)]
Label = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_label)]
HostName = Annotated[str, AfterValidator(_check_host)]
Origin = Annotated[str, AfterValidator(_check_origin)]
Secret = Annotated[str, AfterValidator(check_secret)]
LoopbackHost = Annotated[str, AfterValidator(_check_loopback)]
ListenAddress = Annotated[str, AfterValidator(check_listen_address)]
DialableAddress = Annotated[str, AfterValidator(check_dialable_address)]
PeerAddress = Annotated[str, checked_by(parse_peer_address)]
Url = Annotated[str, checked_by(BaseUrl.parse)]
Proxy = Annotated[str, checked_by(parse_proxy)]
ScheduleEntry = Annotated[str, checked_by(parse_entry)]
TimeZone = Annotated[str, checked_by(find_zone)]

# Sections


class Section(BaseModel):
    """Base of every section. A key without a value (``null``) stands for its default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {info.alias or name for name, info in cls.model_fields.items()}
        return {key: value for key, value in data.items() if value is not None or key not in known}
