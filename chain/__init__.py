"""The ledger as data: encoding, signatures, records, rules, storage, light client and audit. No network and no clock.

Everything here is deterministic: the same blocks give the same state on every node. Only ``store`` touches the disk,
and only ``keyfile`` and ``files`` other files.

Read in this order: ``codec`` and ``crypto`` (one encoding, one verifier), ``types`` (what is signed), ``merkle`` (what
a root commits to), ``state``, ``parameters`` and ``genesis`` (with ``json_form``), ``transition`` (the rules), then
``light``, ``store``, ``audit`` and ``cli``.

Each of these imports only those before it. ``consensus``, ``serving`` and ``node`` import any of them; ``p2p`` only
``codec``, ``crypto``, ``exceptions`` and ``files``.
"""
