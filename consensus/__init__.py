"""Agreement: the Simplex core, the vote journal, the mempool, the engine and block sync."""
