"""Argument checks: good values come back converted, bad ones are named with what was wanted."""

import numpy as np
import pytest
import torch

from inference import _checks


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (_checks.check_positive, 3, 3.0),
        (_checks.check_positive, np.float32(0.5), 0.5),
        (_checks.check_nonnegative, 0, 0.0),
        (_checks.check_fraction, 1, 1.0),
        (_checks.check_fraction, 0.25, 0.25),
    ],
)
def test_numbers_come_back_as_floats(check, value, expected):
    found = check("step_size", value)
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (_checks.check_positive, 0),
        (_checks.check_positive, -1.0),
        (_checks.check_positive, float("inf")),
        (_checks.check_positive, float("nan")),
        (_checks.check_nonnegative, -1e-300),
        (_checks.check_nonnegative, float("inf")),
        (_checks.check_nonnegative, float("nan")),
        (_checks.check_fraction, 1.5),
        (_checks.check_fraction, -0.1),
        (_checks.check_fraction, float("nan")),
    ],
)
def test_numbers_out_of_range_are_named_with_their_value(check, value):
    with pytest.raises(ValueError, match=r"`step_size` must .*; got ") as error:
        check("step_size", value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("edge", [0, 1])
def test_an_open_fraction_excludes_its_ends(edge):
    assert _checks.check_fraction("a", edge) == edge
    with pytest.raises(ValueError, match=r"`a` must lie in \(0, 1\)"):
        _checks.check_fraction("a", edge, closed=False)


@pytest.mark.parametrize("value", [True, "1", None, [1.0], 1j])
@pytest.mark.parametrize(
    "check", [_checks.check_positive, _checks.check_nonnegative, _checks.check_fraction]
)
def test_what_is_not_a_number_is_a_type_error(check, value):
    with pytest.raises(TypeError, match="`step_size` must be a number; got"):
        check("step_size", value)


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2)])
def test_integers_of_any_kind_come_back_as_int(value):
    assert type(_checks.check_integer("thin", value, 2)) is int


@pytest.mark.parametrize("value", [2.0, True, np.bool_(1), "2", None, np.float64(2)])
def test_what_is_not_an_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match="`thin` must be an integer; got"):
        _checks.check_integer("thin", value, 0)


def test_a_small_integer_is_told_the_minimum():
    with pytest.raises(ValueError, match="`thin` must be at least 1; got 0"):
        _checks.check_integer("thin", 0, 1)


def test_a_choice_is_returned_or_the_nearest_one_suggested():
    assert _checks.check_choice("method", "nuts", ("hmc", "nuts")) == "nuts"
    with pytest.raises(ValueError, match=r"one of \['hmc', 'nuts'\]; got 'nuds'") as error:
        _checks.check_choice("method", "nuds", ("nuts", "hmc"))
    assert str(error.value).endswith("Did you mean 'nuts'?")
    with pytest.raises(ValueError, match="got 'gibbs'") as error:
        _checks.check_choice("method", "gibbs", ("nuts", "hmc"))
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("value", [None, 3, ["nuts"]])
def test_a_choice_of_another_type_is_a_value_error(value):
    with pytest.raises(ValueError, match="`method` must be one of"):
        _checks.check_choice("method", value, ("nuts", "hmc"))


def test_unknown_options_are_listed_beside_the_known():
    _checks.check_options("method 'sghmc'", {"step_size": 1}, ["step_size", "friction"])
    with pytest.raises(
        TypeError, match=r"no option `stepsize`; it takes \['friction'"
    ) as error:
        _checks.check_options("method 'sghmc'", {"stepsize": 1}, ["step_size", "friction"])
    assert "Did you mean `step_size`?" in str(error.value)


def test_finite_tensors_and_integers_pass_unchanged():
    for tensor in (torch.ones(2), torch.arange(3), torch.tensor([True]), torch.empty(0)):
        assert _checks.check_finite("data", tensor) is tensor


def test_non_finite_values_are_counted_and_the_first_is_located():
    tensor = torch.zeros(4, 3)
    tensor[2, 1], tensor[3, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 non-finite values \(first: nan at index \(2, 1\)"):
        _checks.check_finite("data", tensor)
    with pytest.raises(ValueError, match=r"1 non-finite value \(first: -inf at index \(\)\)"):
        _checks.check_finite("data", torch.tensor(-torch.inf))
