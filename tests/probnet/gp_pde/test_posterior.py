"""What a posterior does: laws, samples, derivatives, files, exports."""

import pytest
import torch

import probnet
from probnet.gp_pde import SpectralGPSolver
from probnet.pde import Dirichlet

X = {
    dim: torch.rand(7, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for dim in (1, 2)
}


@pytest.fixture(params=[1, 2])
def fitted(request, problem):
    dim = request.param
    pde, u = problem(dim)
    return dim, SpectralGPSolver(grid=40 if dim == 1 else 20).fit(pde, Dirichlet(u)), u


def test_conveniences_agree_with_the_law(fitted):
    dim, posterior, _ = fitted
    x, law = X[dim], posterior.predict(X[dim])
    torch.testing.assert_close(posterior.mean(x), law.mean)
    torch.testing.assert_close(posterior.sd(x), law.stddev)
    assert bool((law.stddev > 0).all())
    joint = posterior.predict(x, joint=True)
    torch.testing.assert_close(joint.mean, law.mean)
    torch.testing.assert_close(joint.stddev, law.stddev, rtol=1e-2, atol=0)
    assert joint.log_prob(law.mean).shape == ()


def test_samples_have_the_mean_and_spread_of_the_law(fitted):
    dim, posterior, _ = fitted
    draws = posterior.sample(2000, X[dim], seed=1)
    law = posterior.predict(X[dim])
    z = (draws.mean(0) - law.mean) / law.stddev
    assert float(z.abs().max()) < 5 / 2000**0.5 * 1.1
    torch.testing.assert_close(draws.std(0), law.stddev, rtol=0.1, atol=0)
    assert torch.equal(draws, posterior.sample(2000, X[dim], seed=1))


def test_derivatives_are_those_of_the_mean(fitted):
    dim, posterior, _ = fitted
    unit = torch.eye(dim).double()[0]
    step = 1e-4
    up, down = (posterior.mean(X[dim] * 0.8 + 0.1 + s * step * unit) for s in (1, -1))
    order = (1,) if dim == 1 else (1, 0)
    found = posterior.derivative(X[dim] * 0.8 + 0.1, order)
    torch.testing.assert_close(found, (up - down) / (2 * step), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_exact_covariance_is_symmetric_and_positive(problem, dim):
    pde, u = problem(dim)
    posterior = SpectralGPSolver(grid=12, smoothness=2.5).fit(pde, Dirichlet(u))
    found = posterior.covariance(X[dim])
    torch.testing.assert_close(found, found.mT)
    assert float(torch.linalg.eigvalsh(found)[0]) > -1e-6 * float(found.diagonal().max())


def test_files_bring_back_the_same_posterior(fitted, tmp_path):
    dim, posterior, _ = fitted
    posterior.save(tmp_path / "u.posterior")
    loaded = probnet.load(tmp_path / "u.posterior")
    assert torch.equal(loaded.mean(X[dim]), posterior.mean(X[dim]))
    assert torch.equal(loaded.sd(X[dim]), posterior.sd(X[dim]))
    assert loaded.diagnostics == posterior.diagnostics


def test_exports_name_their_axes(fitted):
    dim, posterior, _ = fitted
    tree = posterior.to_datatree(X[dim])
    assert tree["predictions"]["u"].dims == ("chain", "draw", "point")
    assert tree["observed_data"]["f"].dims == ("x", "y")[:dim]
    assert float(tree["sample_stats"]["kappa"].squeeze()) == posterior.scale
    assert "frequency_x" in tree["posterior"]
    assert tree.attrs["draws"] == "independent"
    if dim == 1:
        assert tree["log_likelihood"]["rows"].sizes["row"] == 42
    posterior.to_arviz(X[dim])


def test_spectrum_and_kernels_are_the_prior(fitted):
    dim, posterior, _ = fitted
    assert len(posterior.spectrum()) == len(posterior.kernels) == dim
    prior, kernel = posterior.spectrum()[0], posterior.kernels[0]
    lag = torch.tensor([[0.0], [0.3]]).double()
    torch.testing.assert_close(
        kernel(lag).to_dense()[0], prior.derivatives(lag[:, 0], 0)[0], rtol=1e-6, atol=1e-12
    )
    assert posterior.log_evidence == -posterior.diagnostics["nll"]


def test_points_outside_are_refused(fitted):
    dim, posterior, _ = fitted
    with pytest.raises(ValueError, match="must lie in the domain"):
        posterior.mean(torch.full((1, dim), 1.5))
    with pytest.raises(ValueError, match="one column per axis"):
        posterior.mean(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="`order` must hold"):
        posterior.derivative(X[dim], (1, 1, 1))
