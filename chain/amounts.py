"""The unit of all amounts."""

CREDIT = 1_000_000
"""Micro-credits in a credit."""
