"""The sink: takes records, and stores them in the stream (Redis Streams). It knows neither HTTP nor JSON.

Read in this order:

1.  ``durability``     the four levels by name
2.  ``batches``        append, and a request's place in its ``batch``
3.  ``lane``           the commits of one level: when a batch is sent, and what its outcome means
4.  ``link``           one connection and the flights on it; sends and reads without waiting
5.  ``flight``         a batch as Redis commands, and its outcome from their replies; ``spans`` splits it into entries
6.  ``wire``           the socket: bytes out, replies in
7.  ``driver``         connecting by redis-py (``connecting``: in a thread); its errors become SinkErrors
8.  ``waits``          WAIT and WAITAOF, for the levels above ``stored``, and when these cannot be reached
9.  ``circuit``        whether records may be taken now, and if not, why
10. ``watcher``        the thread that looks at the store; readiness
11. ``probe``          what it asks
12. ``backpressure``   samples of the store become refusals
"""
