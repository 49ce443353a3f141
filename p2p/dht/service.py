"""The rendezvous: the first contact, through a hash table of strangers (:mod:`p2p.dht.kademlia`).

Whoever knows the genesis file and one server of the table, of this network or any other, finds the rest. Nodes that
others can dial announce themselves there as providers of a key made from the chain id. A node with fewer than
:data:`FEW` members of its network among its connections looks the key up, and what it finds is dialled like peers
remembered from an earlier run: only as long as too few others are known.

It is quiet when nothing is needed: a record is renewed every few hours, and lookups that do not help become rare.
Strangers learn from a record what its node announces to everybody on the network anyway; from a lookup that somebody at
this IP address is interested in the key. Nodes that hide take no part: they do not run this service, and the network
refuses them its visits.

A node that others can dial is also a server, for any key, within bounds. Servers are visited (``Network.visit``) and do
not become neighbours. Those strangers that connect to this node, and suggested peers that turn out not to be of this
network, do not count as connections, and are cut off when they are silent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import trio

from chain.crypto import format_address
from p2p.dht.kademlia import (
    ALPHA,
    MAX_KEY,
    MIN_KEY,
    Contact,
    K,
    Kind,
    Lookup,
    Message,
    ProviderStore,
    RoutingTable,
    get_rendezvous_key,
)
from p2p.dht.messages import (
    MAX_MESSAGE,
    PROTOCOL,
    WireMessage,
    clean_address,
    decode_answer,
    decode_question,
    encode,
)
from p2p.discovery.service import Discovery
from p2p.length_prefixed import MalformedMessage, MessageStream
from p2p.network import Misbehaviour, Network, NetworkError, RawStream
from p2p.rate_limit import Limiter, Rate
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

FEW = 3
"""Members of the network, among the connections, below which others are looked up."""
CHECK_INTERVAL = 3.0
"""Mean seconds between looks at whether something is to be done."""
PROVIDE_INTERVAL = 4 * 3600.0
"""Mean seconds between renewals of this node's records; they hold for 24 hours here, elsewhere at least as long."""
ENOUGH = 5
"""Servers that hold its record, below which a node tries again sooner."""
RETRY, MAX_LOOKUP_RETRY = 5.0, 3600.0
"""Mean seconds before the second lookup, and at most between lookups; doubled each time. Likewise for records."""
QUESTION_TIMEOUT = 10.0
LOOKUP_TIMEOUT = 60.0
"""Seconds for one question, and for all of a lookup."""
READ_TIMEOUT = 15.0
"""Seconds that a stream may wait for the next question."""
MAX_STREAMS = 32
MAX_STREAMS_PER_PEER = 4
"""Streams that are answered at a time: in all, and of one peer."""
PEER_RATE = Rate(items=5, size=1 << 16, burst=10.0)
TOTAL_RATE = Rate(items=50, size=1 << 19, burst=10.0)
"""Questions and bytes a second that are looked at: of one peer, and of all."""
STRANGER_PATIENCE = 60.0
"""Seconds of silence after which the connection to a stranger is closed."""
MAX_STRANGERS = 4096


class Rendezvous:
    """The service of one node. ``servers`` are (public key, multiaddress) pairs of servers for the first contact."""

    def __init__(
        self,
        network: Network,
        discovery: Discovery,
        runtime: Runtime,
        chain_id: bytes,
        servers: Sequence[tuple[bytes, str]] = (),
    ) -> None:
        self.key = get_rendezvous_key(chain_id)
        self.table = RoutingTable(network.me)
        self.records = ProviderStore(self.key)
        self.questions = 0
        """Questions asked so far."""
        self._network = network
        self._discovery = discovery
        self._runtime = runtime
        known: dict[bytes, tuple[str, ...]] = {}
        for peer, address in servers:
            known[peer] = (*known.get(peer, ()), address)
        self._servers = [Contact(peer, addresses) for peer, addresses in known.items() if peer != network.me]
        self._limiter = Limiter(PEER_RATE, TOTAL_RATE)
        self._streams: Counter[bytes] = Counter()
        self._suggested: dict[bytes, tuple[str, ...]] = {}
        self._strangers: dict[bytes, float] = {}  # and when they were last heard of

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; the network must be running, and discovery."""
        self._network.handle(PROTOCOL, self._serve)
        self._discovery.is_outsider = lambda peer: peer in self._strangers or peer in self._suggested
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_provided)
            nursery.start_soon(self._keep_company)
            nursery.start_soon(self._keep_strangers_away)
            task_status.started()

    # What this node wants

    async def find(self) -> dict[bytes, tuple[str, ...]]:
        """Peers that provide the key of this chain, as far as strangers say, and where they can be dialled."""
        lookup = await self._look_up(Kind.GET_PROVIDERS)
        return {provider.peer: provider.addresses for provider in lookup.providers()}

    async def provide(self) -> int:
        """Have the servers nearest to the key record this node. Returns how many confirm that they have."""
        me = Contact(self._network.me, self._get_addresses())
        confirmed: list[bytes] = []
        nearest = (await self._look_up(Kind.FIND_NODE)).closest()
        limit = trio.CapacityLimiter(ALPHA)

        async def leave_record(server: Contact) -> None:
            async with limit:
                answer = await self._ask(
                    server,
                    Message(Kind.ADD_PROVIDER, self.key, providers=(me,)),
                    # Servers do not answer the first. Whoever names us in answer to the second has us.
                    Message(Kind.GET_PROVIDERS, self.key),
                    named=True,
                )
                if answer is not None and any(provider.peer == me.peer for provider in answer.providers):
                    confirmed.append(server.peer)

        async with trio.open_nursery() as nursery:
            for server in nearest:
                nursery.start_soon(leave_record, server)
        return len(confirmed)

    async def _keep_provided(self) -> None:
        """Provide as soon as others can dial this node, when its addresses change, and now and then."""
        said: tuple[str, ...] = ()
        due, tries = 0.0, 0
        while True:
            await trio.sleep(CHECK_INTERVAL * self._runtime.random.uniform(0.5, 1.5))
            addresses = self._get_addresses() if self._network.can_be_dialled() else ()
            if not addresses or not self._get_seeds():
                continue
            if addresses != said:
                said, due, tries = addresses, 0.0, 0
            if trio.current_time() >= due:
                confirmed = await self.provide()
                logger.info("the hash table has this node's addresses at %d servers", confirmed)
                delay = PROVIDE_INTERVAL if confirmed >= ENOUGH else min(RETRY * 2.0**tries, PROVIDE_INTERVAL)
                tries = min(tries + 1, 16)
                due = trio.current_time() + delay * self._runtime.random.uniform(0.75, 1.25)

    async def _keep_company(self) -> None:
        """Look others up while there are too few, more and more seldom."""
        due, tries = 0.0, 0
        while True:
            await trio.sleep(CHECK_INTERVAL * self._runtime.random.uniform(0.5, 1.5))
            if len(self._discovery.members()) >= FEW:
                due, tries = min(due, trio.current_time() + RETRY), 0
            elif trio.current_time() >= due and self._get_seeds():
                found = await self.find()
                logger.info("the hash table names %d peers", len(found))
                self._suggested = found
                self._discovery.suggest(found)
                delay = min(RETRY * 2.0**tries, MAX_LOOKUP_RETRY)
                tries = min(tries + 1, 16)
                due = trio.current_time() + delay * self._runtime.random.uniform(0.75, 1.25)

    def _get_addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled, in the forms that others take; none if nobody can."""
        if self._network.can_be_dialled() is False:
            return ()
        usable = (clean_address(address, self._network.me) for address in self._network.listen_addresses)
        return tuple(address for address in usable if address is not None)

    # Asking

    def _get_seeds(self) -> list[Contact]:
        """Servers to begin with: the owner's, those that answered before, members of the network that can be dialled.

        And those that left records here: they are servers too, as a rule, and this is how one hears of new ones.
        """
        members = (self._discovery.view.find(peer) for peer in self._discovery.members())
        near = [Contact(known.peer, known.addresses) for known in members if known is not None and known.addresses]
        return [*self._servers, *self.table.closest(self.key), *near[:K], *self.records.latest(K)]

    async def _look_up(self, kind: Kind) -> Lookup:
        """Ask from server to server, from the nearest that are known to the nearest that there are."""
        lookup = Lookup(self._network.me, self.key, self._get_seeds(), always=self._servers)
        changed = trio.Event()
        under_way = 0

        async def ask(server: Contact) -> None:
            nonlocal changed, under_way
            answer = await self._ask(server, Message(kind, self.key))
            if answer is None:
                lookup.failed(server.peer)
            else:
                lookup.answered(server.peer, answer.closer, answer.providers)
            under_way -= 1
            changed.set()

        with trio.move_on_after(LOOKUP_TIMEOUT):
            async with trio.open_nursery() as nursery:
                while True:
                    while under_way < ALPHA and (server := lookup.next()) is not None:
                        under_way += 1
                        nursery.start_soon(ask, server)
                    if not under_way:
                        break
                    await changed.wait()
                    changed = trio.Event()
        return lookup

    async def _ask(self, server: Contact, *questions: Message, named: bool = False) -> Message | None:
        """The answer to the last of some questions, of its kind; None if there is none."""
        self.questions += len(questions)
        kind = questions[-1].kind
        try:
            with trio.fail_after(QUESTION_TIMEOUT):
                async with self._network.visit(server.peer, server.addresses, PROTOCOL, named=named) as raw:
                    stream = MessageStream(raw, MAX_MESSAGE)
                    for question in questions:
                        await stream.send_message(encode(question))
                    answer = decode_answer(await stream.receive_message(WireMessage))
                    while answer.kind is not kind and answer.kind in (question.kind for question in questions):
                        answer = decode_answer(await stream.receive_message(WireMessage))  # some echo a new record
        except (NetworkError, trio.TooSlowError) as error:
            logger.debug("no answer from the server %s: %s", format_address(server.peer), error)
            self.table.remove(server.peer)
            return None
        if answer.kind is not kind:
            return None
        self.table.add(server, trio.current_time())
        return answer

    # Answering

    async def _serve(self, stream: RawStream) -> None:
        """Answer the questions on one stream.

        Raises:
            NetworkError: the stream broke, or this node does not serve, or no more.
        """
        peer = stream.peer
        if self._network.can_be_dialled() is False:
            raise NetworkError("a node that nobody can dial is no server")
        if self._streams.total() >= MAX_STREAMS or self._streams[peer] >= MAX_STREAMS_PER_PEER:
            raise NetworkError("too many streams of the hash table are open")
        self._streams[peer] += 1
        try:
            await self._converse(MessageStream(stream, MAX_MESSAGE), peer)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _converse(self, stream: MessageStream, peer: bytes) -> None:
        while True:
            self._note_stranger(peer)
            with trio.move_on_after(READ_TIMEOUT):
                if await stream.is_at_end():
                    return
                try:
                    message = await stream.receive_message(WireMessage)
                    if not self._limiter.admit(peer, message.ByteSize(), trio.current_time()):
                        raise NetworkError("too many questions")
                    question = decode_question(message, peer)
                except MalformedMessage:
                    self._network.report_misbehaviour(peer, Misbehaviour.GARBAGE)
                    raise
                answer = self._answer(question, peer)
                if answer is not None:
                    await stream.send_message(encode(answer))
                continue
            raise NetworkError("no question came")

    def _answer(self, question: Message, asker: bytes) -> Message | None:
        """What to say, if anything.

        Raises:
            NetworkError: the question is not one that is answered here.
        """
        if question.kind is Kind.PING:
            return Message(Kind.PING)
        if question.kind is Kind.PUT_VALUE or not MIN_KEY <= len(question.key) <= MAX_KEY:
            raise NetworkError("values are not kept, and keys have 2 to 80 bytes")
        now = trio.current_time()
        if question.kind is Kind.ADD_PROVIDER:
            for provider in question.providers:
                if provider.addresses:
                    self.records.add(question.key, provider, now)
            return None
        closer = [server for server in self.table.closest(question.key, K + 1) if server.peer != asker][:K]
        providers: list[Contact] = []
        if question.kind is Kind.GET_PROVIDERS:
            mine = [Contact(self._network.me, self._get_addresses())] if question.key == self.key else []
            providers = [*mine, *self.records.find(question.key, now)]
        return Message(question.kind, question.key, tuple(closer), tuple(providers))

    # Strangers

    def _note_stranger(self, peer: bytes) -> None:
        if len(self._strangers) < MAX_STRANGERS:
            self._strangers[peer] = trio.current_time()

    async def _keep_strangers_away(self) -> None:
        """Forget those that are gone, and close the connections of those that want nothing any more."""
        servers = {server.peer for server in self._servers}
        while True:
            await trio.sleep(STRANGER_PATIENCE / 2)
            connected, now = self._network.peers(), trio.current_time()
            for peer in sorted(self._suggested.keys() & connected):
                self._strangers.setdefault(peer, now)
            for peer, heard in list(self._strangers.items()):
                if now - heard < STRANGER_PATIENCE:
                    continue
                del self._strangers[peer]
                if peer in connected and peer not in servers and self._discovery.view.find(peer) is None:
                    if self._suggested.pop(peer, None):
                        self._discovery.suggest(self._suggested)
                    await self._network.disconnect(peer)
