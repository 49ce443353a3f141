"""``wwwserve doctor``: what is wrong with a node, running or not, and what mends it.

``checks`` has a function for each subject, and ``backend_checks`` what backends are asked. ``command`` runs them all
and prints what they found.

Only ``serving.cli.app`` imports this package.
"""
