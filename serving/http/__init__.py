"""HTTP/1.1 on trio and h11: the front of the hot path, and the connections to backends.

Read in this order:

1. ``server``: one task per client connection, and one more that notices when the client leaves.
2. ``client``: the pool of connections to one server.

``serving.backends`` imports the client; ``serving.api`` and ``node`` import the server.
"""
