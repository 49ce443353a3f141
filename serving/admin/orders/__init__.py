"""The orders that the owner may give to a running node.

``wallet_orders``: operations of the owner's account, as a table. ``policy_orders``: changes of the policy in force.
``key_orders``: API keys. ``bodies`` reads what comes with them.

Imported by the rest of ``serving.admin``.
"""
