"""Simplex agreement as a state machine without I/O: messages in, effects out.

Read ``core`` first: its docstring is the whole protocol. Then ``messages`` (what travels, and what the driver is asked
to do), ``validation`` (what makes a message valid), ``views`` (votes and certificates by view), ``pending_blocks``
(which block to execute or to fetch next), ``view_timer`` (how long a view may take), ``replies`` (what those that are
behind are sent), and ``equivocation`` (who signed two votes that exclude each other).

Nothing here reads a clock, a disk or a network. Imported by the driver and what serves it, and by tests that run whole
committees in simulated time.
"""
