import pytest

from bench.calls import format_call, parse_call
from bench.errors import UsageError


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("none", ("none", {})),
        ("a()", ("a", {})),
        ("a(b=1, c=0.5)", ("a", {"b": 1, "c": 0.5})),
        ("a(b=true, c=False)", ("a", {"b": True, "c": False})),
        ("a(b=refuse, c='x y')", ("a", {"b": "refuse", "c": "x y"})),
        ("a(b=-1)", ("a", {"b": -1})),
    ],
)
def test_a_call_is_read_as_name_and_values(text, parsed):
    assert parse_call(text) == parsed


@pytest.mark.parametrize("text", ["", "a(", "a(1)", "a(**b)", "a.b(c=1)", "a(b=c.d)", "a(b=f())", "1"])
def test_anything_else_is_rejected(text):
    with pytest.raises(UsageError, match="cannot read"):
        parse_call(text)


@pytest.mark.parametrize(
    "text", ["none", "a(b=1, c=0.5)", "a(b=true)", "a(b=label-only)", "a(b=-1)", "a(b=None, c=[1, 2])"]
)
def test_a_call_is_written_as_it_was_read(text):
    assert format_call(*parse_call(text)) == text
