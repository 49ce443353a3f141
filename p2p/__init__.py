"""The overlay: identity, host, gossip, streams, discovery, reachability. Knows no ledger and no language model."""
