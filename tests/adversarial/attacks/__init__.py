"""Attacks on money and liveness, each made on the real code, and what it brings its author.

The rooms are named after the attacker, ``payers`` and ``executors``, or after what is attacked: ``ledger``, ``overlay``
and ``machine``, which is the node's API and its owner's terminal and files. Each module holds one attack as ``ATTACK``
(:class:`~tests.adversarial.attacks.table.Attack`): the attack is carried out, and its outcome counted.
``tests/adversarial/test_attacks.py`` demands of each that nothing is gained by it, and ``make attacks`` prints them all
as one table beside what each brought before it was answered.
"""
