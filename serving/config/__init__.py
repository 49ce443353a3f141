"""The configuration of a node: ``config.yaml``, the data directory around it, and what is built from it.

Read in this order:

1. ``schema``: every key, with its type, bounds, default and comment; those of the policy are in ``policy``, those of
   backends in ``models``. Nothing else defines a key. ``fields`` has their types and checks.
2. ``file``: reads the file, with errors that name file, line and key, and writes the commented default.
3. ``yaml_marks``: YAML that remembers its line numbers, for those errors.
4. ``build``: backends, policy and network as a configuration describes them.
5. ``edit``: other values for single keys, with all comments kept.
6. ``data_directory``: names of the files in a data directory, and its lock.

``serving.cli`` and ``node`` import this package; ``serving.admin`` takes the base of its requests' bodies from it. The
parts of a node do not import it: they are given their settings, and read no configuration.
"""
