"""The admin listener: what the owner sees of the running node, and the orders that it takes.

Read in this order:

1. ``node_view``: the parts of a node that this package reads.
2. ``reports``: what a node says about itself, as plain data.
3. ``wallet_orders``: the owner's orders to the wallet, as a table.
4. ``policy_orders``: changes of the policy in force.
5. ``ledger``: the final chain, read-only.
6. ``server``: HTTP on loopback, with a table of routes; ``bodies`` and ``token`` are its helpers.
7. ``metrics``: the page for Prometheus.

Only ``node`` imports this package. ``serving.cli`` speaks to it over HTTP.
"""
