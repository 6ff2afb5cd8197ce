"""Equations: evaluation, derivatives, manufactured sources, and bad input."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from probnet.pde import PDE, Unknown, apply_operator, manufactured
from probnet.pde.problem import nonlinear_part

X = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)


def test_terms_and_source_take_numbers_arrays_and_functions():
    pde = PDE.linear([(0, 1)], {(2,): 2.0, 1: X, (0,): np.sin}, source=lambda x: 1.0)
    found = pde.coefficients([X])
    torch.testing.assert_close(found[(2,)], torch.full_like(X, 2.0))
    torch.testing.assert_close(found[(1,)], X)
    torch.testing.assert_close(found[(0,)], torch.sin(X))
    torch.testing.assert_close(pde.source_values([X]), torch.ones_like(X))
    assert pde.order == 2


def test_vanishing_terms_are_left_out():
    pde = PDE.linear([(0, 1)], {(2,): 1.0, (0,): 0.0}, source=0.0)
    assert list(pde.coefficients([X])) == [(2,)]


def test_functions_in_numpy_alone_are_called_with_arrays():
    pde = PDE.linear([(0, 1)], {(2,): 1.0}, source=lambda x: np.interp(x, [0, 1], [0, 2]))
    torch.testing.assert_close(pde.source_values([X]), 2 * X)


def test_manufactured_source_is_the_operator_of_the_solution():
    """(1 + x²) u_xx + 2 u_y + u_xy + u³ for u = x² y³, by hand."""
    terms = {(2, 0): lambda x, y: 1 + x**2, (0, 1): 2.0, (1, 1): 1.0}
    pde = PDE.semilinear([(0, 1), (0, 1)], terms, lambda u: u**3, source=0.0)
    x, y = X, X.flip(0)
    made = manufactured(pde, lambda x, y: x**2 * y**3)
    expected = (1 + x**2) * 2 * y**3 + 6 * x**2 * y**2 + 6 * x * y**2 + x**6 * y**9
    torch.testing.assert_close(made.source_values([x, y]), expected)


def test_divergence_form_differentiates_the_diffusion():
    pde = PDE.divergence_form([(0, 1)], torch.exp, source=0.0, reaction=-1.0)
    found = apply_operator(pde, lambda x: x**2, X)
    torch.testing.assert_close(found, torch.exp(X) * (2 + 2 * X) - X**2)


def test_nonlinear_part_gives_value_and_slope():
    pde = PDE.semilinear([(0, 1)], {(2,): 1.0}, lambda u: u**3 - u, source=0.0)
    value, slope = nonlinear_part(pde, X)
    torch.testing.assert_close(value, X**3 - X)
    torch.testing.assert_close(slope, 3 * X**2 - 1)


def test_unknowns_multiply_what_they_are_given():
    beta = Unknown("beta", Normal(0.0, 1.0), times=lambda x: x)
    pde = PDE.linear([(0, 1)], {(2,): beta}, source=beta)
    assert list(pde.unknowns) == ["beta"]
    found = pde.coefficients([X], {"beta": torch.tensor(3.0)})
    torch.testing.assert_close(found[(2,)], 3 * X)
    with pytest.raises(ValueError, match="Unknown 'beta'"):
        pde.coefficients([X])


BAD = {
    "order": ({"terms": {(3,): 1.0}}, "sum at most 2"),
    "axes": ({"terms": {(2, 0): 1.0}}, "keyed by 1 orders"),
    "pointwise": ({"terms": {(0,): 1.0}}, "order zero"),
    "domain": ({"domain": [(1, 0)]}, "low < high"),
    "unbounded": ({"domain": [(0, float("inf"))]}, "finite"),
    "names": ({"axis_names": ("x", "y")}, "axis_names"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_descriptions_are_refused(name):
    change, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        PDE.linear(**{"domain": [(0, 1)], "terms": {(2,): 1.0}, "source": 0.0, **change})


def test_bad_values_name_their_argument():
    def source_of(source):
        return PDE.linear([(0, 1)], {(2,): 1.0}, source=source).source_values([X])

    with pytest.raises(ValueError, match=r"`source` must have shape \(5,\)"):
        source_of(torch.ones(4).double())
    with pytest.raises(ValueError, match="`source` holds 1 non-finite"):
        source_of([0.0, 1.0, float("nan"), 0.0, 0.0])
    with pytest.raises(TypeError, match="function of 1 arrays"):
        source_of(lambda x, y: x)
    with pytest.raises(ValueError, match="nonlinearity"):
        nonlinear_part(PDE.semilinear([(0, 1)], {(2,): 1.0}, torch.sum, 0.0), X)


def test_single_precision_is_not_silent():
    pde = PDE.linear([(0, 1)], {(2,): 1.0}, source=lambda x: torch.sin(x).float())
    with pytest.warns(UserWarning, match="`source` holds float32 values"):
        pde.source_values([X])
