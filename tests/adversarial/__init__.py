"""Adversaries, one file each, in rooms by what they are or attack.

- ``voters`` and ``leaders``: validators that lie, keep back, or speak in the names of others;
- ``operations``: accounts that flood the mempool, or race for what is in it;
- ``crashes``: nodes that die at a write, and damage to what is on their disks;
- ``sync``: peers that lie about the past; ``overlay``: peers that abuse connections, streams and gossip;
- ``market``: executors, payers and backends; ``quality``: parties of duels, and of checks of the model;
- ``attacks`` and ``duels``: tables of attacks on a node, and of strategies in duels, with what each gains.
"""
