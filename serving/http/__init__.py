"""HTTP/1.1 on trio and h11: the front of the hot path, and the connections to backends.

Read in this order:

1. ``messages``: the head of a request, and the whole. ``access``: which hosts and web pages are answered. ``limits``:
   what clients may make the server hold. All pure.
2. ``server``: one task per client connection, and one more that notices when the client leaves. ``responder``: how a
   handler answers. ``tls``: the certificate of a listener.
3. ``client``: the pool of connections to one server.

``serving.backends`` imports the client; ``serving.api`` and ``node`` import the server; ``serving.admin`` imports
``access``.
"""
