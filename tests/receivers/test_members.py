"""wsgi.receivers.members: what is at a path, and what is left when it is taken out."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi.receivers.members import drop, find, take_text


@pytest.mark.parametrize(
    ("record", "path", "found", "left"),
    [
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1, {"a": {"b": 2}}),
        ({"a": {"b": 2, "c": 3}}, "a.b", 2, {"a": {"c": 3}}),
        ({"a": {"b": {"c": 1}}, "d": 0}, "a.b.c", 1, {"d": 0}),
        ({"k": {"labels": {"app.io/name": "x", "y": 1}}}, "k.labels.app.io/name", "x", {"k": {"labels": {"y": 1}}}),
        ({"a.b": {"c": 1}}, "a.b.c", None, {"a.b": {"c": 1}}),
        ({"a": {"": 1}}, "a.", 1, {}),
        ({"a": 1}, "a.b", None, {"a": 1}),
        ({"a": None}, "b", None, {"a": None}),
    ],
)
def test_a_path_is_one_name_or_the_name_of_an_object_and_the_rest(
    record: dict[str, Any], path: str, found: Any, left: dict[str, Any]
) -> None:
    assert find(record, path) == found
    assert drop(record, path) == (found is not None)
    assert record == left


def test_a_look_up_takes_a_step_a_dot_however_many_ways_there_are_to_split_it() -> None:
    dots = 60
    record: dict[str, Any] = {}
    for _ in range(dots):
        record = {".".join("a" * count): record for count in range(1, 8)}
    path = "a." * dots + "x"  # two to the power of 60 ways
    assert find(record, path) is None
    assert not drop(record, path)
    assert take_text(record, (path,) * 8) == ""
