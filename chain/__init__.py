"""The ledger as pure data: codec, operations, blocks, votes, state, store, verification. No network, no clock."""
