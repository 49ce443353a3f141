"""What the tests and the benchmarks share. No module here is a test, and none imports a test or a benchmark.

Begin with what has no state: ``keys``, ``waiting``, ``ports``, ``openai_answers``. Then, from the ledger upwards:

- ``chain_builder`` makes chains and their operations; ``chains`` has what is made with it: chains with duels, checks
  and restarts, chains in stores, and forgeries of one. ``strategies`` is a market on the ledger alone;
- ``agreement`` runs the core of consensus alone, on an event queue; ``consensus_world`` runs engines;
- ``discovery_world`` runs nodes of the overlay, ``market_world`` whole nodes with scripted backends, both on a network
  in memory and in simulated time; ``market`` has what such nodes meet: cheating payers and executors, faults, duels;
  ``solo_node`` runs one node, ``http_front`` the HTTP server, ``hosts`` and ``proxy`` libp2p hosts, in real time;
- ``forked`` starts processes, ``fake_backend`` is a backend, and ``cluster`` a network of both; ``ledgers`` reads what
  such a network has on its disks; ``servers`` has servers of models, real and pretended.
"""
