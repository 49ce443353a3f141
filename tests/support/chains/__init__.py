"""Chains made with ``chain_builder``: with duels, checks and restarts, in stores, and forged."""
