"""Attacks by executors, on who pays them."""
