"""What a node must still know of duels after a restart: texts that it may have to hand over, own answers, own ballots,
own reports.

Everything is sealed (XSalsa20-Poly1305) under a key that follows from the node's own, and deleted as soon as no duel
can ask for it. Bodies are on the disk only; their sizes, and entries that are not written yet, are in memory. A thread
writes in the background, all entries in one batch.

The table is bounded, in entries and in bytes. When it is full, texts that no duel is about are dropped, the oldest
first. Texts of requests that this node has made go for any new entry: little is lost, since the executor has them too.
Texts of requests that it has answered go only for the texts of another such request. If nothing can be dropped, the new
entry is not kept.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import structlog
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from chain.codec import Bounds, Hash, Natural, Record
from chain.crypto import KeyPair, hash_bytes
from chain.exceptions import CodecError, StoreDamaged
from chain.parameters.duels import MAX_DRAW_HEIGHTS
from chain.store.kv import LevelStore, Store
from chain.types.checks import REPORT_SALT_BYTES, CheckReport
from chain.types.duels import BALLOT_SALT_BYTES, DuelBallot
from serving.offload.context import DeliveredTexts
from serving.offload.protocol import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES, Salt
from serving.quality.duels.texts import Text, TextKind
from serving.quality.same_model.transcript import MAX_TRANSCRIPT_BYTES

log = structlog.get_logger(__name__)

MAX_ENTRIES = 4096
"""Most requests whose texts are kept, most own answers, most own ballots, and most own reports."""
MAX_TABLE_BYTES = 256 << 20
"""Bytes of all bodies together."""
MAX_SEALED_BYTES = MAX_REQUEST_BYTES + MAX_ANSWER_BYTES + MAX_TRANSCRIPT_BYTES + 1024
"""Longest encoded record."""

TEXTS_PREFIX = b"t"
"""Hold → both bodies."""
TEXTS_HEAD_PREFIX = b"h"
"""Hold → head of its texts, which the table keeps in memory."""
ANSWER_PREFIX = b"a"
"""Hold → own answer as the challenger."""
ANSWER_HEAD_PREFIX = b"g"
"""Hold → its digest and size."""
BALLOT_PREFIX = b"b"
"""Hold and panel → own ballot."""

REPORT_PREFIX = b"c"
"""Hold → own report as a checker."""

Body = Annotated[bytes, Bounds(0, MAX_ANSWER_BYTES)]


@dataclass(frozen=True, slots=True)
class KeptTexts(Record):
    """The bodies of a request and of its answer, and the transcript. An incomplete answer and a missing transcript are
    empty."""

    request_salt: Salt
    request: Body
    response_salt: Salt
    response: Body
    transcript_salt: Salt
    transcript: Annotated[bytes, Bounds(0, MAX_TRANSCRIPT_BYTES)]


@dataclass(frozen=True, slots=True)
class KeptTextsHead(Record):
    """Whether this node answered the request, bytes of its texts, and the deadline of its hold (chain time, ms)."""

    is_executor: bool
    size: Natural
    deadline: Natural


@dataclass(frozen=True, slots=True)
class KeptAnswer(Record):
    """An own answer as the challenger."""

    salt: Salt
    body: Body


@dataclass(frozen=True, slots=True)
class KeptAnswerHead(Record):
    """The digest and the bytes of an own answer. After the block of ``height`` its duel was open."""

    digest: Hash
    size: Natural
    height: Natural


@dataclass(frozen=True, slots=True)
class KeptBallot(Record):
    """An own ballot, and the salt of its commitment. After the block of ``height`` its duel was open."""

    ballot: DuelBallot
    salt: Annotated[bytes, Bounds(BALLOT_SALT_BYTES, BALLOT_SALT_BYTES)]
    height: Natural


@dataclass(frozen=True, slots=True)
class KeptReport(Record):
    """An own report, and the salt of its commitment. After the block of ``height`` its check was open."""

    report: CheckReport
    salt: Annotated[bytes, Bounds(REPORT_SALT_BYTES, REPORT_SALT_BYTES)]
    height: Natural


@dataclass(slots=True)
class _Texts:
    """What is known of kept texts. ``closed_at`` is the height at which their hold was found closed."""

    head: KeptTextsHead
    is_drawn: bool = False
    was_open: bool = False
    closed_at: int | None = None


R = TypeVar("R", bound=Record)
Changes = Mapping[bytes, Record | None]


class DuelTable:
    """The table of one node. Entries are on the disk once :meth:`write` has written what :meth:`get_unsaved` returned.

    Raises:
        StoreError: the disk cannot be read.
    """

    def __init__(
        self,
        key: KeyPair,
        store: Store,
        chance: random.Random,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_TABLE_BYTES,
    ) -> None:
        """``chance`` makes nonces; it must not repeat itself."""
        self._box = SecretBox(hash_bytes("duel table", key.seed))
        self._store = store
        self._chance = chance
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._unsaved: dict[bytes, Record | None] = {}
        self.size = 0
        """Bytes of all bodies."""
        self._texts: dict[bytes, _Texts] = {}
        self._answers: dict[bytes, KeptAnswerHead] = {}
        self._ballots: dict[bytes, KeptBallot] = {}
        self._reports: dict[bytes, KeptReport] = {}
        for hold, head in self._read_all(TEXTS_HEAD_PREFIX, KeptTextsHead).items():
            self._texts[hold] = _Texts(head)
        self._answers.update(self._read_all(ANSWER_HEAD_PREFIX, KeptAnswerHead))
        self._ballots.update(self._read_all(BALLOT_PREFIX, KeptBallot))
        self._reports.update(self._read_all(REPORT_PREFIX, KeptReport))
        self.size = sum(texts.head.size for texts in self._texts.values())
        self.size += sum(answer.size for answer in self._answers.values())

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def __len__(self) -> int:
        """Entries of all kinds."""
        return len(self._texts) + len(self._answers) + len(self._ballots) + len(self._reports)

    # Texts of requests

    def keep(self, texts: DeliveredTexts) -> None:
        """Keep the texts of a paid request, if there is room."""
        size = len(texts.request) + len(texts.response) + len(texts.transcript)
        self._drop_texts(texts.hold)
        if not self._make_room(size, texts.is_executor):
            log.warning("no room for the texts of a paid request", hold=texts.hold.hex()[:16])
            return
        head = KeptTextsHead(texts.is_executor, size, texts.deadline)
        self._texts[texts.hold] = _Texts(head)
        self.size += size
        self._put(TEXTS_HEAD_PREFIX + texts.hold, head)
        kept = KeptTexts(
            texts.request_salt,
            texts.request,
            texts.response_salt,
            texts.response,
            texts.transcript_salt,
            texts.transcript,
        )
        self._put(TEXTS_PREFIX + texts.hold, kept)

    def note_drawn(self, hold: bytes) -> None:
        """A duel about a hold is open: its texts do not give way."""
        if hold in self._texts:
            self._texts[hold].is_drawn = True

    def sweep(
        self, has_duel: Callable[[bytes], bool], has_hold: Callable[[bytes], bool], height: int, chain_time: int
    ) -> None:
        """Drop entries that no duel can ask for any more, given the state after the block of ``height``.

        ``has_duel`` and ``has_hold`` say whether there is an open duel or check, or an open hold, of that id. Texts are
        kept while their hold is open, or may yet become final, and until all draws about it are over. Own answers,
        ballots and reports are kept until a state after their ``height`` has no such duel: a restarted node begins with
        an earlier state.
        """
        for hold, texts in list(self._texts.items()):
            if has_duel(hold):
                texts.is_drawn = True
            elif has_hold(hold):
                texts.was_open = True
            elif texts.is_drawn:
                self._drop_texts(hold)
            elif texts.closed_at is None:
                if texts.was_open or chain_time > texts.head.deadline:
                    texts.closed_at = height
            elif height > texts.closed_at + MAX_DRAW_HEIGHTS:
                self._drop_texts(hold)
        for hold, answer in list(self._answers.items()):
            if height > answer.height and not has_duel(hold):
                self._drop_answer(hold)
        for name, ballot in list(self._ballots.items()):
            if height > ballot.height and not has_duel(name[:-1]):
                del self._ballots[name]
                self._put(BALLOT_PREFIX + name, None)
        for hold, report in list(self._reports.items()):
            if height > report.height and not has_duel(hold):
                del self._reports[hold]
                self._put(REPORT_PREFIX + hold, None)

    def _make_room(self, size: int, is_executor: bool) -> bool:
        """Drop texts to make room for ``size`` more bytes, or none if that is not enough. Returns whether there is
        room."""
        entries, size = len(self._texts) + 1 - self._max_entries, self.size + size - self._max_bytes
        dropped: list[bytes] = []
        if entries > 0 or size > 0:  # by how much there is too much
            for hold in self._list_idle(is_executor):
                dropped.append(hold)
                entries, size = entries - 1, size - self._texts[hold].head.size
                if entries <= 0 and size <= 0:
                    break
            else:
                return False
        for hold in dropped:
            self._drop_texts(hold)
        return True

    def _list_idle(self, is_executor: bool) -> list[bytes]:
        """Texts that may be dropped, in this order: those of own requests, then, for an executor's entry, those of
        others."""
        idle = {hold: texts.head for hold, texts in self._texts.items() if not texts.is_drawn}
        own = [hold for hold, head in idle.items() if not head.is_executor]
        return [*own, *(hold for hold, head in idle.items() if head.is_executor)] if is_executor else own

    def _drop_texts(self, hold: bytes) -> None:
        texts = self._texts.pop(hold, None)
        if texts is not None:
            self.size -= texts.head.size
            self._put(TEXTS_HEAD_PREFIX + hold, None)
            self._put(TEXTS_PREFIX + hold, None)

    # Own answers and ballots

    def put_answer(self, hold: bytes, answer: Text, height: int) -> bool:
        """Keep this node's answer as the challenger of a duel that is open after the block of ``height``.

        Returns whether there is room for it.
        """
        self._drop_answer(hold)
        if len(self._answers) >= self._max_entries or not self._make_room(len(answer.body), is_executor=True):
            return False
        head = KeptAnswerHead(answer.digest, len(answer.body), height)
        self._answers[hold] = head
        self.size += head.size
        self._put(ANSWER_HEAD_PREFIX + hold, head)
        self._put(ANSWER_PREFIX + hold, KeptAnswer(answer.salt, answer.body))
        return True

    def get_answer_digest(self, hold: bytes) -> bytes | None:
        """The digest of this node's answer in a duel; None if there is none."""
        head = self._answers.get(hold)
        return None if head is None else head.digest

    def _drop_answer(self, hold: bytes) -> None:
        head = self._answers.pop(hold, None)
        if head is not None:
            self.size -= head.size
            self._put(ANSWER_HEAD_PREFIX + hold, None)
            self._put(ANSWER_PREFIX + hold, None)

    def put_ballot(self, hold: bytes, is_accused: bool, ballot: DuelBallot, salt: bytes, height: int) -> bool:
        """Keep this node's ballot of one panel of a duel that is open after the block of ``height``.

        Returns whether there is room; a ballot is never replaced.
        """
        name = hold + bytes([is_accused])
        if name in self._ballots or len(self._ballots) >= self._max_entries:
            return False
        self._ballots[name] = kept = KeptBallot(ballot, salt, height)
        self._put(BALLOT_PREFIX + name, kept)
        return True

    def get_ballot(self, hold: bytes, is_accused: bool) -> KeptBallot | None:
        """This node's ballot of one panel of a duel."""
        return self._ballots.get(hold + bytes([is_accused]))

    # Own reports

    def put_report(self, hold: bytes, report: CheckReport, salt: bytes, height: int) -> bool:
        """Keep this node's report of a check that is open after the block of ``height``.

        Returns whether there is room; a report is never replaced.
        """
        if hold in self._reports or len(self._reports) >= self._max_entries:
            return False
        self._reports[hold] = kept = KeptReport(report, salt, height)
        self._put(REPORT_PREFIX + hold, kept)
        return True

    def get_report(self, hold: bytes) -> KeptReport | None:
        """This node's report of a check."""
        return self._reports.get(hold)

    # The disk

    def load(self, hold: bytes, kind: TextKind) -> tuple[bytes, bytes] | None:
        """Salt and body of a text, from the disk unless it is not written yet; None if it is not kept.

        Raises:
            StoreError: the disk cannot be read.
        """
        if kind is TextKind.ANSWER:
            answer = self._load(ANSWER_PREFIX + hold, KeptAnswer)
            return None if answer is None else (answer.salt, answer.body)
        texts = self._load(TEXTS_PREFIX + hold, KeptTexts)
        if texts is None:
            return None
        if kind is TextKind.REQUEST:
            return texts.request_salt, texts.request
        if kind is TextKind.TRANSCRIPT:
            return (texts.transcript_salt, texts.transcript) if texts.transcript else None
        return (texts.response_salt, texts.response) if texts.response else None

    def get_unsaved(self) -> Changes:
        """What is to be written."""
        return dict(self._unsaved)

    def write(self, changes: Changes) -> None:
        """Seal and write; may run in a thread.

        Raises:
            StoreError: the disk failed.
        """
        self._store.write({key: None if record is None else self._seal(record) for key, record in changes.items()})

    def note_saved(self, changes: Changes) -> None:
        """``changes`` are on the disk."""
        for key, record in changes.items():
            if key in self._unsaved and self._unsaved[key] is record:
                del self._unsaved[key]

    def _put(self, key: bytes, record: Record | None) -> None:
        self._unsaved[key] = record

    def _seal(self, record: Record) -> bytes:
        return bytes(self._box.encrypt(record.encode(), self._chance.randbytes(SecretBox.NONCE_SIZE)))

    def _open(self, sealed: bytes, kind: type[R]) -> R | None:
        """A record from the disk; None if it was sealed under another key, or is of another format."""
        try:
            return kind.decode(self._box.decrypt(sealed), MAX_SEALED_BYTES)
        except (CryptoError, CodecError):
            return None

    def _load(self, key: bytes, kind: type[R]) -> R | None:
        if key in self._unsaved:
            record = self._unsaved[key]
            assert record is None or isinstance(record, kind)
            return record
        sealed = self._store.get(key)
        return None if sealed is None else self._open(sealed, kind)

    def _read_all(self, prefix: bytes, kind: type[R]) -> dict[bytes, R]:
        """Every record under a prefix, without it; what cannot be read is deleted."""
        found: dict[bytes, R] = {}
        for key, sealed in self._store.items(prefix):
            record = self._open(sealed, kind)
            if record is None:
                self._put(key, None)
            else:
                found[key[len(prefix) :]] = record
        return found


def open_table(directory: Path, key: KeyPair, chance: random.Random) -> DuelTable:
    """The table in a database of its own in ``directory``. A damaged one is replaced by an empty one, for a few
    penalties.

    Raises:
        StoreError: it cannot be opened, for a reason other than damage.
    """
    try:
        return _open(directory, key, chance)
    except StoreDamaged as error:
        log.error("the table of duels is damaged, and begins anew", error=str(error))
        shutil.rmtree(directory)
        return _open(directory, key, chance)


def _open(directory: Path, key: KeyPair, chance: random.Random) -> DuelTable:
    store = LevelStore(directory)
    try:
        return DuelTable(key, store, chance)
    except BaseException:
        store.close()
        raise
