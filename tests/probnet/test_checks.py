"""Argument checks: what passes comes back unchanged, what does not is named."""

import numpy as np
import pytest
import torch

from probnet import _checks


def test_tensors_keep_gradient_and_other_numbers_become_float64():
    x = torch.ones(2, dtype=torch.float32, requires_grad=True)
    _checks.as_tensor("x", x).sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert _checks.as_tensor("x", [True, False]).tolist() == [1, 0]
    assert _checks.as_array("x", torch.ones(2, dtype=torch.bfloat16)).dtype == np.float64


def test_a_read_only_array_is_copied_without_a_warning():
    values = np.ones(3)
    values.flags.writeable = False
    copied = _checks.as_tensor("x", values)
    copied[0] = 2
    assert values[0] == 1


@pytest.mark.parametrize(
    "values", [np.array(["a"]), np.array([1j]), torch.tensor([1j]), np.array([None])]
)
@pytest.mark.parametrize("convert", [_checks.as_tensor, _checks.as_array])
def test_values_that_are_not_real_numbers_are_refused(convert, values):
    with pytest.raises(TypeError, match="`x` must hold real numbers"):
        convert("x", values)


@pytest.mark.parametrize(
    ("got", "expected", "hint"),
    [
        ((2, 3), (3, 2), "`y.T`"),
        ((5, 1), (5,), "`y.squeeze(-1)`"),
        ((5,), (5, 1), "`y[..., None]`"),
        ((4,), (5,), ""),
    ],
)
def test_wrong_shapes_are_named_with_the_likely_remedy(got, expected, hint):
    with pytest.raises(ValueError, match="`y` must have shape") as error:
        _checks.check_shape("y", got, expected, "one value per case")
    assert hint in str(error.value)
    assert (not hint) == ("Did you mean" not in str(error.value))


def test_a_good_table_comes_back_in_float64():
    x, y = _checks.check_table(np.ones((3, 2), dtype=np.float32), [1, 2, 3])
    assert x.dtype == y.dtype == torch.float64
    assert x.shape == (3, 2)
    assert _checks.check_table(x, y[:, None])[1].shape == (3, 1)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(3), torch.ones(3), r"`x` must have shape \(n, d\).*`x\[:, None\]`"),
        (torch.ones(3, 2), torch.ones(4), "3 rows in `x` and 4 in `y`"),
        (torch.ones(3, 2), torch.tensor(1.0), r"`y` must have shape \(n,\) or \(n, m\)"),
        (torch.ones(0, 2), torch.ones(0), "`x` must not be empty"),
        (torch.tensor([[1.0], [np.nan], [np.inf]]), torch.ones(3), r"`x` holds 2 .*\(1, 0\)"),
        (torch.ones(2, 1), torch.tensor([1.0, np.nan]), r"`y` holds 1 .*\(1,\)"),
    ],
)
def test_a_bad_table_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        _checks.check_table(x, y)


def test_the_number_of_columns_can_be_fixed():
    assert _checks.check_matrix("x", torch.ones(2, 3), 3).shape == (2, 3)
    with pytest.raises(ValueError, match="`x` must have 4 columns"):
        _checks.check_matrix("x", torch.ones(2, 3), 4)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_value_that_is_not_positive_is_located(bad):
    good = np.array([1.0, 2.0])
    assert _checks.check_all_positive("sd", good) is good
    with pytest.raises(ValueError, match=r"`sd` must be .* 1 of 2 .*\(1,\)"):
        _checks.check_all_positive("sd", np.array([1.0, bad]))


def test_a_vector_of_probabilities_is_that_of_class_one():
    p = _checks.check_class_probabilities("p", [0.2, 0.9])
    np.testing.assert_allclose(p, [[0.8, 0.2], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (np.ones((1, 2, 2)) / 2, r"`p` must have shape \(n, C\)"),
        (np.ones((0, 2)), "shape"),
        ([[1.5, -0.5]], "softmax"),
        ([[np.nan, 0.5]], "softmax"),
        ([[0.5, 0.5], [0.5, 0.6]], "row 1 sums to 1.1"),
    ],
)
def test_bad_probabilities_are_refused(p, message):
    with pytest.raises(ValueError, match=message):
        _checks.check_class_probabilities("p", p)


@pytest.mark.parametrize("bad", [[0, 3], [-1, 0], [0.5, 1], [np.nan, 0], [[0, 1], [1, 0]]])
def test_bad_labels_are_refused(bad):
    with pytest.raises(ValueError, match="`labels` must"):
        _checks.check_labels("labels", bad, 3)


def test_labels_become_integers():
    assert _checks.check_labels("labels", torch.tensor([2.0, 0.0]), 3).tolist() == [2, 0]


@pytest.mark.parametrize("bad", [0.0, 1.0, 95.0])
def test_a_level_outside_the_unit_interval_is_named(bad):
    assert _checks.check_levels("levels", [0.5]) == [0.5]
    with pytest.raises(ValueError, match=r"`levels\[1\]`"):
        _checks.check_levels("levels", [0.5, bad])
