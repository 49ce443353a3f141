"""The overlay: how nodes find, reach and hear one another. It knows no ledger and no language model.

Reading order: ``network`` (the interface that everything above uses, and the misbehaviour of peers), ``addresses``,
``streams`` (requests and responses on pooled streams), ``ping``, ``peers`` (what is known of others; pure),
``discovery`` (what is done about it), ``host`` with ``nat`` (the interface on libp2p), ``simulation`` (the interface in
memory), ``dht`` (the first peers). What several of these use: ``limits`` (what a peer may take; pure), ``runtime``
(clock, chance, threads), ``fanout``, ``backoff``, ``length_prefixed``, ``peer_id``, ``closing``, ``owned_tasks``.

``consensus``, ``serving`` and ``node`` import this package. Of ``chain`` it uses only modules that know no ledger:
``codec``, ``crypto``, ``collections``, ``files`` and ``exceptions``. Only ``host``, ``nat`` and ``dht`` import libp2p,
in the modules that a lint contract lists.
"""
