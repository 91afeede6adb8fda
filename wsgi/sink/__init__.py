"""The sink: takes records, and stores them in the stream (Redis Streams). It knows neither HTTP nor JSON.

Read in this order:

1. ``durability``     the four levels by name
2. ``batches``        append, and the commit that writes a whole ``batch``
3. ``spans``          where a batch is split into entries
4. ``link``           a commit as Redis commands, and their replies
5. ``driver``         one connection to the store; redis-py errors become SinkErrors
6. ``waits``          WAIT and WAITAOF, for the levels above ``stored``
7. ``circuit``        whether records may be taken now, and if not, why
8. ``watcher``        the thread that looks at the store; readiness
9. ``probe``          what it asks
10. ``backpressure``  samples of the store become refusals
"""
