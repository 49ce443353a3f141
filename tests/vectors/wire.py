"""Vectors of the wire: frames, batches, messages of the committee, announcements, digests, offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chain.exceptions import CodecError
from chain.types.blocks import sign_proposal
from chain.types.operations import Delivery, Hold, Usage, compute_digest, compute_hold_id, sign_operation
from chain.types.votes import VoteKind
from consensus.network.compact_blocks import CompactPropose, reconstruct
from consensus.network.gossip import Batch, get_topic
from consensus.simplex.messages import COMPACT_KIND, FORWARDED_KIND, Propose, decode_message, encode_message
from consensus.sync.messages import GetBlocks, GetStatus, Request
from p2p.dht.kademlia import Kind as DhtKind
from p2p.dht.kademlia import Message, PeerInfo, get_dht_id, get_provider_key
from p2p.dht.messages import encode as encode_dht_message
from p2p.peers.announcement import (
    Announcement,
    ModelLoad,
    PeerLoad,
    decode_announcement,
    get_item_id,
    sign_announcement,
)
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.peers.suspect_message import sign_suspect_message
from p2p.streams.frames import Frame, FrameError, FrameReader, Kind
from serving.accounting.receipts import sign_receipt
from serving.offload import protocol as offers
from tests.support.chain_builder import START, Chain
from tests.support.keys import make_key
from tests.vectors.basics import CHAIN_ID
from tests.vectors.plain import Json, to_plain


def make_wire() -> Json:
    """All of it."""
    return {
        "description": "What goes over streams and gossip. Everything is as it is sent, without the transport.",
        "section": "14 to 19",
        "topics": [get_topic(CHAIN_ID, name) for name in ("ops", "blocks", "certs")],
        "frames": _list_frames(),
        "bad_frames": [{"why": why, "bytes": raw.hex()} for why, raw in _list_bad_frames()],
        "links": _list_link_items(),
        "requests": [{"value": to_plain(request), "encoded": request.encode().hex()} for request in _list_requests()],
        "announcements": _list_announcements(),
        "conversation": _make_conversation(),
        "dht": _make_dht(),
        "offers": _list_offers(),
    }


def _list_frames() -> list[Json]:
    frames = [
        Frame(Kind.DATA, 1, b"abc"),
        Frame(Kind.DATA, 2**32 - 1, b""),
        Frame(Kind.END, 1),
        Frame(Kind.WINDOW_UPDATE, 1, (131_072).to_bytes(4, "big")),
        Frame(Kind.RESET, 7, b"busy"),
    ]
    return [
        {
            "kind": frame.kind.name,
            "exchange": frame.exchange,
            "payload": frame.payload.hex(),
            "bytes": frame.encode().hex(),
        }
        for frame in frames
    ]


def _list_bad_frames() -> Iterable[tuple[str, bytes]]:
    cases = [
        ("DATA of 2^20 + 1 bytes, its header", bytes.fromhex("001000010000000001")),
        ("RESET of 257 bytes, its header", bytes.fromhex("000001010300000001")),
        ("kind 4", bytes.fromhex("000000000400000001")),
    ]
    for why, raw in cases:
        try:
            FrameReader().feed(raw)
        except FrameError:
            yield why, raw
        else:
            raise AssertionError(why)


def _list_link_items() -> list[Json]:
    chain = Chain(4, 1, name="wire")
    payer = chain.users[0]
    block = chain.append([chain.transfer(payer, payer, 1), chain.transfer(payer, payer, 2, nonce=1)])
    header = block.header
    proposal = sign_proposal(chain.keys[header.proposer], chain.genesis.chain_id, header.epoch, header.view, block.id)
    whole = Propose(proposal, block)
    stripped_block = replace(block, body=replace(block.body, operations=()))
    compact = CompactPropose(proposal, stripped_block, tuple(operation.id for operation in block.body.operations))
    assert reconstruct(compact, {operation.id: operation for operation in block.body.operations}) == whole
    vote, certificate = chain.vote(chain.validators[0], block), chain.certify(header, VoteKind.NOTARIZE)
    items = [
        (
            "operations for a leader",
            FORWARDED_KIND + Batch(tuple(each.encoded for each in block.body.operations)).encode(),
        ),
        ("a proposal", encode_message(whole)),
        ("a vote", encode_message(vote)),
        ("a certificate", encode_message(certificate)),
        ("the proposal with its operations by id", COMPACT_KIND + compact.encode()),
    ]
    for item in (items[1][1], items[2][1], items[3][1]):
        decode_message(item)
    return [
        {"what": "the genesis of all of these", "genesis": chain.genesis.encode().hex()},
        *({"what": what, "item": item.hex()} for what, item in items),
        {"what": "a frame of the vote and the certificate", "batch": Batch((items[2][1], items[3][1])).encode().hex()},
        {"what": "a gossip payload on 'blocks'", "batch": Batch((block.id + block.encoded,)).encode().hex()},
    ]


def _list_requests() -> list[Request]:
    return [Request(GetStatus()), Request(GetBlocks(1, 4 << 20))]


def _make_announcement(name: str, **changes: object) -> Announcement:
    key = make_key(name)
    said = Announcement(
        peer=key.public_key,
        incarnation=START,
        sequence=START + 5,
        leaving=False,
        addresses=("/ip4/192.0.2.1/tcp/4001",),
        relays=(),
        models=("smol",),
        load=PeerLoad((ModelLoad("smol", 1, 2, 4, 2_000_000, 30_500, 4_096, 5, 1, cache_tokens=26_384),)),
        expires_after=35_000,
        signature=bytes(64),
    )
    return sign_announcement(key, CHAIN_ID, replace(said, **changes))  # type: ignore[arg-type]


def _list_announcements() -> Json:
    good = [_make_announcement("peer 0"), _make_announcement("peer 0", leaving=True, sequence=START + 6, addresses=())]
    forged = replace(good[0], load=PeerLoad()).encode()
    try:
        decode_announcement(forged, CHAIN_ID)
    except CodecError:
        pass
    else:
        raise AssertionError("the signature holds")
    return {
        "chain_id": CHAIN_ID.hex(),
        "good": [{"value": to_plain(each), "encoded": each.encode().hex()} for each in good],
        "not_signed": forged.hex(),
    }


def _make_conversation() -> Json:
    """How a node with an empty table learns the peers that another knows."""
    present, left = (
        (_make_announcement("peer 0"), _make_announcement("peer 2")),
        _make_announcement("peer 1", leaving=True),
    )
    message = sign_suspect_message(make_key("peer 2"), CHAIN_ID, present[0])
    buckets, count = [0] * 4, 4
    for each in present:
        buckets[int.from_bytes(each.peer[:2], "big") % count] ^= int.from_bytes(get_item_id(each.encode()), "big")
    parts = bytes(number for number, value in enumerate(buckets) if value)
    said = [
        ("asks", SyncFrame(root=bytes(8))),
        ("asked", SyncFrame(buckets=b"".join(value.to_bytes(8, "big") for value in buckets))),
        ("asks", SyncFrame(bucket_numbers=parts, bucket_count=count)),
        (
            "asked",
            SyncFrame(
                announcements=tuple(AgedAnnouncement(each.encode(), 1_500) for each in (*present, left)),
                suspects=(message.encode(),),
            ),
        ),
    ]
    return {
        "what": "A node with an empty table asks one that knows two peers, one that left, and a suspect message.",
        "item_ids": {each.encode().hex(): get_item_id(each.encode()).hex() for each in (*present, left, message)},
        "suspect": {"value": to_plain(message), "encoded": message.encode().hex()},
        "frames": [{"from": name, "value": to_plain(frame), "encoded": frame.encode().hex()} for name, frame in said],
    }


def _list_offers() -> list[Json]:
    payer, executor = make_key("user 0"), make_key("validator 0")
    chain = Chain(1, 1, name="wire")
    salt, body = bytes(range(16)), b'{"model":"smol","messages":[],"max_tokens":8}'
    hold = Hold(executor.public_key, 2_000, 0, 0, 0, "smol", compute_digest(salt, body), 600_000)
    delivery = Delivery(
        compute_hold_id(payer.public_key, hold), 300, compute_digest(salt, b"answer"), Usage(len(body), 8), "stop"
    )
    chain_id = chain.genesis.chain_id
    messages: list[offers.Message] = [
        offers.Offer("/v1/chat/completions", len(body), salt, hold),
        offers.Accepted(False),
        offers.Declined("busy", 1_000),
        offers.Payment(sign_operation(payer, chain_id, hold)),
        offers.KeepAlive(True),
        offers.ResponseHead(200, "application/json", salt),
        offers.ResponseChunk(b"answer"),
        offers.Completed(delivery, offers.sign_delivery(executor, chain_id, delivery)),
        offers.Failed("the backend broke off"),
        offers.Receipt(sign_receipt(payer, chain_id, delivery)),
        offers.Resume(delivery.hold, 6),
    ]
    return [
        {"what": "the chain id and the body of the request", "chain_id": chain_id.hex(), "body": body.hex()},
        *({"value": to_plain(message), "frame": offers.encode_message(message).hex()} for message in messages),
    ]


def _make_dht() -> Json:
    key, peer = get_provider_key(CHAIN_ID), make_key("provider").public_key
    provider = PeerInfo(peer, ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001"))
    messages = [
        Message(DhtKind.FIND_NODE, key),
        Message(DhtKind.ADD_PROVIDER, key, providers=(provider,)),
        Message(DhtKind.GET_PROVIDERS, key),
        Message(DhtKind.GET_PROVIDERS, key, closer=(provider,), providers=(provider,)),
    ]
    return {
        "chain_id": CHAIN_ID.hex(),
        "key": key.hex(),
        "dht_id": f"{get_dht_id(key):064x}",
        "provider": peer.hex(),
        "addresses": list(provider.addresses),
        "messages": [
            {
                "kind": message.kind.name,
                "is_answer": bool(message.closer),
                "bytes": encode_dht_message(message).SerializeToString(deterministic=True).hex(),
            }
            for message in messages
        ],
    }
