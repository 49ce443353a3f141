"""The chain on disk: blocks, certificates, indexes, the state, and a snapshot on its way in.

1. ``kv``: an ordered map of bytes with atomic batches, in LevelDB or in memory.
2. ``layout``: the keys of all entries.
3. ``account_index``: what happened to each account, for those who look at the chain; ``index_builder``: making it.
4. ``reader``: what can be asked of the final chain.
5. ``snapshot_import``: a snapshot that arrives beside the state in use.
6. ``writer``: append a block, prune old ones, adopt a snapshot.

Only this package opens the database. ``audit``, ``chain.cli``, ``consensus`` and the layers above import it.
"""
