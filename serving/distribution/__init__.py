"""How the program is built into a wheel.

``backend`` is what pip calls, ``launcher`` what an installed program begins with. The wheel has one top-level package,
``wwwserve``, which holds the packages of this repository and libp2p. Nothing at run time imports this package.
"""
