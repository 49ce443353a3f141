"""The admin listener: what the owner sees of the running node, and the orders that it takes.

Read in this order:

1. ``node_view``: the parts of a node that this package reads.
2. ``troubles``: what can be wrong, and what mends it. ``health``: what is wrong with this node.
3. ``reports``: what a node says about itself, as plain data.
4. ``wallet_orders``: the owner's orders to the wallet, as a table.
5. ``policy_orders``: changes of the policy in force.
6. ``ledger``: the final chain, read-only.
7. ``server``: HTTP on loopback, with a table of routes; ``bodies`` and ``token`` are its helpers.
8. ``metrics``: the page for Prometheus, of what ``metric_catalogue`` lists.
9. ``connectivity``: pings, and a look at the network. ``observer``: what the node logs of its own accord.
10. ``openapi``: the document of the routes.

Only ``node`` and ``serving.dashboard`` import this package. ``serving.cli`` speaks to it over HTTP, and shares the
catalogue of troubles.
"""
