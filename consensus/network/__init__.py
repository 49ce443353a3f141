"""How validators and followers talk: direct streams inside the committee, gossip among all.

``committee_streams`` carries proposals, votes and certificates; ``compact_blocks`` keeps large proposals small;
``gossip`` publishes operations, blocks and finality in batches and limits what is taken of others; ``forwarding`` tells
the leader of operations before that; ``ingress`` gets operations of others into the mempool; ``fair_queue`` lets
sources take turns at one event loop. They may be read in any order, beginning with ``gossip``, whose batch the others
use.

Imported by the driver, the receiver, the engine and ``sync``. Nothing here knows how agreement works.
"""
