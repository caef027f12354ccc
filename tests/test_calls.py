import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.calls import LONGEST, format_call, parse_call
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


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a(b={[]})",
            "a(b=" + "-" * 1_900 + "3)",
            "a(b=" + "(" * 900 + "3" + ")" * 900 + ")",
            "a(b=" + "[" * 1_900,
        ),
        *(
            "a(b=" + "c-" * 900 + "d)",
            "a" + ".a" * 900,
            "a\0",
            "a(b='\0')",
            "\ud800",
            "a(b='\ud800')",
            "a(b=1" + "0" * 1_900,
        ),
        *(
            "a(b=1e999)",
            "a(b=-1e999)",
            "a(b=1j)",
            "a(b=b'1')",
            "a(b=...)",
            "a(b={1})",
            "a(b=[1e999])",
            "a(b=9223372036854775808)",
        ),
        *("a(b=f'{1}')", "lambda: 0", "a:=1", "1if 1else 2", "a(b='\\d'", "a\nb", "await a", "a(b=1)(c=2)"),
    ],
)
def test_what_python_cannot_read_and_what_no_store_can_keep_is_rejected_too(text):
    with pytest.raises(UsageError, match=r"cannot read|cannot be a value") as raised:
        parse_call(text)
    assert len(str(raised.value)) < 400
    assert str(raised.value).isprintable()


def test_a_text_of_any_length_is_rejected_at_once():
    for text in ("-" * 10**6, "a(b=" + "(" * 10**6, "a(b=" + "9" * 10**6 + ")", "x" * (LONGEST + 1)):
        with pytest.raises(UsageError, match="at most 2,000 are allowed"):
            parse_call(text)


def test_the_values_of_a_call_belong_to_who_reads_it():
    parse_call("a(b=[1])")[1]["b"].append(2)
    assert parse_call("a(b=[1])")[1] == {"b": [1]}


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
PLAIN |= st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3)
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=4))
def test_whatever_is_written_is_read_back_as_it_was(values):
    assert parse_call(format_call("name", values)) == ("name", values)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.text("ab(){}[]=,-+.'\"\\:19ef \n\0\ud800é", max_size=60))
def test_any_text_is_a_call_or_rejected(text):
    try:
        name, values = parse_call(text)
    except UsageError:
        return
    assert parse_call(format_call(name, values)) == (name, values)
