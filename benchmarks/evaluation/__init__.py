"""The evaluation: who gets a request, against other ways to decide it, on the same arrivals.

Read in this order:

1. ``workloads``: nodes with their hardware, arrivals, and lengths of answers, from a seed.
2. ``traces``: the same from recorded traffic.
3. ``replay``: the servers of a setting, and users who send the requests and wait.
4. ``baselines``: schedulers without a market: each on its own, a centre, perfect knowledge, the reference
   implementation.
5. ``market``: whole nodes of this project as the scheduler.
6. ``harness``: all of it over seeds, on all cores, with results kept.
7. ``attempts``: what the originators of a market did, offer by offer.
8. ``slo`` and the other programs: one claim each. ``processes`` compares simulated nodes with real ones.
"""
