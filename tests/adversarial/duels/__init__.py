"""What cheating in duels and checks of the model gains, played on the ledger of the real state machine.

Each module holds one family of strategies as ``STRATEGIES`` (:class:`~tests.adversarial.duels.strategy.Strategy`).
``tests/adversarial/quality/test_duel_strategies.py`` demands that none gains over honesty, or that the reason to accept
it is given, and ``make attacks`` prints all as one table beside what the simulation said that the rules were chosen by.
"""
