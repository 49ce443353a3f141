"""A market of strategies on the ledger alone."""
