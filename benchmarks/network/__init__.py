"""Many nodes: membership under churn (``overlay``), a newcomer's first request (``newcomer``), and how much faster than
the clock the simulation runs (``simulation``), in whose world the others run too.
"""
