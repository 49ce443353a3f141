"""The admin listener: what the owner sees of the running node, and the orders that it takes.

Read in this order:

1. ``node_view``: the parts of a node that this package reads.
2. ``health``: what can be wrong, what mends it, and what is wrong with this node.
3. ``reports``: what a node says about itself, as plain data.
4. ``orders``: what the owner may change.
5. ``ledger``: the final chain, read-only; ``page_cache`` keeps what was asked for.
6. ``server``: HTTP on loopback, with a table of routes; ``levels`` and ``token`` say who may use which.
7. ``metrics``: the page for Prometheus, of what ``metric_catalogue`` lists.
8. ``connectivity``: pings, and a look at the network. ``observer``: what the node logs of its own accord.
9. ``openapi``: the document of the routes.

Only ``node``, ``serving.daemon`` and ``serving.dashboard`` import this package. ``serving.cli`` speaks to it over HTTP,
and shares the catalogue of troubles.
"""
