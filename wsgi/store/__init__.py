"""The embedded store, and the thread that keeps the stream within its retention bounds.

Read in this order:

1. ``embedded``  the store on INLET_DATA_DIR: start, stop, and who may use the directory
2. ``locks``     the two locks in the directory
3. ``server``    valkey-server: its command line, its inline commands, waiting until it is ready
4. ``keeper``    the retention keeper's thread in a worker; for any store, not only the embedded one
5. ``errors``    what start-up reports
"""
