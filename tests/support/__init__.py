"""What the tests and the benchmarks share. No module here is a test, and none imports a test or a benchmark.

Begin with what has no state: ``keys``, ``waiting``, ``ports``, ``openai_answers``. Then, from the ledger upwards:

- ``chain_builder`` makes chains and their operations; ``restarted_chain``, ``stored_chain`` and ``forgeries`` use it;
- ``agreement`` runs the core of consensus alone, on an event queue, with ``agreement_ledger``, ``memory_file``,
  ``committee``, ``scenarios``, ``conspirator`` and ``checkers``; ``consensus_world`` and ``sync_world`` run engines;
- ``discovery_world`` runs nodes of the overlay, ``market_world`` whole nodes with scripted backends (``cheating_payer``
  offers to them by hand, ``cheating_executor`` answers them), both on a network in memory and in simulated time;
  ``solo_node`` runs one node, ``http_front`` the HTTP server, ``hosts`` and ``proxy`` libp2p hosts, in real time;
- ``forked`` starts processes, ``fake_backend`` is a backend, and ``cluster`` a network of both; ``ledgers`` reads what
  such a network has on its disks.
"""
