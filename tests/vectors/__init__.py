"""Test vectors of docs/protocol.md: the JSON files here, and the program that makes them from the code."""
