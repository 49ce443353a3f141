"""Simplex agreement, weighted by stake: the state machine of one validator in one epoch.

The protocol is Simplex (Chan and Pass, 2023) with the deviations at the end. This text specifies all of it.

Terms
    - *Epoch*: a run of heights with one frozen set of validators. Its *views* are numbered from 1. Each view has one
      leader, drawn by stake.
    - *Vote*: signed over (epoch, view, block id). It says notarize, nullify (which names no block) or finalize.
    - *Quorum*: distinct signers with more than 2/3 of the epoch's stake, in integers.
    - *Certificate*: votes of a quorum that say the same: a notarization, a nullification or a finalization. A quorum
      finalizes only what a quorum notarized, so a finalization also stands for a notarization of its block, except
      that nothing is voted for because of it (rule 3).
    - *Highest notarized block*: the block with a notarization in the latest view. View 0 stands for the final block
      that the epoch starts from.

Rules
    1. On entering view v as its leader: propose a block of view v on the highest notarized block, of view p.
        - The body justifies the place: the notarization of the parent in p (for the epoch's first block, the
          finalization of the parent; none on genesis), and the nullifications of p+1 ... v-1, or of the last
          ``MAX_NULLIFICATIONS`` of these views, so that no block becomes too large after a long halt.
        - A proposal is well formed if p < v, the leader of v signed it, the justification is complete, and the header
          agrees with it in epoch, view, height, parent and proposer.
    2. On the first well-formed proposal of view v:
        - Before v: keep it, if v is at most ``VIEW_WINDOW`` views ahead, and go on when v is entered.
        - In v: once the nullifications of all of p+1 ... v-1 are held, from the body or not, have the block executed.
        - If the block is valid: send notarize for it, once per view.
    3. On a certificate:
        - A notarization or a finalization of view v or later, or a nullification of v, enters the view after it.
        - On a notarization, unless nullify was sent in its view: send finalize for its block. A finalization
          alone, in a view without a notarization, is no reason to send finalize.
    4. On a finalization: its block and all its ancestors are final.
    5. On timeout in view v, and again at growing intervals:
        - Send nullify for v, unless finalize was sent in v.
        - Broadcast the latest finalization, the certificate of the highest notarized block, and the nullifications
          after it from view v - ``MAX_REPLY_CERTIFICATES`` + 2 on: at most ``MAX_REPLY_CERTIFICATES`` in all.
        - Repeat own votes that may still count: finalize votes of views that are not final, from ``VIEW_WINDOW`` views
          before the highest notarized one on, and all votes of v and of the ``VIEW_WINDOW`` - 1 views after it (those
          of later views were signed before a crash; some are sent on entering a view, too).
       Nullify is sent without waiting for the timeout once a third of the stake has sent it: an honest validator has.
       The timeout doubles with every nullified view, up to a cap, and falls back when a block becomes final. A
       validator that knows a certificate of a later view is behind and waits the shortest time. The timer runs only
       while there is something to agree about: work that the driver reports, a proposal in this view, a notarized block
       that is not final, or being behind.
    6. On nullify or a repeated vote for a view that has ended (or the current one, if the own timer is stopped): send
       its signer the latest finalization, the certificate of the highest notarized block, and nullifications from that
       view on, at most ``MAX_REPLY_CERTIFICATES``. This happens at most ``MAX_REPLIES`` times for one validator and one
       range of views until the next timeout or change of view here.
        - A certificate is broadcast once, by each validator that gathers it from votes.
        - Notarize votes for blocks that came to nothing are sent to ``VAIN_VOTE_PEERS`` other validators once a later
          block is final, in turns: their signers may have voted for other blocks elsewhere.

    Hence a validator in v holds the notarization of some p < v and the nullifications of all views between, and can
    lead. Once the highest notarized block is known to all, all that are in v can vote for a proposal on it.

Epoch hand-over
    On a highest notarized block of the epoch's last height the only valid proposal is that block itself, again in every
    later view, with the same justification, until it is final. Its certificates may then carry a later view than its
    header. Nothing of the next epoch is signed before: its instance is made from the finalization of that block.
    Otherwise a faulty member could keep a notarized last block from its committee, which nullifies the view and
    finalizes another block, and show it to the next committee, which finalizes what stands on it: two final branches
    with no two conflicting votes of one signer.

Slashable
    By one key in one view of one epoch: notarize for two blocks, finalize for two blocks, nullify and finalize
    (:data:`chain.types.votes.EXCLUSIVE_KINDS`). Nullify and notarize is honest. No honest validator signs such a pair,
    across crashes too: every vote is durable before it is sent, and an instance starts from the votes of its journal.
    Durable with a notarize vote is its block, and with a finalize vote the notarization it rests on, so that a crash of
    all validators at once loses nothing that might be final. A leader makes its own notarize vote durable before its
    proposal is sent, so it never proposes two blocks.

Safety (less than a third of the stake is faulty)
    Any two quorums share an honest validator. So one view has one notarized block, and a view with a finalization has
    no nullification. Let b be final in view v, and c notarized in a later view on a parent of view p. If p < v, an
    honest validator that notarized c held a nullification of v: a contradiction. So p = v and the parent is b, or p > v
    and the argument repeats with the parent. All that is notarized later descends from b, or is b again. No timing is
    assumed. (A parent's notarization is told by its certificate. A body shows only the last of the nullifications,
    which help those that are a little behind; voters hold all of them.)

Liveness (messages arrive within a bound that some timeout exceeds)
    Votes of honest validators are a quorum. A validator that is behind is answered until it has caught up. With every
    timeout the highest notarized block spreads. A view with a silent leader is nullified by all. A view whose leader is
    honest and whose timeout is long enough is notarized by all before any of them nullifies it, and so finalized.

Deviations from the paper
    - Validators are weighted by stake, and leaders are drawn by stake from the beacon of the epoch.
    - Committees change at the borders of epochs, with the hand-over above.
    - A proposal carries its justification instead of the whole notarized chain, and only its last nullifications.
    - Nullify does not wait for the timeout once a third of the stake has sent it.
    - Timeouts grow with nullified views, and timers rest while there is nothing to agree about.
    - Certificates are sent to those that need them (rules 5 and 6) instead of being forwarded by all.
    - Votes are durable before they are sent, and pairs of votes that no honest validator signs are evidence.

The instance does no I/O and reads no clock: each input returns the effects that the driver must carry out in order
(:mod:`consensus.simplex.messages`). Without a key of the set it is an observer, which follows and answers but never
votes. When ``is_finished`` it only answers. It is kept as long as validators may lag in its epoch, and its answers are
renewed.
"""

from __future__ import annotations

from collections.abc import Iterable

from chain import crypto
from chain.transition.epochs import Epoch
from chain.types.blocks import Block, Header, Proposal, sign_proposal
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, is_same_vote, sign_vote
from consensus.block_tree import BlockTree
from consensus.exceptions import ForgedMessage, InvalidMessage
from consensus.simplex.equivocation import EquivocationDetector
from consensus.simplex.messages import (
    Broadcast,
    Build,
    Commit,
    Conflict,
    Effect,
    Message,
    PersistVote,
    Propose,
    Reject,
    Repropose,
    UpdateFinality,
)
from consensus.simplex.pending_blocks import PendingBlocks
from consensus.simplex.replies import MAX_REPLY_CERTIFICATES, Replies
from consensus.simplex.validation import (
    FinalizedBlock,
    MessageValidation,
    get_nullifications,
    get_parent_certificate,
)
from consensus.simplex.view_timer import Timeouts, ViewTimer
from consensus.simplex.views import FINALIZE, NOTARIZE, NULLIFY, VIEW_WINDOW, View, Views


class Simplex:
    """One validator (or observer) in one epoch.

    Args:
        epoch: its committee, its last height, and what its leaders are drawn from.
        finalized: the last final block, of this epoch or the one the epoch starts from.
        key: signs votes if it is a member's; None or a stranger's makes an observer.
        votes, support: of this epoch, from the journal and from whatever ``PersistVote`` made durable.
        verify: checks signatures; a caller may answer from what it has checked before.
        detector: finds votes that exclude each other; passed on from one instance to the next.
        tree: keeps the blocks, for this instance and for the driver, which executes them.
    """

    def __init__(
        self,
        *,
        chain_id: bytes,
        epoch: Epoch,
        finalized: FinalizedBlock,
        key: crypto.KeyPair | None,
        timeouts: Timeouts | None = None,
        votes: Iterable[Vote] = (),
        support: Iterable[Block | Certificate] = (),
        verify: crypto.Verify = crypto.verify_all,
        detector: EquivocationDetector | None = None,
        tree: BlockTree | None = None,
    ) -> None:
        validators = epoch.validators
        self.chain_id, self.epoch, self.validators = chain_id, epoch.number, validators
        self.last_height = epoch.last_height
        self.has_work = False
        self._key = key if key is not None and key.public_key in validators else None
        self._me = b"" if self._key is None else self._key.public_key
        self._effects: list[Effect] = []
        self._detector = EquivocationDetector(chain_id) if detector is None else detector
        self._blocks = PendingBlocks(
            BlockTree() if tree is None else tree, finalized, self.epoch, validators, self._effects
        )
        self._validation = MessageValidation(chain_id, epoch, finalized, verify)
        self._views = Views(finalized, self.epoch, validators)
        self._timer = ViewTimer(timeouts or Timeouts(), self._effects)
        self._replies = Replies(self._me, self._views, validators, self._effects)
        self.view = self._views.final_view + 1
        self._leader = 0, b""  # of the view for which it was computed last
        self._latest = 0  # view of the latest certificate
        self._asked: tuple[int, bytes] | None = None  # view and parent of the last Build

        # Own votes are in place before anything can be signed.
        own = (vote for vote in votes if vote.epoch == self.epoch and vote.signer == self._me)
        self._restored = tuple(vote for vote in own if vote.view > self._views.final_view)
        for vote in self._restored:
            self._views[vote.view].add(vote)
        self._detector.observe(self._restored)
        self._support = tuple(support)

    # What the engine may ask.

    @property
    def finalized(self) -> FinalizedBlock:
        """The last final block that is held."""
        return self._blocks.finalized

    @property
    def leader(self) -> bytes:
        """Public key of the leader of the current view."""
        if self._leader[0] != self.view:
            self._leader = self.view, self._validation.epoch.compute_leader(self.view)
        return self._leader[1]

    @property
    def is_finished(self) -> bool:
        """Whether the epoch's last block is final."""
        return self.finalized.height >= self.last_height

    @property
    def is_settled(self) -> bool:
        """Whether everything notarized is final, and the final block at hand."""
        return self._views.highest_id == self.finalized.block_id and self._views.highest_view == self._views.final_view

    def get_block(self, block_id: bytes) -> Block | None:
        """A block that is not final yet, or None."""
        return self._blocks.get(block_id)

    def is_awaited(self, proposal: Proposal, header: Header) -> bool:
        """Whether the block of a proposal whose header is here should be reconstructed.

        Raises:
            InvalidMessage: the leader of its view did not propose it.
        """
        here = self._views.find(proposal.view)
        if self.is_finished or proposal.epoch != self.epoch or (here is not None and here.proposal is not None):
            return False
        if not self.view <= proposal.view <= self.view + VIEW_WINDOW:
            return False
        self._validation.validate_header(proposal, header)
        return True

    def get_notarize_votes(self, blocks: Iterable[tuple[int, bytes]]) -> tuple[Vote, ...]:
        """The notarize votes known for recent blocks of this epoch: who took part.

        Args:
            blocks: view in the header, and block id. Blocks of views long before the last final one have no votes left.

        Returns:
            For each block in turn one vote of each signer, of a later view if the block was proposed again.
        """
        return tuple(vote for view, block_id in blocks for vote in self._views.get_notarize_votes(block_id, view))

    @property
    def validation(self) -> MessageValidation:
        """The rules by which messages are taken or refused."""
        return self._validation

    def is_relevant(self, message: Message) -> bool:
        """Whether :meth:`on_message` is likely to look at the signatures of a message. Cheap, and changes nothing."""
        if isinstance(message, Propose | Repropose):
            view = message.proposal.view
            here = self._views.find(view)
            is_open = view >= self.view and (here is None or here.proposal is None)
            is_requested = isinstance(message, Propose) and self._blocks.is_requested(message.block.id)
            return message.epoch == self.epoch and not self.is_finished and (is_open or is_requested)
        if message.epoch != self.epoch:
            return False
        if isinstance(message, Certificate):
            return not self._is_superfluous(message) or self._has_new_votes(message)
        if message.view > self.view + VIEW_WINDOW and not self.is_finished:
            return False
        here = self._views.find(message.view)
        rival = None if here is None else here.find_rival(VoteKind(message.kind), message.signer)
        return rival is None or rival.signature != message.signature

    # Inputs. Each returns the effects to carry out, in their order.

    def start(self) -> list[Effect]:
        """Restore what was durable, repeat the votes that may still count, and begin.

        Raises:
            InvalidMessage: the support is not what was made durable.
        """
        for support in self._support:
            if isinstance(support, Block):
                self._blocks.add(support)
        for support in self._support:
            if isinstance(support, Certificate) and support.view > self._views.final_view:
                self._on_certificate(support)  # one from before a restart in the epoch was of another committee
        for vote in self._restored:
            self._count(vote)
        self._effects += [Broadcast(vote) for vote in self._views.get_open_votes(self._me, self.view)]
        self._support = self._restored = ()
        return self._act()

    def on_message(self, message: Message) -> list[Effect]:
        """Take a message from anyone. A message that is stale, known or of another epoch has no effect."""
        try:
            match message:
                case Vote():
                    self._on_vote(message)
                case Certificate():
                    self._on_certificate(message)
                case _:
                    self._on_proposal(message)
        except InvalidMessage as error:
            self._effects.append(Reject(str(error), isinstance(error, ForgedMessage)))
        return self._act()

    def on_timeout(self, view: int) -> list[Effect]:
        """The timer of ``view`` rang: rule 5."""
        if view == self.view and self._timer.is_running:
            self._replies.reset()
            last = self._views.get_certificates(
                view - MAX_REPLY_CERTIFICATES + 2, view, MAX_REPLY_CERTIFICATES
            )  # two may be older
            self._effects += [Broadcast(certificate) for certificate in last]
            self._effects += [Broadcast(vote) for vote in self._views.get_open_votes(self._me, self.view)]
            self._blocks.repeat_requests()
            self._timer.note_timeout()
            if self._may_sign(NULLIFY, view):
                self._vote(NULLIFY, view, NO_BLOCK)
        return self._act()

    def on_work(self, has_work: bool = True) -> list[Effect]:
        """The engine has (or no longer has) something to agree about: an includable operation, or a due idle beat."""
        self.has_work = has_work
        return self._act()

    def on_built(self, view: int, block: Block) -> list[Effect]:
        """The block that a ``Build`` asked for. Ignored if its view or parent is no longer the one to build on.

        Raises:
            InvalidMessage: it is not what was asked for.
        """
        here = self._views[self.view]
        if self._asked == (self.view, block.header.parent_id) and view == self.view and here.proposal is None:
            message = Propose(self._sign_proposal(block.id), block)
            self._validation.verify_with(self._verify_others).validate_proposal(message)
            self._blocks.add(block, is_valid=True)
            here.proposal = message
        return self._act()

    def on_executed(self, block_id: bytes, is_valid: bool) -> list[Effect]:
        """The verdict that a ``Check`` asked for."""
        self._blocks.set_result(block_id, is_valid)
        return self._act()

    def on_block(self, block: Block) -> list[Effect]:
        """A block that a ``Fetch`` asked for; any other is ignored."""
        self._take_wanted(block)
        return self._act()

    def renew_answers(self) -> None:
        """Reset the counts of answers (rule 6). The engine calls it now and then once no timer runs any more."""
        self._replies.reset()

    # Acting: all that the current view allows.

    def _act(self) -> list[Effect]:
        acted = 0
        while self._key is not None and not self.is_finished and acted != self.view:
            acted = self.view  # voting may complete a certificate, which enters the next view
            self._lead()
            self._notarize()
            self._join()
        self._run_timer()
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def _lead(self) -> None:
        """Rule 1: propose a block on the highest notarized one, or that one again if it has the last height."""
        here = self._views[self.view]
        if self.leader != self._me or here.proposal is not None:
            return
        if not self._blocks.is_valid(self._views.highest_id, self._views.highest):
            return
        if self._me in here.votes[NOTARIZE]:
            self._repeat_proposal(here)
        elif self._blocks.get_height(self._views.highest_id) == self.last_height:
            here.proposal = self._make_reproposal()
        elif self._asked != (self.view, self._views.highest_id):
            self._asked = (self.view, self._views.highest_id)
            self._effects.append(
                Build(self.view, self._views.highest_id, self._views.highest, self._views.get_proof(self.view))
            )

    def _repeat_proposal(self, here: View) -> None:
        """Propose what we voted for before a restart, and nothing else."""
        block_id = here.votes[NOTARIZE][self._me].block_id
        block = self.get_block(block_id)
        if block is not None and block.header.view == self.view:
            here.proposal = Propose(self._sign_proposal(block_id), block)
        elif block_id == self._views.highest_id:
            here.proposal = self._make_reproposal()
        if here.proposal is not None:
            self._effects.append(Broadcast(here.proposal))

    def _make_reproposal(self) -> Repropose:
        assert self._views.highest is not None
        return Repropose(
            self._sign_proposal(self._views.highest_id), self._views.highest, self._views.get_proof(self.view)
        )

    def _notarize(self) -> None:
        """Rule 2: vote for the proposal once its place is free and it and its ancestors are valid."""
        message = self._views[self.view].proposal
        if message is None or not self._may_sign(NOTARIZE, self.view):
            return
        if not self._is_place_free(get_parent_certificate(message)):
            return
        if isinstance(message, Propose) and message.block.height <= self.finalized.height:
            return  # it will never be held: to fetch it would not help
        block_id = message.proposal.block_id
        if not self._blocks.is_valid(block_id, message.certificate if isinstance(message, Repropose) else None):
            return
        if isinstance(message, Propose) or self._blocks.get_height(block_id) == self.last_height:
            self._vote(NOTARIZE, self.view, block_id, self.get_block(block_id), message)

    def _is_place_free(self, parent: Certificate | None) -> bool:
        """Whether we hold the nullifications of all views between the parent's and this one."""
        parent_view = parent.view if parent is not None and parent.epoch == self.epoch else 0
        return all(self._views.is_nullified(view) for view in range(parent_view + 1, self.view))

    def _join(self) -> None:
        """Rule 5: who is honest and waited has found nothing here."""
        stake = self.validators.get_stake(self._views[self.view].votes[NULLIFY])
        if 3 * stake >= self.validators.total_stake and self._may_sign(NULLIFY, self.view):
            self._vote(NULLIFY, self.view, NO_BLOCK)

    def _run_timer(self) -> None:
        """Rule 5: time runs while there is something to agree about."""
        here, is_behind = self._views.find(self.view), self._latest > self.view
        has_proposal = here is not None and here.proposal is not None
        is_busy = self._key is not None and not self.is_finished
        is_busy = is_busy and (self.has_work or has_proposal or is_behind or not self.is_settled)
        self._timer.run(self.view, is_busy=is_busy, is_behind=is_behind)

    # Signing.

    def _may_sign(self, kind: VoteKind, view: int) -> bool:
        """Whether a vote of ours is useful, and no other vote of ours in ``view`` forbids it: see "Slashable"."""
        if self._key is None or view <= self._views.final_view or self.is_finished:
            return False
        return self._views[view].find_rival(kind, self._me) is None

    def _vote(
        self,
        kind: VoteKind,
        view: int,
        block_id: bytes,
        support: Block | Certificate | None = None,
        proposal: Propose | Repropose | None = None,
    ) -> None:
        assert self._key is not None and self._may_sign(kind, view)
        vote = sign_vote(self._key, self.chain_id, kind, self.epoch, view, block_id)
        self._effects.append(PersistVote(vote, support))
        if proposal is not None and proposal.proposal.leader == self._me:
            self._effects.append(Broadcast(proposal))
        self._effects.append(Broadcast(vote))
        self._views[view].add(vote)
        self._observe([vote])
        self._count(vote)

    def _sign_proposal(self, block_id: bytes) -> Proposal:
        assert self._key is not None
        return sign_proposal(self._key, self.chain_id, self.epoch, self.view, block_id)

    def _verify_others(self, checks: Iterable[crypto.SignatureCheck]) -> bool:
        """Whether signatures hold; this validator's own are not checked."""
        return self._validation.verify(check for check in checks if check.public_key != self._me)

    # Votes.

    def _on_vote(self, vote: Vote) -> None:
        kind = VoteKind(vote.kind)
        if vote.epoch != self.epoch or (vote.view > self.view + VIEW_WINDOW and not self.is_finished):
            return
        has_ended = vote.view < self._views.final_view or self.is_finished
        here = self._views.find(vote.view) if has_ended else self._views[vote.view]
        if here is None:
            if kind is not NOTARIZE:  # which may merely be late
                self._answer(vote)
            if vote.view <= self.view and self._detector.is_new(vote):
                self._validation.validate_vote(vote)
                self._observe([vote])
            return
        rival = here.find_rival(kind, vote.signer)
        if rival is not None and is_same_vote(rival, vote):
            is_late = rival in here.second_hand or (has_ended and kind is NOTARIZE)
            here.second_hand.discard(rival)
            if kind is NULLIFY or not is_late:
                self._answer(vote)  # a repetition: its signer is stuck
        elif not self._detector.has_equivocated(vote):
            self._validation.validate_vote(vote)
            self._observe([vote])
            if rival is not None:
                return
            here.add(vote)
            if kind is NULLIFY or (has_ended and kind is FINALIZE):
                self._answer(vote)
            self._count(vote)

    def _observe(self, votes: Iterable[Vote]) -> None:
        """Compare votes whose signatures hold with the other votes of their signers."""
        self._effects += [Conflict(first, second) for first, second in self._detector.observe(votes)]

    def _count(self, vote: Vote) -> None:
        """Gather the votes that say the same as ``vote`` into a certificate, if they are a quorum."""
        kind = VoteKind(vote.kind)
        if kind is FINALIZE and vote.view == self._views.final_view:
            self._update_finality(only_if_all=True)
        if vote.view <= self._views.final_view or kind in self._views[vote.view].certificates:
            return
        certificate = self._views[vote.view].gather(vote, self.validators)
        if certificate is not None:
            self._effects.append(Broadcast(certificate))
            self._take_certificate(certificate)

    def _answer(self, vote: Vote) -> None:
        """Rule 6, if its signer is behind, and a bounded number of times."""
        knows_more = vote.view < self.view or not self._timer.is_running
        if knows_more and self._replies.may_answer(vote, self.view):
            self._validation.validate_vote(vote)
            self._replies.answer(vote, self.view)

    # Certificates: rules 3 and 4.

    def _on_certificate(self, certificate: Certificate) -> None:
        if certificate.epoch != self.epoch:
            return
        if not self._is_superfluous(certificate):
            self._validation.validate_certificate(certificate)
            self._take_certificate(certificate)
        elif self._has_new_votes(certificate):
            self._validation.validate_certificate(certificate)
            self._observe(certificate.votes(self.validators))

    def _is_superfluous(self, certificate: Certificate) -> bool:
        """Whether a certificate of this epoch changes nothing any more."""
        kind, view = VoteKind(certificate.kind), certificate.view
        if view <= self._views.final_view or self.is_finished:
            return True
        here = self._views.find(view)
        return (kind is NULLIFY and view <= self._views.highest_view) or (
            here is not None and kind in here.certificates
        )

    def _has_new_votes(self, certificate: Certificate) -> bool:
        """Whether a certificate that is superfluous may still show an equivocation."""
        near = certificate.view <= self.view + VIEW_WINDOW
        return near and self._detector.has_new_votes(certificate, self.validators)

    def _take_certificate(self, certificate: Certificate) -> None:
        """What a certificate that holds means."""
        kind, view = VoteKind(certificate.kind), certificate.view
        if self._detector.has_new_votes(certificate, self.validators):
            self._observe(certificate.votes(self.validators))
        if view <= self._views.final_view or kind in self._views[view].certificates:
            return
        self._views.take(certificate, self._me)
        self._latest = max(self._latest, view)
        if kind is NOTARIZE:
            self._blocks.retry(certificate.block_id)
        if kind is NOTARIZE and self._may_sign(FINALIZE, view):
            self._vote(FINALIZE, view, certificate.block_id, certificate)
        if kind is FINALIZE:
            self._update_finality(only_if_all=False)  # the last chance
            self._replies.pass_on(self._views.close(certificate))
            self._timer.note_final()
            self._commit()
        if kind is not NULLIFY and view >= self.view:
            self._enter(view + 1)
        while self._views.is_nullified(self.view):
            self._timer.note_nullified()
            self._enter(self.view + 1)

    def _enter(self, view: int) -> None:
        near = range(max(view, self.view + VIEW_WINDOW // 2), view + VIEW_WINDOW // 2)
        self._effects += [Broadcast(vote) for vote in self._views.get_votes(self._me, near)]  # from before a restart
        self.view = view
        self._timer.enter_view()
        self._replies.reset()

    def _update_finality(self, *, only_if_all: bool) -> None:
        stronger = self._views.extend_finalization(self.finalized.block_id, only_if_all=only_if_all)
        if stronger is not None:
            self._effects.append(UpdateFinality(stronger))

    def _commit(self) -> None:
        """Rule 4, once the block is held."""
        certificate = self._views.finalization
        if certificate is None or certificate.block_id == self.finalized.block_id:
            return
        if self._blocks.get(certificate.block_id) is None:
            self._blocks.request(certificate.block_id, certificate)
        else:
            self._effects.append(Commit(certificate, self._blocks.finalize(certificate)))

    # Proposals: rules 1 and 2.

    def _on_proposal(self, message: Propose | Repropose) -> None:
        proposal = message.proposal
        if proposal.epoch != self.epoch or self.is_finished:
            return
        if isinstance(message, Propose):
            self._take_wanted(message.block)
        here = self._views.find(proposal.view)
        if proposal.view < self.view or (here is not None and here.proposal is not None):
            return
        self._validation.validate_proposal(message)
        for certificate in (get_parent_certificate(message), *get_nullifications(message)):
            if certificate is not None and certificate.epoch == self.epoch:
                self._take_certificate(certificate)  # which may lead to its view
        if self.view <= proposal.view <= self.view + VIEW_WINDOW:
            self._views[proposal.view].proposal = message
            if isinstance(message, Propose):
                self._blocks.add(message.block)

    def _take_wanted(self, block: Block) -> None:
        if self._blocks.is_requested(block.id):
            if self._validation.is_authentic(block):
                self._blocks.add(block)
                self._commit()
            else:
                self._effects.append(Reject("block: altered under its header"))
