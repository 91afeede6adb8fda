"""Inlet's service. To follow one record from its socket to its entry ID, read in this order:

``worker`` (bytes -> WSGI request), ``commit`` (the answer waits for its batch), ``resources`` (one request),
``payload`` and ``record`` (body -> lines), ``sink`` (lines -> entry). ``routes`` ties them together.
"""
