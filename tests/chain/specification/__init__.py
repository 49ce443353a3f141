"""docs/protocol.md as a program: the ledger once more, written from the document and not from the code.

It imports nothing of the packages, and is naive on purpose: the state is a dict, which is copied before each operation,
and a root is computed from all entries. Names are those of the document. Read in this order:

- ``notation``: sections 1 to 4, what a record is and how it is encoded, hashed and signed;
- ``merkle``: sections 6.3 to 6.5, the roots of lists, histories and states, and their proofs;
- ``ledger``: sections 5 and 6.6, the state, and that of a genesis;
- ``blocks``: sections 6.1, 6.2 and 6.7, which blocks are valid and what they do;
- ``operations``: sections 7.1, 7.2 and 10, inclusion, fees, credit, service, registration;
- ``payments``: sections 7.3 and 7.4, hold, capture, release, dispute;
- ``duels``: section 7.7, from the draw to the settlement;
- ``validators``: sections 7.5, 7.6, 8.1 and 8.2, the registry, evidence, certificates;
- ``epochs``: sections 8.3 to 8.6, participation, the end of an epoch, rounds;
- ``draws``: sections 9.3 to 9.6, leaders, serving tables, executors, who takes part in a duel;
- ``answers``: section 19.1, the completion bytes of an answer.

``tests/chain/test_vectors.py`` executes the vectors with it, ``tests/chain/transition/test_stateful.py`` random
histories. Restart blocks (section 11) are not executed.
"""
