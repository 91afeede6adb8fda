"""The stream's contract, which the server and the consumers share (docs/protocol.md).

``record``     one record and its line; ``limits`` its bounds, ``timestamp`` and ``faults`` what can be wrong with it
``entry``      the fields of an entry; ``keys`` every store key
``place``      where the store is; ``client`` a blocking connection to it
``retention``  what may be trimmed; ``keeper`` trimming it
``errors``     the shared exceptions
"""
