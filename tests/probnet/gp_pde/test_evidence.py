"""The evidence of one axis: value, gradient, fit."""

import math

import pytest
import torch

from probnet.gp_pde.discretisation import discretise
from probnet.gp_pde.evidence import LineEvidence, fit_line, prune
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import covariance
from probnet.pde import Dirichlet

PARAMETERS = torch.tensor([[0.3, -0.5], [-1.0, -0.2], [0.4, 3.0]], dtype=torch.float64)


def prior(flat, smoothness=2.5):
    w, ell, mu = flat
    return AxisPrior(w.exp(), ell.exp(), mu, smoothness)


@pytest.fixture
def rows(problem):
    pde, u = problem()
    found = discretise(pde, Dirichlet(u), (24,))
    return found.rows(torch.zeros(24).double(), found.source)


@pytest.mark.parametrize("noise_var", [0.0, 0.1])
def test_value_is_the_dense_one(rows, noise_var):
    noisy = type(rows)(rows.x, rows.coefficients, rows.values, rows.noise_var + noise_var)
    gram = covariance(noisy, noisy, [prior(PARAMETERS)])
    gram = gram + torch.diag(1e-8 * gram.diagonal() + noise_var)
    quadratic = noisy.values @ torch.linalg.solve(gram, noisy.values)
    log_det = torch.linalg.slogdet(gram).logabsdet
    n = len(noisy)
    expected = 0.5 * (quadratic + log_det)
    if noise_var == 0:
        expected = 0.5 * (n * torch.log(quadratic / n) + log_det)
    nll, amplitude = LineEvidence(noisy, 1e-8)(prior(PARAMETERS))
    assert nll == pytest.approx(float(expected), rel=1e-7)
    assert amplitude == pytest.approx(float(quadratic / n) if noise_var == 0 else 1.0, rel=1e-6)


@pytest.mark.parametrize("noise_var", [0.0, 0.1])
def test_gradient_matches_finite_differences(rows, noise_var):
    noisy = type(rows)(rows.x, rows.coefficients, rows.values, rows.noise_var + noise_var)
    evidence = LineEvidence(noisy, 1e-6)
    leaf = PARAMETERS.clone().requires_grad_()
    evidence.gradient(prior(leaf))
    step = 1e-4
    for index in range(PARAMETERS.numel()):
        shift = torch.zeros_like(PARAMETERS).reshape(-1)
        shift[index] = step
        shift = shift.reshape(PARAMETERS.shape)
        up, down = (evidence(prior(PARAMETERS + s * shift))[0] for s in (1, -1))
        slope = (up - down) / (2 * step)
        found = float(leaf.grad.reshape(-1)[index])
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-5 * float(leaf.grad.abs().max()))


def test_fitting_lowers_the_nll_and_pruning_keeps_it(rows):
    evidence = LineEvidence(rows, 1e-11)
    start = AxisPrior(
        torch.ones(3).double(),
        torch.ones(3).double(),
        torch.tensor([0.0, 20 / (2 * math.pi), 9.0]).double(),
        2.5,
    )
    fitted = fit_line(evidence, start, length=1.0, spacing=1 / 23, max_iter=15)
    assert fitted.nll < evidence(start)[0]
    kept = prune(evidence, fitted)
    assert len(kept.prior.weight) <= len(fitted.prior.weight)
    assert kept.nll < fitted.nll + 0.3


def test_zero_data_leave_the_prior_as_it_is(rows):
    zero = type(rows)(rows.x, rows.coefficients, 0 * rows.values, rows.noise_var)
    nll, amplitude = LineEvidence(zero, 1e-8)(prior(PARAMETERS))
    assert math.isfinite(nll)
    assert amplitude == 1.0
