"""What a validator votes with: every vote is durable before it is sent, so that no crash makes it contradict itself.

Read ``journal`` first (the file of all own votes), then ``vote_support`` (the blocks and certificates that own votes
rest on), ``vote_store`` (both of them and the key), and ``lockout`` (when a validator that may have lost votes votes
again, and why that is safe). ``disk`` opens what a node keeps and puts in quarantine what is damaged.

Nothing here uses trio or the network: the callers run it in worker threads. Imported by the driver, the engine, and
the programs that open a node's data directory.
"""
