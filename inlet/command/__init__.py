"""The ``inlet`` command. ``main`` dispatches to one module a command; they share ``common`` and ``output``."""
