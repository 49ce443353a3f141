"""What the node reads of OpenAI's API: pure functions and small state machines, without I/O.

Read in this order:

1. ``requests``: the few fields of a request that the node must know.
2. ``endpoints``: what a backend answers, and what is offloaded.
3. ``content``: the bytes of an answer that are paid for.
4. ``answers``: an answer, and its inspector, which reads usage, finish reason and errors in passing.
5. ``event_writer``: a whole answer as a stream, where a backend ignores that one was asked for.
6. ``errors``: errors in OpenAI's shape.

Every other package of ``serving`` may import this one, which imports none of them.
"""
