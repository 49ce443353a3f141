"""Commands to the node that runs in a data directory.

``admin_client`` sends their requests over the node's Unix socket. ``owner`` (with the pure ``status``) shows how the
node is, ``wallet`` its account, ``policy`` whom it serves; ``keys`` keeps its API keys; ``ask`` asks it as a user does;
``dashboard`` opens its page.

``serving.cli.app`` and ``serving.cli.doctor`` import this package; ``serving.daemon`` prints what ``status`` describes.
"""
