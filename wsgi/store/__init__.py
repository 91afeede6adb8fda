"""The embedded store, and the thread that keeps the stream within its retention bounds.

Read in this order:

1. ``embedded``    the store on INLET_DATA_DIR: start, stop, and who may use the directory
2. ``supervisor``  starts again what has ended
3. ``locks``       the two locks in the directory
4. ``server``      valkey-server: its command line, its inline commands, waiting until it is ready
5. ``aof``         the append-only files, and whether the store can find its way in them
6. ``logfile``     valkey.log: rotated, and read for what happened at a start
7. ``disk``        disk space set aside, in a worker, so that the store never meets a full disk
8. ``syncing``     the process that fsyncs the files (``sync_loop``): started, watched, reported on
9. ``keeper``      the retention keeper's thread in a worker; for any store, not only the embedded one
10. ``errors``     what start-up reports
"""
