"""What a node writes about itself.

``console`` takes the events of this program and of its libraries, and renders them as text or as JSON: on stderr, into
the log file (``file``), and for the dashboard (``recent``, pure). ``rate`` (pure) limits how many lines one event may
cause. ``events`` (pure) is the catalogue of what is logged.

``node``, ``serving.cli`` and ``serving.dashboard`` import this package.
"""
