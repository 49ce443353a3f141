"""Attacks on the HTTP API of a node, and on the terminal, log and files of its owner."""
