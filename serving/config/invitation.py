"""Invitations: all that a new node has to know of a network, in one line of text.

An invitation names the chain by its whole genesis, some nodes to connect to first, and perhaps a recent block to begin
from. It gives no rights: a network is open to everybody who has its genesis. It is as trustworthy as the one it comes
from, as a genesis file is, and a checkpoint more so.

The text is ``wwwserve-`` and the base64 (RFC 4648, section 5, without padding) of a hash of 8 bytes and of the
compressed canonical encoding of an :class:`Invitation`. The hash finds letters that were lost or changed on the way.
"""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Record
from chain.exceptions import CodecError, GenesisError, LedgerError
from chain.genesis import MAX_GENESIS_BYTES, Genesis
from chain.light.client import Checkpoint
from p2p.addresses import parse_peer_address

PREFIX = "wwwserve-"
"""Beginning of an invitation."""
VERSION = 1
"""Version of the record."""
MAX_BOOTSTRAP = 16
"""Nodes that an invitation names."""
MAX_TEXT_BYTES = 16 << 20
"""Longest invitation that is read."""
_HASH_BYTES = 8
_MAX_RECORD_BYTES = MAX_GENESIS_BYTES + (64 << 10)


class InvitationError(LedgerError):
    """A text is no invitation, or one that cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Invitation(Record):
    """What a new node has to know. ``bootstrap`` are multiaddresses with the keys that must be found there.

    ``checkpoint`` is a recent block, HEIGHT:BLOCKID; empty for none.
    """

    version: Annotated[int, Bounds(VERSION, VERSION)]
    genesis: Genesis
    bootstrap: Annotated[tuple[Annotated[str, Bounds(1, 512)], ...], Bounds(1, MAX_BOOTSTRAP)]
    checkpoint: Annotated[str, Bounds(0, 128)]

    def format(self) -> str:
        """The line of text."""
        content = zlib.compress(self.encode(), 9)
        raw = crypto.hash_bytes("invitation", content)[:_HASH_BYTES] + content
        return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def make_invitation(genesis: Genesis, bootstrap: list[str], checkpoint: str = "") -> Invitation:
    """An invitation to the network of ``genesis``.

    Raises:
        InvitationError: there is no node to name, or one of the addresses is none.
    """
    if not bootstrap:
        raise InvitationError("there is no address that a newcomer could connect to; start the node, and let it listen")
    invitation = Invitation(VERSION, genesis, tuple(dict.fromkeys(bootstrap))[:MAX_BOOTSTRAP], checkpoint)
    _check(invitation)
    return invitation


def parse_invitation(text: str) -> Invitation:
    """The invitation in a text, whose line breaks and spaces do not count.

    Raises:
        InvitationError: it is none, is damaged, or cannot be used.
    """
    compact = re.sub(r"\s", "", text)
    if not compact.startswith(PREFIX):
        raise InvitationError(f"this is no invitation: one begins with {PREFIX!r}, this with {compact[:12]!r}")
    encoded = compact.removeprefix(PREFIX)
    if len(encoded) > MAX_TEXT_BYTES:
        raise InvitationError("this is no invitation: it is too long")
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        content = raw[_HASH_BYTES:]
        if not content or raw[:_HASH_BYTES] != crypto.hash_bytes("invitation", content)[:_HASH_BYTES]:
            raise ValueError("wrong hash")
        unpacker = zlib.decompressobj()
        record = unpacker.decompress(content, _MAX_RECORD_BYTES + 1)
        if not unpacker.eof:
            raise ValueError("it does not end")
    except (ValueError, zlib.error):
        raise InvitationError(
            "this invitation is damaged: letters are missing or changed; copy the whole line again"
        ) from None
    try:
        invitation = Invitation.decode(record, _MAX_RECORD_BYTES)
    except CodecError as error:
        raise InvitationError(
            f"this invitation is one of another version of the program, which reads others: {error}"
        ) from error
    _check(invitation)
    return invitation


def _check(invitation: Invitation) -> None:
    try:
        invitation.genesis.check()
        for address in invitation.bootstrap:
            parse_peer_address(address)
        if invitation.checkpoint:
            Checkpoint.parse(invitation.checkpoint)
    except (GenesisError, LedgerError, ValueError) as error:
        raise InvitationError(f"this invitation cannot be used: {error}") from error
