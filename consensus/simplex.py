"""Simplex agreement, weighted by stake: the state machine of one validator in one epoch.

The protocol is that of Chan and Pass (Simplex, 2023). This text is the whole of it; the code below follows it from top
to bottom.

Words. An epoch is a run of heights with one frozen set of validators; its *views* are numbered from 1 and each has one
leader, drawn by stake. A *vote* is signed over (epoch, view, block id) and says notarize, nullify (which names no
block) or finalize. A *quorum* is more than 2/3 of the epoch's stake by distinct signers, in integers. Votes of a quorum
that say the same make a *certificate*: a notarization, a nullification, a finalization. The *tip* is the notarized
block of the latest view; view 0 stands for the final block that the epoch starts from. Since a quorum finalizes only
what a quorum notarized, a finalization counts wherever a notarization does.

Specification for view v
    1. The leader proposes a block of view v on its tip, of view p. The body proves the place: the notarization of the
       parent in p (for the epoch's first block, the finalization of the parent; none on genesis), and the
       nullifications of p+1 ... v-1. A proposal is valid if the leader of v signed it, that proof is complete, and the
       header agrees with it in epoch, view, height, parent and proposer.
    2. On the first valid proposal a validator has the block executed and, if it is good, sends notarize for it: once
       per view.
    3. A notarization of v, or of any later view, or a nullification of v enters the view after it. On a notarization
       a validator also sends finalize for it, unless it sent nullify in that view.
    4. A finalization makes its block and all its ancestors final.
    5. On timeout a validator sends nullify for v, unless it sent finalize in v, and repeats it at growing intervals
       together with the certificates by which it entered v. The timeout doubles with every nullified view, up to a
       cap, and falls back when a block becomes final. The timer runs only while there is something to agree about: work
       that the engine reports, a proposal in this view, or a tip that is not final.
       Each time it also repeats its finalize of views that are not final.
    6. Who sends nullify for a view that has ended, or repeats another vote in it, gets the certificates that end it
       and the latest finalization; from a validator whose timer rests, in the current view too. Certificates are
       broadcast once, by whoever gathers them from votes.

    Hence whoever is in v holds the notarization of some p < v and the nullifications of all views between, and can
    lead; and whoever verified a proposal for v is in v.

Epoch hand-over
    On a tip of the epoch's last height the only valid proposal is that very block, again and again in later views,
    with the same proof of its place, until it is final: its certificates may then carry a later view than its header.
    Nothing of the next epoch is signed before: its instance is made from the finalization of that block. Otherwise one
    faulty member of each committee could have two last blocks finalized by two next committees, with no two votes
    of anyone in conflict.

Slashable
    By one key in one view of one epoch: notarize for two blocks, finalize for two blocks, nullify and finalize.
    Nullify and notarize is honest. No honest validator ever signs such a pair, across crashes too: every vote is
    durable before it is sent, and an instance starts from the votes of its journal. Durable with a notarize is its
    block, and with a finalize the notarization it rests on, so that a crash of all at once loses nothing that might
    be final. A leader makes its own notarize durable before its proposal leaves, so it never proposes two blocks.

Safety (less than a third of the stake is faulty)
    Any two quorums share an honest validator. So one view has one notarized block; and a view with a finalization
    has no nullification. Let b be final in view v, and c notarized in a later view on a parent of view p. If p < v, c's
    proof would contain a nullification of v; so p = v and the parent is b, or p > v and the argument repeats with
    the parent. All that is notarized later descends from b, or is b again. No timing is assumed.

Liveness (messages arrive within a bound that some timeout exceeds)
    Votes of honest validators are a quorum. Who is behind is answered until it has caught up; a view with a silent
    leader is nullified by all; a view whose leader is honest and whose timeout is long enough is notarized by all
    before any of them nullifies, and so finalized.

The instance does no I/O and reads no clock: each input returns the effects that the engine must carry out in order
(:mod:`consensus.messages`). Without a key of the set it is an observer, which follows and answers but never votes.
When ``is_finished`` it only answers; keep it as long as validators may lag in its epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chain import crypto
from chain.blocks import Block, Proposal, sign_proposal
from chain.exceptions import InvalidBlock
from chain.validators import ValidatorSet
from chain.votes import NO_BLOCK, Certificate, Vote, VoteKind, sign_vote
from consensus.candidates import Candidates
from consensus.messages import (
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
    Send,
    SetTimer,
    StopTimer,
)
from consensus.proposals import FinalBlock, Rules
from consensus.views import FINALIZE, NOTARIZE, NULLIFY, View

VIEW_WINDOW = 16
"""How far ahead of the current view votes and nullifications are kept."""

MAX_ANSWER = 16
"""Certificates in one answer to a validator that is behind."""

MAX_ANSWERS = 8
"""Answers to one validator between two timeouts or changes of view here."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a view may take at first, and at most after doubling."""

    first: float = 1.5
    cap: float = 30.0


class Simplex:
    """One validator (or observer) in one epoch.

    Args:
        beacon: what the leaders of this epoch are drawn from.
        last_height: height of the epoch's last block.
        final: the last final block, of this epoch or the one the epoch starts from.
        key: signs votes if it is a member's; None or a stranger's makes an observer.
        previous_validators: who signed ``final.certificate`` if that is of the epoch before.
        votes, evidence: of this epoch, from the journal and from whatever ``PersistVote`` made durable.
        verify: checks signatures; replaceable so that one signature need not be checked twice.
    """

    def __init__(
        self,
        *,
        chain_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        beacon: bytes,
        last_height: int,
        final: FinalBlock,
        key: crypto.KeyPair | None,
        timeouts: Timeouts | None = None,
        previous_validators: ValidatorSet | None = None,
        votes: Iterable[Vote] = (),
        evidence: Iterable[Block | Certificate] = (),
        verify: Callable[[Iterable[crypto.Claim]], bool] = crypto.verify_all,
    ) -> None:
        self.chain_id, self.epoch, self.validators = chain_id, epoch, validators
        self.beacon, self.last_height = beacon, last_height
        self.timeouts = timeouts or Timeouts()
        self.has_work = False
        self._key = key if key is not None and key.public_key in validators else None
        self._me = b"" if self._key is None else self._key.public_key
        self._effects: list[Effect] = []
        self._candidates = Candidates(final, epoch, validators, self._effects)
        self._rules = Rules(
            chain_id=chain_id,
            epoch=epoch,
            validators=validators,
            beacon=beacon,
            last_height=last_height,
            root=final,
            previous_validators=previous_validators,
            verify=verify,
        )

        self.final_view = final.get_view(epoch)
        """The latest view with a finalization; its block becomes ``final`` as soon as it is held."""
        self._finalization = final.certificate if self.final_view else None
        self._tip, self._tip_id, self._tip_view = final.certificate, final.block_id, self.final_view
        self.view = self.final_view + 1
        self._views: dict[int, View] = {}
        self._is_timing = False
        self._retries = 0  # timeouts in this view
        self._nullified = 0  # views nullified since a block became final
        self._asked: tuple[int, bytes] | None = None  # view and parent of the last Build
        self._answers: dict[bytes, int] = {}

        # Own votes are in place before anything can be signed.
        for vote in votes:
            if vote.epoch == epoch and vote.view > self.final_view and vote.signer == self._me:
                self._get_view(vote.view).add(vote)
        self._evidence = tuple(evidence)

    # What the engine may ask.

    @property
    def final(self) -> FinalBlock:
        """The last final block that is held."""
        return self._candidates.final

    @property
    def leader(self) -> bytes:
        """Public key of the leader of the current view."""
        return self.validators.compute_leader(self.beacon, self.view)

    @property
    def is_finished(self) -> bool:
        """Whether the epoch's last block is final."""
        return self.final.height >= self.last_height

    @property
    def is_settled(self) -> bool:
        """Whether everything notarized is final, and the final block at hand."""
        pending = self._finalization is not None and self._finalization.block_id != self.final.block_id
        return self._tip_view <= self.final_view and not pending

    def get_block(self, block_id: bytes) -> Block | None:
        """A block that is not final yet, for whoever fetches it."""
        return self._candidates.get(block_id)

    # Inputs. Each returns the effects to carry out, in their order.

    def start(self) -> list[Effect]:
        """Take back what was durable, repeat the votes that may still count, and begin.

        Raises:
            InvalidBlock: the evidence is not what was made durable.
        """
        for evidence in self._evidence:
            if isinstance(evidence, Block):
                self._candidates.hold(evidence)
        own = self._get_open_votes()
        self._effects += [Broadcast(vote) for vote in own]
        for evidence in self._evidence:
            if isinstance(evidence, Certificate):
                self._on_certificate(evidence)
        for vote in own:
            self._count(vote)
        self._evidence = ()
        return self._act()

    def on_message(self, message: Message) -> list[Effect]:
        """Take a message from anyone. What is of another epoch, stale or known has no effect."""
        try:
            match message:
                case Vote():
                    self._on_vote(message)
                case Certificate():
                    self._on_certificate(message)
                case _:
                    self._on_proposal(message)
        except InvalidBlock as error:
            self._effects.append(Reject(str(error)))
        return self._act()

    def on_timeout(self, view: int) -> list[Effect]:
        """The timer of ``view`` rang: rule 5."""
        if view == self.view and self._is_timing:
            self._answers.clear()
            start = max(self._tip_view, view - MAX_ANSWER)
            self._effects += [Broadcast(certificate) for certificate in self._get_certificates(start)]
            self._effects += [Broadcast(vote) for vote in self._get_open_votes()]
            self._candidates.fetch_again()
            self._retries += 1
            self._is_timing = False
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
            InvalidBlock: it is not what was asked for.
        """
        here = self._get_view(self.view)
        if self._asked == (self.view, block.header.parent_id) and view == self.view and here.proposal is None:
            message = Propose(self._sign_proposal(block.id), block)
            self._rules.check_proposal(message)
            self._candidates.hold(block, is_valid=True)
            here.proposal = message
        return self._act()

    def on_checked(self, block_id: bytes, is_valid: bool) -> list[Effect]:
        """The verdict that a ``Check`` asked for."""
        self._candidates.settle(block_id, is_valid)
        return self._act()

    def on_block(self, block: Block) -> list[Effect]:
        """A block that a ``Fetch`` asked for; any other is ignored."""
        self._take_wanted(block)
        return self._act()

    # Acting: all that the current view allows.

    def _act(self) -> list[Effect]:
        acted = 0
        while self._key is not None and not self.is_finished and acted != self.view:
            acted = self.view  # voting may complete a certificate, which enters the next view
            self._lead()
            self._notarize()
        self._run_timer()
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def _lead(self) -> None:
        """Rule 1: propose on the tip; on a tip of the last height, propose it again."""
        here = self._get_view(self.view)
        if self.leader != self._me or here.proposal is not None:
            return
        if not self._candidates.is_valid(self._tip_id, self._tip):
            return
        if self._me in here.votes[NOTARIZE]:
            self._repeat_proposal(here)
        elif self._candidates.get_height(self._tip_id) == self.last_height:
            here.proposal = self._make_reproposal()
        elif self._asked != (self.view, self._tip_id):
            self._asked = (self.view, self._tip_id)
            nullifications = self._get_nullifications(self._tip_view + 1)
            self._effects.append(Build(self.view, self._tip_id, self._tip, nullifications))

    def _repeat_proposal(self, here: View) -> None:
        """Propose what we voted for before a restart, and nothing else."""
        block_id = here.votes[NOTARIZE][self._me].block_id
        block = self.get_block(block_id)
        if block is not None and block.header.view == self.view:
            here.proposal = Propose(self._sign_proposal(block_id), block)
        elif block_id == self._tip_id:
            here.proposal = self._make_reproposal()
        if here.proposal is not None:
            self._effects.append(Broadcast(here.proposal))

    def _make_reproposal(self) -> Repropose:
        assert self._tip is not None
        nullifications = self._get_nullifications(self._tip_view + 1)
        return Repropose(self._sign_proposal(self._tip_id), self._tip, nullifications)

    def _notarize(self) -> None:
        """Rule 2: vote for the proposal once it and all before it were checked."""
        message = self._get_view(self.view).proposal
        if message is None or not self._may_sign(NOTARIZE, self.view):
            return
        block_id = message.proposal.block_id
        if not self._candidates.is_valid(block_id, message.certificate if isinstance(message, Repropose) else None):
            return
        if isinstance(message, Propose) or self._candidates.get_height(block_id) == self.last_height:
            self._vote(NOTARIZE, self.view, block_id, self.get_block(block_id), message)

    def _run_timer(self) -> None:
        """Rule 5: time runs while there is something to agree about."""
        has_proposal = self.view in self._views and self._views[self.view].proposal is not None
        is_busy = self._key is not None and not self.is_finished
        is_busy = is_busy and (self.has_work or has_proposal or not self.is_settled)
        if is_busy != self._is_timing:
            self._is_timing = is_busy
            doublings = min(self._nullified + self._retries, 64)
            seconds = min(self.timeouts.cap, self.timeouts.first * 2.0**doublings)
            self._effects.append(SetTimer(self.view, seconds) if is_busy else StopTimer())

    # Signing.

    def _may_sign(self, kind: VoteKind, view: int) -> bool:
        """Whether a vote of ours would be of use and none of ours in ``view`` forbids it: see "Slashable"."""
        if self._key is None or view <= self.final_view or self.is_finished:
            return False
        return self._get_view(view).find_rival(kind, self._me) is None

    def _vote(
        self,
        kind: VoteKind,
        view: int,
        block_id: bytes,
        evidence: Block | Certificate | None = None,
        proposal: Propose | Repropose | None = None,
    ) -> None:
        assert self._key is not None and self._may_sign(kind, view)
        vote = sign_vote(self._key, self.chain_id, kind, self.epoch, view, block_id)
        self._effects.append(PersistVote(vote, evidence))
        if proposal is not None and proposal.proposal.leader == self._me:
            self._effects.append(Broadcast(proposal))
        self._effects.append(Broadcast(vote))
        self._get_view(view).add(vote)
        self._count(vote)

    def _sign_proposal(self, block_id: bytes) -> Proposal:
        assert self._key is not None
        return sign_proposal(self._key, self.chain_id, self.epoch, self.view, block_id)

    # Votes.

    def _on_vote(self, vote: Vote) -> None:
        kind = VoteKind(vote.kind)
        if vote.epoch != self.epoch or (vote.view > self.view + VIEW_WINDOW and not self.is_finished):
            return
        if vote.view < self.final_view or self.is_finished:
            if kind is not NOTARIZE:  # which may merely be late
                self._answer(vote)
            return
        here = self._get_view(vote.view)
        rival = here.find_rival(kind, vote.signer)
        if rival is not None and (rival.kind, rival.block_id) == (vote.kind, vote.block_id):
            self._answer(vote)  # a repetition: its signer is stuck
            return
        if rival is not None and vote.signer in here.conflicted:
            return
        self._rules.check_vote(vote)
        if rival is not None:
            here.conflicted.add(vote.signer)
            self._effects.append(Conflict(rival, vote))
            return
        here.add(vote)
        if kind is NULLIFY:
            self._answer(vote)
        self._count(vote)

    def _count(self, vote: Vote) -> None:
        """Gather the votes that say the same as ``vote`` into a certificate, if they are a quorum."""
        kind = VoteKind(vote.kind)
        if vote.view <= self.final_view or kind in self._get_view(vote.view).certificates:
            return
        certificate = self._get_view(vote.view).gather(vote, self.validators)
        if certificate is not None:
            self._rules.remember(certificate)
            self._effects.append(Broadcast(certificate))
            self._take_certificate(certificate)

    def _answer(self, vote: Vote) -> None:
        """Rule 6, a bounded number of times."""
        given = self._answers.get(vote.signer, 0)
        knows_more = vote.view < self.view or not self._is_timing
        if knows_more and vote.signer != self._me and given < MAX_ANSWERS:
            self._rules.check_vote(vote)
            self._answers[vote.signer] = given + 1
            self._effects += [Send(vote.signer, known) for known in self._get_certificates(vote.view)]

    def _get_certificates(self, start: int) -> list[Certificate]:
        """The latest finalization, and what leads from view ``start`` to the current one, oldest first."""
        found = [] if self._finalization is None else [self._finalization]
        if self._tip is not None and self._tip_view >= start and self._tip_view != self.final_view:
            found.append(self._tip)
        return [*found, *self._get_nullifications(max(start, self._tip_view + 1))][:MAX_ANSWER]

    def _get_nullifications(self, start: int) -> tuple[Certificate, ...]:
        """Those of the views from ``start``, which is later than the tip's, to before the current one."""
        return tuple(self._views[view].certificates[NULLIFY] for view in range(start, self.view))

    def _get_open_votes(self) -> list[Vote]:
        """Own votes that others may still need: those of this and later views, and finalize of earlier ones."""
        return [
            self._views[view].votes[kind][self._me]
            for view in sorted(self._views)[-2 * VIEW_WINDOW :]
            for kind in VoteKind
            if view > self.final_view and self._me in self._views[view].votes[kind]
            if view >= self.view or kind is FINALIZE
        ]

    # Certificates: rules 3 and 4.

    def _on_certificate(self, certificate: Certificate) -> None:
        kind, view = VoteKind(certificate.kind), certificate.view
        if certificate.epoch != self.epoch or view <= self.final_view or self.is_finished:
            return
        if kind is NULLIFY and not self._tip_view < view <= self.view + VIEW_WINDOW:
            return
        if view not in self._views or kind not in self._views[view].certificates:
            self._rules.check_certificate(certificate)
            self._take_certificate(certificate)

    def _take_certificate(self, certificate: Certificate) -> None:
        """What a certificate that holds means."""
        kind, view = VoteKind(certificate.kind), certificate.view
        if view <= self.final_view or kind in self._get_view(view).certificates:
            return
        self._get_view(view).certificates[kind] = certificate
        if kind is not NULLIFY and view > self._tip_view:
            self._tip, self._tip_id, self._tip_view = certificate, certificate.block_id, view
        if kind is NOTARIZE:
            self._candidates.reconsider(certificate.block_id)
        if kind is NOTARIZE and self._may_sign(FINALIZE, view):
            self._vote(FINALIZE, view, certificate.block_id, certificate)
        if kind is FINALIZE and view > self.final_view:
            self.final_view, self._finalization, self._nullified = view, certificate, 0
            self._views = {known: self._views[known] for known in self._views if known >= view}
            self._commit()
        if kind is not NULLIFY and view >= self.view:
            self._enter(view + 1)
        while self.view in self._views and NULLIFY in self._views[self.view].certificates:
            self._nullified += 1
            self._enter(self.view + 1)

    def _enter(self, view: int) -> None:
        self.view = view
        self._is_timing, self._retries = False, 0
        self._answers.clear()

    def _commit(self) -> None:
        """Rule 4, once the block is held."""
        certificate = self._finalization
        if certificate is None or certificate.block_id == self.final.block_id:
            return
        if self._candidates.get(certificate.block_id) is None:
            self._candidates.fetch(certificate.block_id, certificate)
        else:
            self._effects.append(Commit(certificate, self._candidates.finalize(certificate)))

    # Proposals: rules 1 and 2.

    def _on_proposal(self, message: Propose | Repropose) -> None:
        proposal = message.proposal
        if proposal.epoch != self.epoch or self.is_finished:
            return
        if isinstance(message, Propose):
            self._take_wanted(message.block)
        if proposal.view < self.view or (proposal.view in self._views and self._views[proposal.view].proposal):
            return
        self._rules.check_proposal(message)
        if isinstance(message, Propose):
            self._candidates.hold(message.block)
            parent, between = message.block.body.parent_certificate, message.block.body.nullifications
        else:
            parent, between = message.certificate, message.nullifications
        # Its proof leads to its view.
        for certificate in between if parent is None else (parent, *between):
            if certificate.epoch == self.epoch:
                self._take_certificate(certificate)
        if proposal.view == self.view:
            self._get_view(self.view).proposal = message

    def _take_wanted(self, block: Block) -> None:
        if self._candidates.is_wanted(block.id):
            if self._rules.is_authentic(block):
                self._candidates.hold(block)
                self._commit()
            else:
                self._effects.append(Reject("block: altered under its header"))

    def _get_view(self, view: int) -> View:
        found = self._views.get(view)
        if found is None:
            found = self._views[view] = View()
        return found
