"""Where answers are made: servers with an OpenAI-compatible API, and the small model inside this process.

Read in this order:

1. ``backend``: the interface, and how busy a backend can be.
2. ``openai_compatible``: any server over HTTP, probed for its life and load.
3. ``load_metrics``: from a server's metrics page to its load (pure).
4. ``embedded``: llama.cpp in this process.
5. ``sdk``: the ``openai`` SDK on any of them.

``serving.scheduling`` and what lies above it know the interface alone; ``serving.config`` builds the backends.
"""
