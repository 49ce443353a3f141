"""HTTP/1.1 on trio: the front of the hot path, and the connections to backends.

Read in this order:

1. ``messages``: the head of a request, and the whole. ``access``: which hosts and web pages are answered. ``limits``:
   what clients may make the server hold. All pure.
2. ``server``: listens. ``connection``: one task per client connection, and one more that notices when the client
   leaves. ``request_reader``: what strangers send. ``responder``: how a handler answers. ``tls``: the certificate of a
   listener.
3. ``client``: the pool of connections to one server. ``idle_connections``: which of them to use again, and
   ``response_reader``: what the server answers; both pure.

``serving.backends`` imports the client; ``serving.api`` and ``node`` import the server; ``serving.admin`` imports
``access``.
"""
