"""Whether quality pays: judges, duels, and checks that a model is the one it claims to be.

1. ``judges``: how well models judge. ``ordering`` (``ordering_servers``, ``duel_outcomes``): whether duels order real
   models. ``duel_overhead``: what duels cost the users.
2. ``equilibrium`` (``stake_dynamics``, ``duel_conditions``) and ``incentives`` (``credit_order``): who earns what, on
   the real rules with players of known quality (``ledger_players``).
3. ``substitution`` (``substitution_servers``, ``check_histories``): how soon other weights are found;
   ``model_variants`` makes them.
"""
