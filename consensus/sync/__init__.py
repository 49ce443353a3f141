"""Block sync: how a node that joined late, or was away, gets what gossip did not bring it.

Read ``messages`` first (requests and responses), then ``client`` (pulling blocks) and ``server`` (answering). ``peers``
says whom to ask, ``snapshot`` fetches a state in place of the blocks before it, and ``download`` writes the chain of a
running node to a file, for an audit elsewhere.

Nothing that comes is believed before it was checked. Imported by the engine, and by ``node`` for the download.
"""
