"""``python -m consumer``: the command line. ``main`` dispatches, ``common`` holds what the commands share."""
