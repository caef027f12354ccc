from inspect import Parameter
from typing import Annotated, Literal

import pytest
from pydantic import Field

from bench.errors import UsageError
from bench.parameters import describe
from bench.plugins import defenses


def test_an_unknown_parameter_brings_the_nearest():
    with pytest.raises(UsageError, match="'rounded' has no parameter 'decimal'; did you mean 'decimals'"):
        defenses.build("rounded(decimal=1)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounded(decimals=0)", r"decimals=0; integer in \[1, 15\] is allowed"),
        ("rounded(decimals=1.5)", r"decimals=1.5"),
        ("rounded(decimals=true)", r"decimals=True"),
        ("mahalanobis(fpr=0.9)", r"fpr=0.9; number in \(0, 0.5\] is allowed"),
        ("mahalanobis(action=explode)", r"action='explode'; one of noise, label_only, refuse is allowed"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(text, message):
    with pytest.raises(UsageError, match=message):
        defenses.build(text)


def test_values_that_fit_are_shown_in_words():
    def words(annotation):
        return describe(Parameter("p", Parameter.KEYWORD_ONLY, annotation=annotation))

    assert words(Annotated[int, Field(ge=1)]) == "integer in [1, inf)"
    assert words(Literal["a", "b"]) == "one of a, b"
    assert words(bool) == "boolean"
