"""One node's part in agreement: carries out the effects of the core, and returns the results to it.

Read in this order: ``execution`` (a block on the state of its parent), ``proposer`` (when to build a block, and how),
``early_messages`` and ``message_checks`` (what is done with a message before the core sees it), then ``driver``, which
puts them together. ``environment`` is the interface of the program around it.

``driver`` does I/O only through the runtime, the store and the committee's streams that it is given.
``consensus.receiver`` and ``consensus.engine`` import this package.
"""
