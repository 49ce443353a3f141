"""The demonstration: four nodes on this machine, each with a real small model.

``demo`` is the demonstration; ``node_process`` starts a node as a user starts it. Tests and benchmarks use
``node_process`` too.
"""
