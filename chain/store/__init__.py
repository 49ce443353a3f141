"""The chain on disk: blocks, certificates, indexes, the state, and a snapshot on its way in.

Read ``kv`` (a map of bytes with atomic batches, and LevelDB), ``layout`` (the keys), ``reader``,
``snapshot_import``, then ``writer``: append, prune, adopt a snapshot.

Only this room touches the database. ``audit``, ``consensus`` and ``node`` import it.
"""
