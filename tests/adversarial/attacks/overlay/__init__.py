"""Attacks by peers on connections, streams, discovery, relays and failure detection."""
