"""Texts of labels, and what the entries of a stream share."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlet.stream.limits import RecordLimits
from wsgi.receivers import loki_labels
from wsgi.receivers.loki_labels import LABELS, SERVICE_LABELS, TENANT, TEXT_CHARS_MAX, Shared, Sharing, parse, put

MAX = 129
ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


def shared(text: str, tenant: str = "", limits: RecordLimits | None = None) -> Shared:
    return Sharing(limits or RecordLimits()).of_text(text, tenant)


def quoted(value: str) -> str:
    """As ``strconv.Quote`` of Go writes it, in one of its spellings."""
    return '"' + "".join({**ESCAPES, '"': '\\"'}.get(char, char) for char in value) + '"'


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{}", {}),
        (" { } ", {}),
        ('{job="api"}', {"job": "api"}),
        ('{job="api", pod="api-1",host="h"}', {"job": "api", "pod": "api-1", "host": "h"}),
        ('{ a = "1" , }', {"a": "1"}),
        (r'{a="say \"hi\"", b="c"}', {"a": 'say "hi"', "b": "c"}),
        ("{a=`raw \\n`}", {"a": "raw \\n"}),
        ('{"service.name"="x", "a\\"b"="y"}', {"service.name": "x", 'a"b': "y"}),
        (r'{a="\x41\101\u00e9\U0001F600\n\\"}', {"a": "AA\u00e9\U0001f600\n\\"}),
        (r'{a="\xc3\xa9"}', {"a": "\u00e9"}),
        (r'{a="\xff\ud800\UFFFFFFFF\udc80"}', {"a": "\ufffd" * 4}),
        (r'{a="\\x41\\\x41\377\303\251\\"}', {"a": "\\x41\\A\ufffd\u00e9\\"}),
        (r'{a="\x4\u12\9\"}' + '"}', {"a": "\\x4\\u12\\9" + '"}'}),
        ('{a="\ud800\\\\\udc80\\x41"}', {"a": "\ufffd\\\ufffdA"}),
        (r'{path="C:\Users\q"}', {"path": r"C:\Users\q"}),
        ('{a="\u6f22, } {"}', {"a": "\u6f22, } {"}),
        ('{a="1",a="2",a="3","a#2"="4"}', {"a": "1", "a#2": "2", "a#3": "3", "a#2#2": "4"}),
    ],
)
def test_labels_are_read_as_go_writes_them(text: str, labels: dict[str, str]) -> None:
    assert parse(text, MAX) == labels


@pytest.mark.parametrize(
    "text",
    ["job", "{", "}", '{a="1"', 'a="1"', "{a=1}", '{a"1"}', '{="1"}', '{a="1" b="2"}', '{a="1}', "{a=`1}", '{1a=""}']
)  # fmt: skip
def test_other_texts_become_metadata_as_they_are(text: str) -> None:
    assert parse(text, MAX) is None
    assert shared(text)[:2] == ("", {LABELS: text})


@given(st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,9}", fullmatch=True), st.text(max_size=20), max_size=9))
def test_what_a_client_writes_comes_back(labels: dict[str, str]) -> None:
    labels = {name: value.encode(errors="replace").decode() for name, value in labels.items()}
    text = "{" + ", ".join(f"{name}={quoted(value)}" for name, value in labels.items()) + "}"
    assert parse(text, MAX) == labels


@given(st.text(alphabet=st.sampled_from('{}="`,\\ab x\n'), max_size=40))
def test_no_text_raises(text: str) -> None:
    found = parse("{" + text + "}", MAX)
    assert found is None or all(type(value) is str for value in found.values())


@given(st.text(alphabet=st.sampled_from("\\\\\\xuU0417aDnq\"'e\u00e9"), max_size=30))
def test_escapes_are_read_from_left_to_right(text: str) -> None:
    one = re.compile(rb"\\(?:[abfnrtv\\\"']|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[0-7]{3})")

    def char(found: re.Match[bytes]) -> bytes:
        escape = found[0].decode()[1:]
        if escape[0] in "01234567":
            return bytes((int(escape, 8) & 255,))
        if escape[0] == "x":
            return bytes((int(escape[1:], 16),))
        if escape[0] in "uU":
            point = int(escape[1:], 16)
            return (chr(point) if point < 0xD800 or 0xE000 <= point < 0x110000 else "\ufffd").encode()
        return dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))[escape].encode()

    assert loki_labels.unquote(text) == one.sub(char, text.encode()).decode(errors="replace")


@given(st.binary(max_size=30))
def test_escapes_never_raise(value: bytes) -> None:
    loki_labels.unquote(value.decode("latin-1") + "\\")


def test_the_first_label_of_the_order_that_is_not_empty_names_the_service() -> None:
    for at, name in enumerate(SERVICE_LABELS):
        later = "".join(f', {other}="no"' for other in SERVICE_LABELS[at + 1 :])
        earlier = "".join(f', {other}=""' for other in SERVICE_LABELS[:at])
        assert shared('{x="y", ' + f'{name}="yes"{later}{earlier}}}').service == "yes"
    assert shared('{x="y"}').service == ""


def test_a_label_that_is_only_the_service_is_no_metadata_and_all_others_are() -> None:
    assert shared('{service_name="a", job="b"}')[:2] == ("a", {"job": "b"})
    assert shared('{service="a", job="b"}')[:2] == ("a", {"job": "b"})
    assert shared('{container="a", job="b"}')[:2] == ("a", {"container": "a", "job": "b"})
    assert shared('{service_name="a", service="b"}')[:2] == ("a", {"service": "b"})


def test_the_tenant_keeps_its_name_beside_a_label_of_that_name() -> None:
    assert shared('{"loki.tenant"="forged"}', "real").metadata == {TENANT: "real", f"{TENANT}#2": "forged"}


def test_structured_metadata_gives_way_to_a_label_of_its_name() -> None:
    of = shared('{pod="label"}')
    metadata = of.metadata.copy()
    put(metadata, of, "pod", "own")
    put(metadata, of, "trace", "first")
    put(metadata, of, "trace", "last")
    assert metadata == {"pod": "label", "structured_metadata.pod": "own", "trace": "last"}


def test_no_more_labels_are_read_than_show_that_there_are_too_many() -> None:
    limits = RecordLimits(metadata_pairs_max=3)
    for count, read in ((2, 2), (3, 3), (4, 4), (5, 4), (10_000, 4)):
        text = "{" + ",".join(f'a{at}=""' for at in range(count)) + "}"
        if len(text) <= TEXT_CHARS_MAX:
            assert len(shared(text, limits=limits).metadata) == read
        labels = {f"a{at}": {"x": 1, "y": 2} for at in range(count)}
        assert len(Sharing(limits).of_labels(labels, "t").metadata) == 4


def test_a_text_of_labels_at_the_bound_is_read_and_one_past_it_is_kept_as_it_is() -> None:
    filler = TEXT_CHARS_MAX - len('{a=""}')
    at, past = '{a="%s"}' % ("x" * filler), '{a="%s"}' % ("x" * (filler + 1))
    # Cut to one more than a value may have, so that it is marked as cut.
    assert shared(past).metadata == {LABELS: past[:16_385]}
    assert shared(at).metadata == {"a": "x" * 16_385}


def test_labels_in_json_are_flattened() -> None:
    of = Sharing(RecordLimits()).of_labels({"a": 1, "b": {"c": True}, "d": None, "job": 5}, "")
    assert of[:2] == ("", {"a": "1", "b.c": "true", "d": "null", "job": "5"})


def test_remembered_labels_do_not_mix_tenants() -> None:
    sharing = Sharing(RecordLimits())
    assert sharing.of_text("{}", "a") != sharing.of_text("{}", "b")
    assert sharing.of_text("{}", "a") is sharing.of_text("{}", "a")
    long = '{a="%s"}' % ("x" * loki_labels.REMEMBERED_CHARS_MAX)
    assert sharing.of_text(long, "") is not sharing.of_text(long, "")


def test_weight_is_characters_and_pairs() -> None:
    assert shared('{ab="cde"}').weight == 5 + loki_labels.PAIR_WEIGHT
