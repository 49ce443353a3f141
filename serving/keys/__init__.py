"""Keys of the API: who may use it, for which models, how fast, and for how much credit.

In the order in which a request meets it:

===================  ====================================================================================
``records``          what is kept of a key: its name, its digest and its limits; never the key itself
``rates``            requests and tokens a minute, and requests at a time (pure)
``budget``           a budget that no crash overruns (pure)
``usage``            what each key used on each day
``keyring``          all of it for the keys of one node, on its store
``charged_request``  what one request costs its key, also if its user leaves before the answer
===================  ====================================================================================
"""
