"""The dashboard: the node's face in a browser, at the address of the admin listener.

Read in this order:

1. ``sessions``, ``ended_sessions``: who looks, by one-time codes and sessions.
2. ``history``, ``block_log``: what is remembered for the charts, the list of blocks and the picture of the network.
3. ``views``: the sections of the page's live data, and who may see them.
4. ``events``: sections to any number of viewers, each computed at most once a second.
5. ``replay``: what another policy would have done.
6. ``chat``: a chat completion for the page.
7. ``files``: the page itself, with the headers that confine it.
8. ``pages``: the routes.
9. ``public``: the public's part of it at an address of its own.

The page is hand-written ES modules in ``static/``, which run as they are. ``static/vendor.js`` is the four libraries
that they use, in one file; ``vendor/`` has what it is made from, and ``make vendor`` makes it. Only ``node`` imports
this package.
"""
