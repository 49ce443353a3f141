"""Stand-ins for the outside world, as real servers and as objects."""
