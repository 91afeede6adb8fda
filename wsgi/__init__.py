"""Inlet's server side: what a deployment runs.

To follow one record from its request to its entry ID, read six modules in this order:

1. ``wsgi.server.turn``          calls the application for every request that is ready, then iterates every answer
2. ``wsgi.receivers.pipeline``   one request: receive, append, and an answer that waits for the commit
3. ``wsgi.receivers.native``     the body -> lines and rejections
4. ``inlet.stream.record``       one record: validate and encode
5. ``wsgi.sink.lane``            lines of the open batch -> a commit
6. ``wsgi.sink.flight``          a commit -> XADD -> entry IDs

Before them, ``wsgi.server.connection`` turns bytes into a request. Beside them: ``wsgi.sink.batches`` appends lines to
a lane, ``wsgi.sink.batch`` is a batch's data, ``wsgi.sink.circuit`` decides whether records may be taken now,
``wsgi.sink.link`` and what it uses is the connection to the store,
``wsgi.problems`` is the table of every refusal, ``wsgi.store`` runs the embedded store, and ``wsgi.settings`` reads the
environment. ``app.py`` puts the parts together.
"""
