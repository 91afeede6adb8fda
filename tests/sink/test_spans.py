"""wsgi.sink.spans: lines in, runs of lines out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsgi.sink.spans import spans


@pytest.mark.parametrize(
    ("sizes", "starts", "bytes_max", "expected"),
    [
        ([4, 4], [0], 9, [(0, 2)]),  # 4 + 1 + 4 bytes: at the bound
        ([4, 4], [0], 8, [(0, 1), (1, 2)]),  # one past it
        ([4, 4], [0, 1], 9, [(0, 2)]),
        ([4, 4], [0, 1], 8, [(0, 1), (1, 2)]),
        ([2, 2, 2], [0, 1], 5, [(0, 1), (1, 3)]),  # the second request is not spread over two
        ([2, 2, 2, 2], [0, 3], 5, [(0, 2), (2, 4)]),  # the rest of a split one takes others along
        ([9], [0], 4, [(0, 1)]),  # a line over the bound is a run of its own
        ([9, 1, 9], [0, 1], 4, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_batch_is_split_between_requests_where_it_can_be(
    sizes: list[int], starts: list[int], bytes_max: int, expected: list[tuple[int, int]]
) -> None:
    assert spans([b"x" * size for size in sizes], starts, bytes_max) == expected


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(12, 40))
def test_every_line_is_in_one_run_in_order_and_within_the_bound(requests: list[list[int]], bytes_max: int) -> None:
    lines = [b"x" * size for request in requests for size in request]
    starts, count = [], 0
    for request in requests:
        starts.append(count)
        count += len(request)
    found = spans(lines, starts, bytes_max)
    assert [line for start, stop in found for line in range(start, stop)] == list(range(len(lines)))
    assert all(len(b"\n".join(lines[start:stop])) <= bytes_max for start, stop in found)
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        if len(b"\n".join(lines[start:stop])) <= bytes_max:
            assert any(a <= start and stop <= b for a, b in found)
