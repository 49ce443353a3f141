"""Commands that measure the owner's own backend: ``judge`` and ``calibrate``.

``judge`` shows how well it judges (``judge_run`` asks it), and the prompt that it is given; ``calibrate`` finds the
thresholds of the same-model check.

Only ``serving.cli.app`` imports this package.
"""
