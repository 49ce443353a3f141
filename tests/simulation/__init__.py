"""Deterministic simulations: one seed, one trace."""
