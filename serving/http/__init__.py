"""HTTP/1.1 on trio and h11: the front of the hot path and the connections to backends."""
