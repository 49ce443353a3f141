"""What users of the API meet: the cost of a node, faults of backends, and floods.

``first_answer`` is a newcomer's first minutes. ``gateway`` and ``first_token`` measure what a node adds to a request,
``failover`` what becomes of requests that meet a fault, and ``floods`` what attackers (``flooding``, ``flood_kinds``)
do to honest users. ``load`` sends HTTP requests.
"""
