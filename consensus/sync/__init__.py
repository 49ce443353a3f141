"""Block sync: how a node that joined late, or was away, gets what gossip did not bring it.

1. ``messages``: requests and responses.
2. ``block_range``: checks the blocks that a peer sent; pure.
3. ``client``: pulls blocks. ``peers`` says whom to ask.
4. ``server``: answers requests.
5. ``snapshot``: fetches a state in place of the blocks before it.
6. ``download``: writes the chain of a running node to a file, for an audit elsewhere.

Everything that a peer sends is checked before it is used. The engine and the receiver import it, and ``serving.cli``
for the download.
"""
