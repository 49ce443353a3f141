"""The layout of a node's database: the prefix of every kind of entry, and the keys that stand alone.

Numbers are 8 bytes, big-endian (:func:`encode_number`). The state has two slots, one in use and one for a snapshot on
its way in (:mod:`chain.store.snapshot_import`); in a slot an entry stands under its key in the state
(:mod:`chain.state.keys`).
"""

from __future__ import annotations

from chain.state.keys import COMMITTEE_PREFIX

FORMAT = b"3"
"""Version of this layout."""

BLOCK_PREFIX = b"b"
"""Height → block."""
CERTIFICATE_PREFIX = b"f"
"""Height → finality certificate of that very block, where one was seen."""
FAILURES_PREFIX = b"x"
"""Height → reasons of the operations that failed, where any did."""
UNDO_PREFIX = b"u"
"""Height → the state entries that the block changed, as they were before."""
HEIGHT_PREFIX = b"n"
"""Block id → height."""
OPERATION_PREFIX = b"o"
"""Operation id → height and index."""
EPOCH_END_PREFIX = b"l"
"""Epoch → its last header and that header's finality certificate."""
VALIDATORS_PREFIX = COMMITTEE_PREFIX
"""Epoch → validators, those at its end if it was restarted. The key is that of the state entry, which is copied."""
RESTARTS_PREFIX = b"r"
"""Epoch → headers of its restart blocks, where there are any, with finality and validators."""
FIRST_SLOT = b"s"
"""State key → state entry after the last block, or of the snapshot (``SLOT_KEY`` says which)."""
SECOND_SLOT = b"z"
"""As ``FIRST_SLOT``; one of the two has the state in use, the other the snapshot."""
ACCOUNT_ENTRY_PREFIX = b"i"
"""Account and height of a block → what the block had to do with it (:mod:`chain.store.account_index`); not of the
chain."""
BLOCK_ACCOUNTS_PREFIX = b"k"
"""Height → the accounts with an entry for this block; of that index."""
OLD_INDEX_PREFIXES = (b"a", b"h")
"""Entries of an index that earlier versions kept, which are deleted."""
META_PREFIX = b"m"
"""Name → value: the keys below."""
VOTE_SUPPORT_PREFIX = b"e"
"""Epoch, view, kind of vote → what an own vote rests on (:mod:`consensus.voting.vote_support`); not of the chain."""
PAYMENTS_PREFIX = b"w"
"""The node's own payments (:mod:`serving.accounting.payer`); not of the chain."""

OTHER_SLOT = {FIRST_SLOT: SECOND_SLOT, SECOND_SLOT: FIRST_SLOT}
"""The slot of the next state, by that of the state in use."""

FORMAT_KEY = META_PREFIX + b"format"
"""``FORMAT`` of the program that made the database."""
GENESIS_KEY = META_PREFIX + b"genesis"
"""The encoded genesis."""
HEIGHT_KEY = META_PREFIX + b"height"
"""Height of the last final block."""
JOURNAL_KEY = META_PREFIX + b"journal"
"""Length and head hash that the vote journal must reach."""
SLOT_KEY = META_PREFIX + b"state"
"""The slot of the state in use."""
SNAPSHOT_KEY = META_PREFIX + b"stage"
"""Which snapshot is on its way in, and how far it has come."""
BASE_KEY = META_PREFIX + b"base"
"""The header that the blocks begin after, if that is not genesis."""
PRUNE_KEY = META_PREFIX + b"prune"
"""First and last height of the blocks below the base that are still to be deleted."""
UNDO_KEY = META_PREFIX + b"undo"
"""Height from whose state on there are undo entries."""
INDEXED_KEY = META_PREFIX + b"entries"
"""Height up to which accounts are indexed."""
OLD_INDEXED_KEY = META_PREFIX + b"accounts"
"""Of an index that earlier versions kept: there until all of that is deleted."""
LAST_VOTE_KEY = META_PREFIX + b"vote"
"""The own vote that was put last."""
HOLD_NUMBER_KEY = PAYMENTS_PREFIX + b"seq"
"""The first number of an own hold that was never used."""
SET_ASIDE_KEY = PAYMENTS_PREFIX + b"aside"
"""Lower numbers that no own hold was signed under. Only there from when a node ends until it signs the next."""
MAX_CAPTURE_PREFIX = PAYMENTS_PREFIX + b"max"
"""Id of an own hold → the most that may be captured from it without a receipt, and its deadline."""


def encode_number(value: int) -> bytes:
    """A height, an epoch or a count, as keys and values have it."""
    return value.to_bytes(8, "big")


def encode_mark(mark: tuple[int, bytes]) -> dict[bytes, bytes]:
    """The entry that says how far the vote journal reaches: its length and head hash."""
    return {JOURNAL_KEY: encode_number(mark[0]) + mark[1]}
