"""The consumer library: read a stream as a consumer group, at least once (docs/consumers.md).

``reader``, ``aio``  the two readers, on ``base``; ``options`` what a caller can set
``session``          one consumer's life as ``steps`` that a reader performs
``handling``         what an exception of a handler leads to; ``deadletter`` the layout of a dead letter
``entries``          decoding; ``dedup`` leaving out duplicates
``notes``, ``scripts``       what is kept of failed attempts, and what the store does in one step
``readahead``, ``acks``, ``backoff``, ``names``  the session's decisions, pure
``export``, ``formats``  a group's records as files
"""
