"""Field names of one stream entry (docs/protocol.md), for the sink that writes it and the consumers that read it.

What lives here: the names. What must not: the layout of a line (``inlet.stream.record``), decoding.

    r   the records' lines, joined by b"\\n"
    n   the number of lines, in decimal
"""

from __future__ import annotations

FIELD_RECORDS = b"r"
"""The field that holds the lines."""
FIELD_COUNT = b"n"
"""The field that holds the number of lines: a reader tells a cut-off entry by it."""
