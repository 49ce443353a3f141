"""What a node writes about itself: events on stderr, one line each.

``console`` renders the events of this program and of its libraries, as text or as JSON. ``rate`` (pure) limits how many
lines one event may cause.

``node`` and ``serving.cli`` import this package.
"""
